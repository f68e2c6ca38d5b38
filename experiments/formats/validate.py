"""Whether the runs in a folder are what they say: every file keeps to its schema, the files belong together, and the
figures are those of the rows.

The folder may come from anyone: it may hold anything, and nothing in it is run or changed. Knows the files of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from os.path import lexists  # follows no link, and takes what may not be looked at for absent
from pathlib import Path
from typing import Any

from experiments.formats.again import differences
from experiments.formats.careful import folders, lines, one_object
from experiments.formats.keys import keys
from experiments.formats.schema import problems, shown
from experiments.journal import Row
from experiments.records import TEXT
from experiments.report.results import KEYS, TRIALS
from mtad.errors import UserError

JOURNALS = ("samples", "grades", "prompts", "trace", "energy", "batches", "judge", "teacher", "approximation")
OF_TEXTS = ("grades", "trace", "judge", "approximation")  # a row of them is about a text of samples.jsonl
MOST = 20  # problems of a file that are told; one mistake is often in every row


@dataclass
class Checked:
    """What was found of one run.

    Attributes:
        name: its folder or file, below the place that was asked for.
        summary: content of summary.json; None where there is none that can be read.
        texts: rows of samples.jsonl; None where a summary stands alone.
        problems: what is wrong, a line each.
        notes: what is worth knowing and not wrong.
    """

    name: str
    path: Path
    summary: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    texts: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.problems:
            return "INVALID"
        if self.summary is None:
            return "unfinished"
        return "summary only" if self.texts is None else "valid"


def validate(place: Path) -> tuple[list[Checked], list[str]]:
    """Every run at `place`, a folder or a summary file; what was not looked at. Raises UserError if there is none."""
    if place.is_file():
        return [_alone(place, place.name)], []
    if not place.is_dir():
        raise UserError(f"there is no {place}; name a folder of results, of one run, or a summary file")
    found, notes = folders(place)
    runs = [_run(folder, _name(folder, place)) for folder in found if not _trial(folder, place)]
    if not runs:
        files = [file for file in sorted(place.glob("*.json")) if _may_be_summary(file)]
        runs = [_alone(file, file.name) for file in files]
    if not runs:
        raise UserError(f"there are no runs in {place}: no folder with samples.jsonl or summary.json")
    return runs, notes


def _name(folder: Path, place: Path) -> str:
    relative = folder.relative_to(place).as_posix()
    return relative if relative != "." else folder.resolve().name


def _trial(folder: Path, place: Path) -> bool:
    """Trials of tuning are no results, and have no summary."""
    return folder != place and folder.parent.name.endswith(TRIALS) and not lexists(folder / "summary.json")


def _may_be_summary(file: Path) -> bool:
    value = one_object(file)
    return isinstance(value, dict) and value.keys() >= KEYS


def _alone(file: Path, name: str) -> Checked:
    """A summary without its rows: nothing can be made again."""
    checked = Checked(name, file)
    checked.summary = _object(checked, file, "summary")
    return checked


def _run(folder: Path, name: str) -> Checked:
    checked = Checked(name, folder)
    if lexists(folder / "summary.json"):
        checked.summary = _object(checked, folder / "summary.json", "summary")
    if lexists(folder / "environment.json"):
        checked.environment = _object(checked, folder / "environment.json", "environment") or {}
    else:
        checked.notes.append("there is no environment.json: nothing is known of the machine")
    there = [one for one in JOURNALS if one == "samples" or lexists(folder / f"{one}.jsonl")]
    journals = {one: _journal(checked, folder / f"{one}.jsonl", one) for one in there}
    checked.texts = len(journals["samples"])
    if not checked.problems:
        checked.problems += islice(_together(checked, journals), MOST)
    if not checked.problems and checked.summary:
        checked.problems += _again(checked, journals)
    return checked


def _object(checked: Checked, file: Path, name: str) -> dict[str, Any] | None:
    value = one_object(file)
    if isinstance(value, str):
        checked.problems.append(f"{file.name} {value}")
        return None
    _limited(checked, (f"{file.name}: {line}" for line in problems(name, value)))
    _undescribed(checked, file.name, name, [value])
    return value


def _journal(checked: Checked, file: Path, name: str) -> list[Row]:
    rows: list[Row] = []

    def found() -> Iterator[str]:
        for number, row in lines(file):
            where = f"{file.name} line {number}" if number else file.name
            if row is None and not rows:
                yield f"{file.name} has no whole row"
            elif row is None:
                checked.notes.append(f"{where} is half written and does not count")
            elif isinstance(row, str):
                yield f"{where} {row}"
            else:
                yield from (f"{where}: {line}" for line in problems(name, row))
                rows.append(row)

    _limited(checked, found())
    _undescribed(checked, file.name, name, rows)
    return rows


def _limited(checked: Checked, found: Iterator[str]) -> None:
    """The first MOST of these problems, and how many more there are."""
    checked.problems += islice(found, MOST)
    if more := sum(1 for _ in found):
        checked.problems.append(f"... and {more} more of the same file")


def _undescribed(checked: Checked, file: str, name: str, values: Sequence[object]) -> None:
    """A later version may have added keys: that is no mistake."""
    unknown = sorted({path for value in values for path, known in keys(name, value) if not known})
    if unknown:
        first = ", ".join(shown(path)[1:-1] for path in unknown[:5])
        checked.notes.append(
            f"{file} has keys that this version does not know: {first}{', ...' if unknown[5:] else ''}"
        )


def _together(checked: Checked, journals: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Files that do not belong together."""
    samples, summary = journals["samples"], checked.summary
    ids = Counter(row["run_id"] for rows in journals.values() for row in rows if "run_id" in row)
    ids += Counter(one["run_id"] for one in (summary, checked.environment) if one and "run_id" in one)
    if len(ids) > 1:
        yield f"its files are of different runs: {', '.join(map(shown, sorted(ids)))}"
    texts = Counter(_text(row) for row in samples)
    yield from (f"samples.jsonl has {shown_text(text)} {many} times" for text, many in texts.items() if many > 1)
    for row in samples:
        yield from (f"samples.jsonl, {shown_text(_text(row))}: {line}" for line in _within(row))
    for name in OF_TEXTS:
        strangers = {_text(row) for row in journals.get(name, ())} - texts.keys()
        # Rows of texts that were superseded stay in these files, but each is of a known prompt and variant.
        labels = {row["variant"] for row in samples}
        yield from (f"{name}.jsonl has {shown_text(one)}: no such variant" for one in strangers if one[0] not in labels)
    known = {process["process_id"] for process in checked.environment.get("processes", ())}
    for process in sorted({row["process_id"] for row in samples} - known if checked.environment else ()):
        yield f"environment.json does not know the process {shown(process)} of samples.jsonl"
    if "prompts" in journals:
        prompts = {row["prompt_id"] for row in journals["prompts"]}
        for prompt in sorted({row["prompt_id"] for row in samples} - prompts):
            yield f"prompts.jsonl lacks the prompt {shown(prompt)} of samples.jsonl"
    if summary:
        yield from _counted(summary, samples)
        ungraded = texts.keys() - {_text(row) for row in journals.get("grades", ())}
        yield from (f"grades.jsonl has no row of {shown_text(text)}" for text in sorted(ungraded))


def _text(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in TEXT)


def shown_text(text: tuple[Any, ...]) -> str:
    """A text in words."""
    return f"the text of {', '.join(f'{key} {shown(value)}' for key, value in zip(TEXT[:4], text, strict=False))}"


def _within(row: Row) -> Iterator[str]:
    """What a row says twice, in two ways."""
    for key in ("log_likelihoods", "gaps"):
        if row[key] is not None and len(row[key]) != len(row["token_ids"]):
            yield f"{len(row[key])} {key} of {len(row['token_ids'])} tokens"
    for key in ("drafted", "accepted"):
        if row["counts"][key] != (total := sum(one[key] for one in row["rounds"])):
            yield f"counts.{key} is {row['counts'][key]}, but its rounds have {total}"


def _counted(summary: Mapping[str, Any], samples: Sequence[Row]) -> Iterator[str]:
    """Which variants there are, and how many texts of each."""
    rows = Counter(row["variant"] for row in samples)
    told = {label: figures["rows"] for label, figures in summary["decoders"].items()}
    for label in sorted(rows.keys() | told.keys()):
        if rows.get(label) != told.get(label):
            of = f"of {shown(label)} summary.json counts {told.get(label, 'no')} texts"
            yield f"{of}, and samples.jsonl has {rows.get(label, 'none')}"


def _again(checked: Checked, journals: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Figures that are not those of the rows."""
    assert checked.summary is not None
    if "blocks" not in checked.summary:
        checked.notes.append("its summary is of a first version, and its figures were not made again")
        return
    try:
        found = differences(checked.summary, journals, checked.environment.get("processes", ()))
    except Exception as error:  # files of others may hold numbers for which no figure is defined, in more ways than one
        yield f"the figures cannot be made again from the rows ({type(error).__name__}: {shown(str(error))})"
        return
    yield from (f"summary.json: {line}" for line in found[:MOST])
    if found[MOST:]:
        yield f"... and {len(found) - MOST} more figures"

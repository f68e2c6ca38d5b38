"""Finding what runs have left in a folder, and reading it without changing a byte of it: a run may still be going on.

Knows the files of a run; refuses to know what is made of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.baseline import baseline_of
from experiments.journal import SCHEMA_VERSION, Row, disk
from experiments.stand_in import drawn, replay_mark
from mtad.errors import UserError

KEYS = {"run_id", "model", "task", "decoders", "comparisons", "code_versions"}
TRIALS = "-tuning"  # ends the names of folders of trials, which chose options for others and have no summary
PLACES = {  # where the summary of a variant has a figure that does not lie at its top
    "score": ("score", "value"),
    "draft_acceptance_rate": ("acceptance", "draft_acceptance_rate"),
    "mean_acceptance_length": ("acceptance", "mean_acceptance_length"),
    "joules_per_token": ("energy", "joules_per_token"),
    "joules_per_token_net": ("energy", "joules_per_token_net"),
    "gap_without_last_token": ("approximation", "accepted", "gap"),
    "gap_with_last_token": ("approximation", "emitted", "gap"),
    "gap_bound": ("approximation", "accepted", "bound"),
    "forwards_per_block": ("approximation", "emitted", "forwards"),
}
SMALLEST = 10**9  # parameters of a target that is taken for a real one; the paper's smallest has 8 billion


@dataclass(frozen=True)
class Run:
    """A run that has ended in a summary.

    Attributes:
        name: tells it from the other runs of these results.
        path: its folder; None where only a summary file is there.
        summary: the content of summary.json.
        notes: what is wrong with its files, in a line each.
    """

    name: str
    path: Path | None
    summary: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def stand_in(self) -> str | None:
        """Why its figures say nothing about models of the paper's kind; None if they may."""
        if mark := replay_mark(self.summary.get("replay")):
            return mark
        if random := drawn(self.summary.get("weights")):
            return random
        parameters = (self.summary.get("parameters") or {}).get("target")
        if parameters is None:
            return "a model of unrecorded size"
        return f"a target of {parameters / 1e6:.1f} M parameters" if parameters < SMALLEST else None

    @property
    def baseline(self) -> str:
        """What its variants are compared with."""
        return baseline_of(list(self.summary["decoders"]))

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """The content of environment.json; empty without a folder."""
        return (_json(self.path / "environment.json") if self.path else None) or {}

    @cached_property
    def cost(self) -> Mapping[str, Any]:
        """The cost study that `python -m experiments.cost` has left in its folder; empty without one that is whole."""
        return (_json(self.path / "cost.json") if self.path else None) or {}

    @cached_property
    def processes(self) -> list[Mapping[str, Any]]:
        """The processes that measured, as the environment has them."""
        return list(self.environment.get("processes", []))

    def rows(self, name: str = "samples") -> list[Row]:
        """The whole rows of one of its journals, `<name>.jsonl`; none without a folder."""
        return _lines(self.path / f"{name}.jsonl")[0] if self.path else []


@dataclass(frozen=True)
class Unfinished:
    """A run that has rows and no summary yet."""

    name: str
    path: Path
    texts: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """All runs under a folder, in the order of their names.

    Attributes:
        place: where they were found, as the user named it.
    """

    place: Path
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a reader must know before he compares these runs: each in one line."""
        both: list[Run | Unfinished] = [*self.runs, *self.unfinished]
        found = [f"{run.name}: {note}" for run in both for note in run.notes]
        found += [f"{run.name}: not finished, {run.texts} texts so far; left out" for run in self.unfinished]
        found += mixture(self.runs)
        found += [
            f"MIXED: {run.name} has rows of {len(run.summary['code_versions'])} versions of the code"
            for run in self.runs
            if len(run.summary["code_versions"]) > 1
        ]
        return found


def mixture(runs: Sequence[Run]) -> list[str]:
    """A line, if these runs were not all measured by one version of the code."""
    versions = {version for run in runs for version in run.summary["code_versions"]}
    many = len(runs) > 1 and len(versions) > 1
    return [f"MIXED: these runs were measured by {len(versions)} versions of the code"] if many else []


def read_results(place: Path) -> Results:
    """The runs at `place`: a folder of results, the folder of one run, or a summary file. Raises UserError."""
    if place.is_file():
        return Results(place, (_of_file(place, place.stem),))
    if not place.is_dir():
        raise UserError(f"there is no {place}; name a folder of results, of one run, or a summary file")
    folders = sorted(_folders(place))
    runs: list[Run] = []
    unfinished: list[Unfinished] = []
    for folder in folders:
        found = _of_folder(folder, place)
        if isinstance(found, Run):
            runs.append(found)
        elif found:
            unfinished.append(found)
    if not folders:
        runs = [_of_file(file, file.stem) for file in sorted(place.glob("*.json")) if _is_summary(_json(file))]
    if not runs:
        begun = f"; {len(unfinished)} have begun and not finished" if unfinished else ""
        raise UserError(f"there are no finished runs in {place}{begun}")
    return Results(place, tuple(_short(runs)), tuple(unfinished))


def _folders(place: Path) -> Iterator[Path]:
    """Where runs have left something; links are followed, and no folder counts twice. Raises UserError."""
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}")

    for name, below, files in os.walk(place, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(name)) in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        if not {"samples.jsonl", "summary.json"}.isdisjoint((*below, *files)):
            yield Path(name)


def _short(runs: list[Run]) -> list[Run]:
    """The runs, each by the name of its folder's folder as long as that is of no other one."""
    folders = Counter(run.name.rpartition("/")[0] for run in runs)
    return [
        replace(run, name=folder) if (folder := run.name.rpartition("/")[0]) and folders[folder] == 1 else run
        for run in runs
    ]


def _of_folder(folder: Path, place: Path) -> Run | Unfinished | None:
    """What a run has left; None for trials of tuning, which are no results, and for a run without a row."""
    relative = folder.relative_to(place).as_posix()
    name = relative if relative != "." else f"{folder.resolve().parent.name}/{folder.resolve().name}"
    summary = folder / "summary.json"
    if folder.parent.name.endswith(TRIALS) and folder != place and not summary.exists():
        return None
    rows, note = _lines(folder / "samples.jsonl")
    notes = (note,) if note else ()
    if summary.exists():
        run = _of_file(summary, name)
        return Run(name, folder, run.summary, notes)
    return Unfinished(name, folder, len(rows), notes) if rows or notes else None


def _of_file(file: Path, name: str) -> Run:
    summary = _json(file)
    if not _is_summary(summary):
        raise UserError(f"{file} is no summary of a run; the command of that run, given again, writes it anew")
    assert summary is not None
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{file} has schema_version {summary.get('schema_version')!r}, not {SCHEMA_VERSION}")
    return Run(name, None, summary)


def _is_summary(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() >= KEYS:
        return False
    decoders, lists = value["decoders"], (value["comparisons"], value["code_versions"])
    variants = isinstance(decoders, dict) and decoders and all(isinstance(one, dict) for one in decoders.values())
    return bool(variants) and all(isinstance(one, list) for one in lists)


def _json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is none."""
    try:
        with disk("read", file):
            value = json.loads(file.read_bytes()) if file.exists() else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lines(file: Path) -> tuple[list[Row], str | None]:
    """The whole rows of a journal, and what is wrong with it; nothing is mended. Raises UserError."""
    with disk("read", file):
        content = file.read_bytes() if file.exists() else b""
    *whole, rest = content.split(b"\n")
    rows: list[Row] = []
    for number, line in enumerate(whole, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{file}: line {number} is not a row; delete it, or measure again with fresh=true")
        rows.append(row)
    half = "its last row is half written and does not count; the same command resumes the run"
    return rows, f"{file.name}: {half}" if rest else None

"""The formats of a run's files: schemas and code agree, version 1 is read for ever, and what others send is taken apart
without trust."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import runner
from experiments.formats import careful
from experiments.formats.keys import described, keys
from experiments.formats.schema import NAMES, problems, read_schema
from experiments.formats.validate import MOST, validate
from experiments.report.results import read_results
from scripts.validate import main
from tests.made_rows import with_frontier
from tests.toy import toy_settings

FROZEN = Path(__file__).parent / "fixtures" / "results-v1"
# Made once, by the code of version 1. Every later version must read these very bytes, so they are never made again: a
# reader that fails on them is wrong, not they.
FROZEN_SHA256 = "736540c928939db6cbc60796116c13744331d6c559b4fbf7e772fc1d778c8733"
# Keys of runs on a GPU, of replays, and reasons for what a machine does not tell.
ELSEWHERE = re.compile(r"gpu|_reason$|replay")


def content(file: Path) -> list[Any]:
    text = file.read_text(encoding="utf-8")
    return [json.loads(text)] if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def values(place: Path) -> Iterator[tuple[str, Any]]:
    """What all files hold that have a schema, each with the name of its schema."""
    for file in sorted(place.rglob("*.json*")):
        name = file.name.partition(".")[0]
        if name in NAMES:
            yield from ((name, value) for value in content(file))


def runs() -> list[Path]:
    return sorted(file.parent for file in FROZEN.glob("runs/*/*/summary.json"))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the frozen run that has every file but teacher.jsonl."""
    (run,) = [folder for folder in runs() if "toy" in folder.parent.name]
    return Path(shutil.copytree(run, tmp_path / "results" / "sent"))


def found(folder: Path) -> list[str]:
    (run,), _ = validate(folder)
    return run.problems


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any], row: int = 0) -> None:
    """Change one row of a journal, or the object of a file."""
    rows = content(file)
    change(rows[row])
    if file.suffix == ".json":
        file.write_text(json.dumps(rows[0]), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


# -- version 1 is read for ever ----------------------------------------------------------------------------------------


def test_the_frozen_results_are_those_that_version_1_wrote() -> None:
    files = sorted(file for file in FROZEN.rglob("*") if file.is_file())
    names = [hashlib.sha256(file.read_bytes()).hexdigest() + file.relative_to(FROZEN).as_posix() for file in files]
    together = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert together == FROZEN_SHA256, "never regenerate; see docs/formats.md"


def test_frozen_results_are_valid_with_their_figures_made_again() -> None:
    checked, notes = validate(FROZEN / "runs")
    assert [(run.verdict, run.problems, run.notes) for run in checked] == [("valid", [], [])] * 2 and not notes
    (older,), _ = validate(FROZEN / "older")
    assert (older.verdict, older.problems) == ("summary only", [])


def test_frozen_results_are_read_by_tables() -> None:
    from experiments.report.frames import comparisons_frame, variants_frame
    from experiments.report.tables import tables, to_markdown

    for place in (FROZEN / "runs", FROZEN / "older"):
        results = read_results(place)
        assert len(variants_frame(results)) >= 4 and len(comparisons_frame(results)) >= 4
        assert all(to_markdown(table) for table in tables(results))


@pytest.mark.runs
@pytest.mark.parametrize("place", ["runs", "older"])
def test_frozen_results_are_read_by_plots_and_the_page(place: str) -> None:
    from experiments.report.page import page

    assert 'src="data:image/png' in page(read_results(FROZEN / place))  # the plots are on it


# -- schemas and code agree --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def today(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the code as it is."""
    place = tmp_path_factory.mktemp("today")
    options = ("limit=2", "max_new_tokens=4", "reference=[autoregressive]", "engine=eager", "batch_size=2")
    runner.run(toy_settings(saved_pair, place, *options))
    return place


def test_a_run_of_today_keeps_to_the_schemas(today: Path) -> None:
    (run,), _ = validate(today)
    assert (run.verdict, run.problems, run.notes, run.texts) == ("valid", [], [], 4)
    assert {name for name, _ in values(today)} >= {"samples", "summary", "environment", "trace", "batches", "grades"}


def test_every_key_that_code_writes_is_described_and_every_described_key_is_written(today: Path) -> None:
    seen: dict[str, set[str]] = {name: set() for name in NAMES}
    for name, value in [*values(FROZEN / "runs"), *values(today), ("summary", with_frontier())]:
        for path, known in keys(name, value):
            assert known, f"{name}: {path} is not described"
            seen[name].add(path)
    for name in NAMES:
        missing = {path for path in described(name) - seen[name] if not ELSEWHERE.search(path)}
        assert not missing, f"{name}: {missing} is described, and no run writes it"


def test_every_key_has_a_description() -> None:
    def bare(part: Any, path: str) -> Iterator[str]:
        if isinstance(part, dict):
            for key, inner in part.get("properties", {}).items():
                if "const" not in inner and not inner.get("description"):
                    yield f"{path}.{key}"
            for key, inner in part.items():
                yield from bare(inner, f"{path}.{key}") if key not in ("if", "then") else ()
        elif isinstance(part, list):
            for inner in part:
                yield from bare(inner, path)

    assert [path for name in NAMES for path in bare(read_schema(name), name)] == []


def test_a_number_with_a_unit_in_its_name_has_that_unit() -> None:
    units = {"_seconds": "s", "_bytes": "B", "_watts": "W", "_megahertz": "MHz", "_celsius": "°C", "_hertz": "Hz"}

    def wrong(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for key, inner in part.get("properties", {}).items():
                ends = [unit for end, unit in units.items() if key.endswith(end)]
                if ends and inner.get("unit") != ends[0]:
                    yield key
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from wrong(inner)

    assert [key for name in NAMES for key in wrong(read_schema(name))] == []


def test_keys_that_a_later_version_adds_are_a_note_and_no_problem(copied: Path) -> None:
    rewrite(copied / "samples.jsonl", lambda row: row["rounds"][0].update(tomorrow=1))
    (run,), _ = validate(copied)
    assert run.problems == []
    assert run.notes == ["samples.jsonl has keys that this version does not know: rounds.[].tomorrow"]


# -- what others send --------------------------------------------------------------------------------------------------

LIES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "a type": ("samples.jsonl", lambda r: r.update(token_ids="abc"), 'line 1: token_ids: "abc" is not of type array'),
    "a list": ("samples.jsonl", lambda r: r["token_ids"].append("x"), 'token_ids.6: "x" is not of type integer'),
    "a key": ("samples.jsonl", lambda r: r.pop("finish"), "samples.jsonl line 1: lacks finish"),
    "a version": ("samples.jsonl", lambda r: r.update(schema_version=2), "schema_version: 2 is not 1"),
    "a sign": ("samples.jsonl", lambda r: r["seconds"].update(decode=-1.0), "seconds.decode: -1.0 is less than 0"),
    "no reason": ("samples.jsonl", lambda r: r.update(text=None), "text is null, and text_reason does not say why"),
    "a kind": ("energy.jsonl", lambda r: r.update(kind="hope"), 'kind: "hope" is none of "block", "idle"'),
    "a choice": ("summary.json", lambda s: s["decoders"]["mtad"].update(acceptance=3), "acceptance: 3 is not of type"),
    "a run": ("trace.jsonl", lambda r: r.update(run_id="other"), "its files are of different runs"),
    "a length": ("samples.jsonl", lambda r: r["log_likelihoods"].append(0.0), "7 log_likelihoods of 6 tokens"),
    "a sum": ("samples.jsonl", lambda r: r["counts"].update(drafted=0), "counts.drafted is 0, but its rounds have"),
    "a prompt": ("samples.jsonl", lambda r: r.update(prompt_id="p"), 'prompts.jsonl lacks the prompt "p"'),
    "a process": (
        "samples.jsonl",
        lambda r: r.update(process_id="p"),
        'environment.json does not know the process "p"',
    ),
    "a count": ("summary.json", lambda s: s["decoders"]["mtad"].update(rows=9), "summary.json counts 9 texts"),
    "a speed": ("summary.json", lambda s: s["comparisons"][0].update(value=3.0), "comparisons.0.value is 3.0, but the"),
    "an end": ("summary.json", lambda s: s["comparisons"][0].update(low=0.9), "comparisons.0.low is 0.9, but the rows"),
    "a score": ("grades.jsonl", lambda r: r["grades"].update(even=1.0), "score.value is"),
    "joules": ("energy.jsonl", lambda r: r["windows"][0]["devices"][0].update(joules=9e9), "joules_per_token_net is"),
    "a window": ("batches.jsonl", lambda r: r.update(tokens=10**6), "batches.decoders.mtad.0.tokens is"),
    "a huge one": (
        "samples.jsonl",
        lambda r: r["seconds"].update(decode=10**400),
        "samples.jsonl line 1 is not JSON with finite numbers",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_entry_is_named(lie: str, copied: Path) -> None:
    file, change, words = LIES[lie]
    rewrite(copied / file, change)
    told = found(copied)
    assert any(words in line for line in told), told
    assert all("\n" not in line and len(line) < 300 for line in told)


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(4096),
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"schema_version": 1,\n',
        b"{}\n[]\n3\nnull\n",
        b'{"schema_version": NaN}\n',
        b'{"schema_version": 1e999}\n',
        b'{"schema_version": ' + b"9" * 5000 + b"}\n",
        b'"\xff\xfe"\n',
    ],
    ids=["bytes", "nul", "deep", "cut", "not rows", "nan", "inf", "digits", "no utf-8"],
)
@pytest.mark.parametrize("name", [pytest.param("trace.jsonl", marks=pytest.mark.platform), "summary.json"])
def test_garbage_is_called_so_and_never_crashes(name: str, garbage: bytes, copied: Path) -> None:
    (copied / name).write_bytes(garbage)
    (run,), _ = validate(copied)
    assert run.problems or run.notes  # a last line that is half written does not count
    assert run.verdict == "INVALID"


def test_problems_of_a_file_are_counted_when_they_are_many(copied: Path) -> None:
    (copied / "trace.jsonl").write_text("{}\n" * 100, encoding="utf-8")
    told = found(copied)
    assert len(told) == MOST + 1 and told[-1] == f"... and {100 - MOST} more of the same file"


def test_a_line_and_a_file_without_end_are_not_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, "MOST_BYTES", 2**20)
    for name in ("samples.jsonl", "summary.json"):
        with (copied / name).open("wb") as stream:
            stream.truncate(2**30)  # of zeros, which take no room
    assert found(copied) == ["summary.json is larger than 1 MiB", "samples.jsonl line 1 is longer than 1 MiB"]


def test_links_are_not_followed_and_pipes_not_waited_for(copied: Path, tmp_path: Path) -> None:
    (copied.parent / "loop").symlink_to(copied.parent, target_is_directory=True)
    (copied / "judge.jsonl").unlink()
    (copied / "judge.jsonl").symlink_to("/etc/passwd")
    (copied / "trace.jsonl").unlink()
    os.mkfifo(copied / "trace.jsonl")
    (run,), notes = validate(copied.parent)
    assert run.problems == ["trace.jsonl is no regular file", "judge.jsonl is a link"]
    assert notes == [f"{copied.parent / 'loop'} is a link, and was not followed"]


def test_a_dangling_link_in_place_of_a_summary_is_no_unfinished_run(copied: Path) -> None:
    (copied / "summary.json").unlink()
    (copied / "summary.json").symlink_to(copied / "nowhere")
    assert found(copied) == ["summary.json is a link"]


def test_a_folders_name_writes_no_line_of_its_own(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied.rename(os.fsdecode(os.fsencode(copied.parent) + b"/\xff\x1b\nforged  9  9  valid"))
    with pytest.raises(SystemExit) as ended:
        main([str(copied.parent)])
    runs = capsys.readouterr().out.splitlines()[1:]
    assert ended.value.code == 0 and len(runs) == 1 and "\\udcff" in runs[0] and "\x1b" not in runs[0]


def test_a_run_that_goes_on_is_unfinished_and_not_wrong(copied: Path) -> None:
    (copied / "summary.json").unlink()
    with (copied / "samples.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"half')
    (run,), _ = validate(copied)
    assert (run.verdict, run.problems) == ("unfinished", [])
    assert run.notes == ["samples.jsonl line 11 is half written and does not count"]


def test_the_command_prints_a_table_and_ends_with_1_where_something_is_wrong(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(FROZEN / "runs"), str(FROZEN / "older" / "tiny-sql-table2.json")])
    assert ended.value.code == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in table] == ["verdict", "valid", "valid", "only"]
    before = {file: file.read_bytes() for file in copied.rglob("*")}
    rewrite(copied / "samples.jsonl", lambda row: row.update(finish=3, text="\x1b[2J", variant=["\x1b"]))
    before[copied / "samples.jsonl"] = (copied / "samples.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([str(copied.parent), "--most", "1"])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and "\x1b" not in out
    assert "INVALID" in out and out.count("problem: ") == 2 and out.endswith("problem: ... and 1 more\n")
    assert {file: file.read_bytes() for file in copied.rglob("*")} == before, "nothing is changed"


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_place_without_runs_is_one_line(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: there (is|are) no [^\n]+$"):
        main([place])


def test_null_inside_a_list_needs_its_reason_too() -> None:
    row = content(next(FROZEN.glob("runs/*/*/samples.jsonl")))[0]
    row["log_likelihoods"][0] = None
    assert list(problems("samples", row)) == ["log_likelihoods is null, and log_likelihoods_reason does not say why"]
    row["log_likelihoods_reason"] = "no finite number"
    assert list(problems("samples", row)) == []

"""The journal: what a kill, a restart and a second start leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from experiments import runner
from experiments.journal import SCHEMA_VERSION, Row, to_json
from experiments.plan import prepare
from experiments.records import RunFolder, settled
from mtad.errors import UserError
from mtad.loading import Blueprint
from tests.killed_runs import APPENDS
from tests.toy import ROOT, toy_settings

HOLDER = """
import sys
from pathlib import Path
from experiments.records import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def read(results: Path) -> list[Row]:
    """The rows of the only run in a results folder."""
    (journal,) = results.glob("*/*/samples.jsonl")
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


def written(rows: list[Row]) -> dict[tuple[str, str, int], list[int]]:
    """What was written for every (variant, prompt, repeat)."""
    return {(row["variant"], row["prompt_id"], row["repeat"]): row["token_ids"] for row in rows}


def row(prompt: str, variant: str, process: str, repeat: int = 0) -> Row:
    cell = {"prompt_id": prompt, "variant": variant, "process_id": process, "turn": 0, "repeat": repeat}
    return {"schema_version": SCHEMA_VERSION, **cell, "code": "c"}


def text_row(text: str) -> Row:
    return {**row("p", "a", "1"), "text": text, "reads": {}, "gaps": None, "isolation": {}}


@pytest.mark.kills
def test_rows_of_a_run_killed_again_and_again_equal_an_undisturbed_ones(saved_pair: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.killed_runs", str(saved_pair), str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("killed") == len(APPENDS) + 1 and "compaction" in done.stdout
    runner.run(toy_settings(saved_pair, tmp_path / "calm", "repeats=2", "reference=[autoregressive]"))
    killed, calm = read(tmp_path / "killed"), read(tmp_path / "calm")
    assert written(killed) == written(calm)
    assert len(killed) == len(calm) == 6 * 2 * 2, "a row stands twice"
    processes = {(row["prompt_id"], row["process_id"]) for row in killed}
    assert len(processes) == 6, "rows of one prompt come from two processes"
    assert len({process for _, process in processes}) == 3, "the kills left whole prompts of two runs, and one finished"


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for text in ("one", "zwei\nüß", "three"):
        folder.samples.append(text_row(text))
    whole = folder.samples.path.read_bytes()
    last = len(to_json(text_row("three")).encode()) + 1
    for torn in range(1, last):
        folder.samples.path.write_bytes(whole[:-torn])
        assert [row["text"] for row in folder.samples.rows()] == ["one", "zwei\nüß"]
        folder.samples.append(text_row("again"))
        assert [row["text"] for row in folder.samples.rows()] == ["one", "zwei\nüß", "again"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "line 2 is not a row"),
        ("", "line 2 is not a row"),
        ("{}", "line 2 is not a row"),
        ("null", "line 2 is not a row"),
        ('{"schema_version":7}', "line 2 has schema_version 7, not 1"),
        ('{"schema_version":1}', "line 2 lacks code"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str, message: str) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.append(text_row("one"))
    with folder.samples.path.open("a") as journal:
        journal.write(f"{line}\n")
    folder.samples.append(text_row("three"))
    with pytest.raises(UserError, match=message):
        folder.samples.rows()


@pytest.mark.parametrize("content", ["{", "null", "[]"])
def test_a_damaged_environment_is_named_before_weights_are_loaded(
    saved_pair: Path, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare(toy_settings(saved_pair, tmp_path))
    plan.folder.path.mkdir(parents=True)
    (plan.folder.path / "environment.json").write_text(content)
    monkeypatch.setattr(Blueprint, "load", None)
    with pytest.raises(UserError, match=r"environment.json is damaged; delete it, or start over with fresh=true"):
        runner.measure(runner.Process(plan))


def test_whatever_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.path.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*samples.jsonl"):
        folder.samples.rows()
    for write in (lambda: folder.samples.append(text_row("a")), lambda: folder.samples.rewrite([])):
        with pytest.raises(UserError, match=r"cannot write to .*samples.jsonl"):
            write()


def test_a_row_with_nan_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.samples.append({"score": float("nan")})
    assert folder.samples.rows() == []


def test_only_prompts_that_one_process_measured_whole_count() -> None:
    cells = {prompt: [("a", 0, 0), ("b", 0, 0)] for prompt in "pqr"}
    first = [row("p", "a", "1"), row("p", "b", "1"), row("q", "a", "1")]
    assert settled(first, cells) == first[:2]
    second = [row("q", "b", "2"), row("q", "a", "2"), row("r", "a", "1"), row("r", "b", "2")]
    assert settled(first + second, cells) == first[:2] + second[:2]


def test_superseded_rows_stay_until_their_replacement_is_whole() -> None:
    cells = {prompt: [("a", 0, 0), ("b", 0, 0)] for prompt in "pqr"}
    whole, begun = [row("p", "a", "1"), row("p", "b", "1")], [row("p", "a", "2")]
    assert settled(whole + begun, cells) == whole
    assert settled([*whole, *begun, row("p", "b", "2")], cells) == [*begun, row("p", "b", "2")]


def test_an_open_prompt_is_measured_again_for_all_variants_and_repeats(saved_pair: Path, tmp_path: Path) -> None:
    settings = toy_settings(saved_pair, tmp_path, "repeats=2", "limit=3", "reference=[autoregressive]")
    runner.run(settings)
    (journal,) = tmp_path.glob("*/*/samples.jsonl")
    before = read(tmp_path)
    lost = before[5]
    journal.write_text("".join(to_json(row) + "\n" for row in before if row is not lost), encoding="utf-8")
    runner.run(settings)
    after = read(tmp_path)
    assert written(after) == written(before) and len(after) == len(before)
    fresh = {row["process_id"] for row in after} - {row["process_id"] for row in before}
    assert Counter(row["prompt_id"] for row in after if row["process_id"] in fresh) == {lost["prompt_id"]: 4}


def test_a_second_start_is_refused_in_one_line_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is measuring"), RunFolder(tmp_path).locked():
        pass
    holder.kill()
    holder.communicate()
    with RunFolder(tmp_path).locked():
        pass


def test_a_results_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"), RunFolder(tmp_path / "file" / "run").locked():
        pass

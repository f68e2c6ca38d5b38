"""Sweeps: cells that fail, that are complete, that share a pair or a folder; several tasks in one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.records import RunFolder
from experiments.settings import read_each
from mtad.errors import UserError
from tests.started_runs import PAUSING, Starter, lines_of, rows_of
from tests.toy import ROOT, composed

SMALL = ("limit=2", "reference=[]", "max_new_tokens=8")
# Run before a run: says on stderr each time that weights are read.
COUNTED = """
import sys
from mtad.loading import Blueprint
load = Blueprint.load
def counted(*given):
    print("weights are read", file=sys.stderr, flush=True)
    return load(*given)
Blueprint.load = counted
"""


@pytest.fixture(scope="module")
def starter(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    started = Starter(saved_pair, tmp_path_factory.mktemp("runs"))
    yield started
    started.close()


def test_a_failing_cell_does_not_stop_the_others_and_is_one_line_with_exit_code_1(
    starter: Starter, tmp_path: Path
) -> None:
    ended = starter.run("-m", *SMALL, "decoder.gamma=0,3,4", f"results_dir={tmp_path}")
    assert ended.code == 1 and "Traceback" not in ended.err
    errors = {line for line in ended.err.splitlines() if line.startswith("error: ")}
    assert errors == {"error: decoder mtad: gamma must be a number >= 1, not 0"}
    assert len(rows_of(tmp_path)) == 4, "two cells of two texts"


@pytest.mark.runs
def test_cells_of_one_pair_read_its_weights_once_and_complete_ones_not_at_all(starter: Starter, tmp_path: Path) -> None:
    sweep = ("-m", *SMALL, "decoder.gamma=3,4", f"results_dir={tmp_path}")
    first = starter.run(*sweep, first=COUNTED)
    assert first.code == 0 and first.err.count("weights are read") == 1
    rows = rows_of(tmp_path)
    again = starter.run(*sweep, first=COUNTED)
    assert again.code == 0 and "weights are read" not in again.err
    assert again.err.count("complete already") == 2 and rows_of(tmp_path) == rows
    wider = starter.run("-m", *SMALL, "decoder.gamma=3,4,5", f"results_dir={tmp_path}", first=COUNTED)
    assert wider.err.count("complete already") == 2 and wider.err.count("weights are read") == 1


FAILING = """
import gc, sys
from experiments.journal import Journal
from mtad.errors import UserError
from mtad.loading import Blueprint, Pair
append, load, rows = Journal.append, Blueprint.load, []
def full(self, row):
    rows.append(row)
    if len(rows) == 1:
        raise UserError("the disk is full")
    append(self, row)
def counted(*given):
    print(sum(isinstance(one, Pair) for one in gc.get_objects()), "pairs held", file=sys.stderr, flush=True)
    return load(*given)
Journal.append, Blueprint.load = full, counted
"""


def test_a_cell_that_failed_lets_go_of_its_pair_before_the_next_one_is_loaded(starter: Starter, tmp_path: Path) -> None:
    ended = starter.run("-m", *SMALL, "dtype=fp32,bf16", f"results_dir={tmp_path}", first=FAILING)
    assert ended.code == 1 and "error: the disk is full" in ended.err
    assert ended.err.count("0 pairs held") == 2, ended.err
    assert len(rows_of(tmp_path)) == 2, "the second cell is whole"


def test_a_sweep_leaves_no_file_of_its_own_and_no_absolute_path(starter: Starter, tmp_path: Path) -> None:
    starter.run("-m", *SMALL, "decoder.gamma=3,4", f"results_dir={tmp_path / 'results'}")
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert {path.parent.parent.parent for path in files} == {tmp_path / "results"}, "a file outside of the runs"
    assert [path for path in files if b"multirun" in path.name.encode()] == []
    for path in files:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_a_signal_ends_the_whole_sweep(starter: Starter, tmp_path: Path) -> None:
    run = starter.start("-m", *SMALL, "decoder.gamma=3,4", f"results_dir={tmp_path}", first=PAUSING.format(rows=1))
    run.send_paused(signal.SIGTERM)
    ended = run.wait()
    assert ended.code == 143 and ended.err.splitlines()[-1] == "stopped by SIGTERM; the same command resumes"
    assert "Traceback" not in ended.err and len(list(tmp_path.glob("*/*"))) == 1, "the next cell has begun"


def test_tasks_are_run_one_after_the_other_on_weights_that_are_read_once(starter: Starter, tmp_path: Path) -> None:
    tasks = "tasks=[toy,{task: talk, max_new_tokens: 5},{task: toy, size: 1}]"
    ended = starter.run(*SMALL, tasks, f"results_dir={tmp_path}", first=COUNTED)
    assert ended.code == 0, ended.err
    assert ended.err.count("weights are read") == 1
    summaries = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/summary.json")]
    assert sorted(summary["task"] for summary in summaries) == ["talk", "toy", "toy"]


def test_a_task_that_fails_does_not_stop_the_others(starter: Starter, tmp_path: Path) -> None:
    ended = starter.run(*SMALL, "tasks=[{task: talk, refuses: true},toy]", f"results_dir={tmp_path}")
    assert ended.code == 1 and "Traceback" not in ended.err
    assert "error: task talk: task talk cannot be graded here" in ended.err
    assert ended.err.splitlines()[-1] == "error: 1 of 2 tasks failed: talk"
    assert {row["prompt_id"] for row in rows_of(tmp_path)} == {"toy/0", "toy/1"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("toy", r"tasks must be a list of tasks, as in tasks=\[sql,code\], not 'toy'"),
        ("[]", "tasks must be a list of tasks"),
        ("[7]", "an entry of tasks is a task's name or a mapping with the key task, not 7"),
        ("[{size: 3}]", "an entry of tasks is a task's name or a mapping"),
        ("[nonsense]", "there is no task 'nonsense'; there are: "),
        ("[{task: toy, colour: red}]", "toy has no option 'colour'"),
    ],
)
def test_tasks_that_are_none_are_one_line_before_anything_runs(tasks: str, message: str) -> None:
    with composed(f"tasks={tasks}") as config, pytest.raises(UserError, match=message) as caught:
        read_each(config)
    assert "\n" not in str(caught.value)


def test_a_task_on_the_command_line_beats_the_tasks_of_an_experiment() -> None:
    def names(*overrides: str) -> list[str]:
        with composed("experiment=two", *overrides) as config:
            return [settings.task_name for settings in read_each(config)]

    assert names() == ["toy", "talk"]
    assert names("task=sql") == ["sql"]
    assert names("tasks=[talk]") == names("task=sql", "tasks=[talk]") == ["talk"]


def test_a_second_run_of_a_cell_is_refused_in_one_line_until_the_first_has_ended(
    starter: Starter, tmp_path: Path
) -> None:
    command = (*SMALL, f"results_dir={tmp_path}")
    holder = starter.start(*command, first=PAUSING.format(rows=1))
    holder.until(lambda: lines_of(tmp_path))
    refused = starter.run(*command)
    assert (refused.code, refused.out) == (1, "") and refused.err.count("\n") == 1
    assert refused.err.startswith("error: another process is measuring into ")
    holder.send(signal.SIGKILL)
    assert holder.wait().code == -signal.SIGKILL
    ended = starter.run(*command)
    assert ended.code == 0, ended.err
    assert len(rows_of(tmp_path)) == 2


KEEPER = """
import subprocess, sys, os
from pathlib import Path
from experiments.records import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    forked = os.fork()
    if forked == 0:
        import time
        time.sleep(60)
    spawned = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(forked, spawned.pid, flush=True)
    sys.stdin.read()
"""


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    children = [int(number) for number in holder.stdout.readline().split()]
    try:
        with pytest.raises(UserError, match="another process is measuring"), RunFolder(tmp_path).locked():
            pass
        holder.kill()
        holder.wait()
        with RunFolder(tmp_path).locked():
            for child in children:
                os.kill(child, 0)  # it lives
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)

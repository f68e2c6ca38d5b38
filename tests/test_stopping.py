"""A run that is told to stop: it ends within seconds, says so, and loses nothing; then others may go on with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import stopping
from experiments.stopping import SIGNALS, Stopped, at_once, check, stoppable
from tests.started_runs import PAUSING, Started, Starter, lines_of, texts_of
from tests.test_records import HOLDER
from tests.toy import ROOT

pytestmark = pytest.mark.kills

RUN = ("reference=[autoregressive]", "max_new_tokens=8")
SECONDS = 10.0  # within which a run has ended; more than it needs, for machines that are busy
NAMES = [number.name for number in SIGNALS]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A process that was told to stop is about to end, and keeps its handlers; this one goes on."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    stopping._noted.clear()


@pytest.fixture(scope="module")
def starter(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    started = Starter(saved_pair, tmp_path_factory.mktemp("runs"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def calm(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """The texts of a run that nobody disturbed."""
    results = tmp_path_factory.mktemp("calm")
    assert starter.run(*RUN, f"results_dir={results}").code == 0
    return texts_of(results)


def stopped(run: Started, number: int, everyone: bool = False) -> None:
    """Tell it to stop, where it has paused; it does so in one line."""
    run.send_paused(number, everyone=everyone)
    start = time.monotonic()
    ended = run.wait()
    assert time.monotonic() - start < SECONDS
    assert ended.code == 128 + number, ended.err
    assert ended.out == "" and "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == f"stopped by {signal.Signals(number).name}; the same command resumes"


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_a_run_and_the_same_command_ends_with_the_rows_of_an_undisturbed_one(
    name: str, starter: Starter, calm: list[tuple[object, ...]], tmp_path: Path
) -> None:
    command = (*RUN, f"results_dir={tmp_path}")
    run = starter.start(*command, first=PAUSING.format(rows=3))
    stopped(run, signal.Signals[name])
    (journal,) = tmp_path.glob("*/*/samples.jsonl")
    assert journal.read_bytes().endswith(b"\n"), "a row is torn"
    assert 3 <= lines_of(tmp_path) <= 4 < len(calm) and not (journal.parent / "summary.json").exists()
    ended = starter.run(*command)
    assert ended.code == 0, ended.err
    assert texts_of(tmp_path) == calm


LOADING = """
import os, signal
from mtad.loading import Blueprint
load = Blueprint.load
def pausing(*given):
    os.kill(os.getpid(), signal.SIGSTOP)
    return load(*given)
Blueprint.load = pausing
"""


def test_a_signal_while_weights_are_loaded_ends_the_run_before_they_are_warmed_up(
    starter: Starter, calm: list[tuple[object, ...]], tmp_path: Path
) -> None:
    command = (*RUN, f"results_dir={tmp_path}")
    run = starter.start(*command, first=LOADING)
    stopped(run, signal.SIGTERM)
    assert not lines_of(tmp_path)
    assert starter.run(*command).code == 0
    assert texts_of(tmp_path) == calm


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_for_all_processes_ends_the_grading_and_no_grade_is_given_twice(
    name: str, starter: Starter, tmp_path: Path
) -> None:
    command = ("task=slow", "reference=[autoregressive]", f"results_dir={tmp_path}")
    run = starter.start(*command, first=PAUSING.format(rows=12 + 8))  # four grades are left
    stopped(run, signal.Signals[name], everyone=True)
    (grades,) = tmp_path.glob("*/*/grades.jsonl")
    kept = grades.read_text()
    assert kept.endswith("\n") and kept.count("\n") < 12
    texts = texts_of(tmp_path)
    ended = starter.run(*command)
    assert ended.code == 0, ended.err
    assert texts_of(tmp_path) == texts and len(texts) == 12, "texts were written again"
    assert grades.read_text().startswith(kept) and len(set(grades.read_text().splitlines())) == 12


def test_a_signal_for_the_run_alone_does_not_wait_for_the_grades_under_way(starter: Starter, tmp_path: Path) -> None:
    run = starter.start("task=slow", "task.seconds=60", "reference=[autoregressive]", f"results_dir={tmp_path}")
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    run.until(lambda: len(children.read_text().split()) > 1)  # those that grade, and Python's own
    run.send(signal.SIGTERM)
    start = time.monotonic()
    assert run.wait().code == 143 and time.monotonic() - start < SECONDS


SEARCHING = """
import os, signal, time
from experiments.approximation import Yardstick
def endless(*given):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
Yardstick._round = endless
"""


def test_a_signal_ends_an_exact_search_however_long(starter: Starter, tmp_path: Path) -> None:
    run = starter.start(*RUN, "approximation={budget: 64}", f"results_dir={tmp_path}", first=SEARCHING)
    stopped(run, signal.SIGUSR1)
    assert not list(tmp_path.glob("*/*/approximation.jsonl"))


def test_a_signal_ends_the_tuning_and_its_texts_are_kept(starter: Starter, tmp_path: Path) -> None:
    tune = ("experiment=tune", "task.size=7", "tune.prompts=5", "limit=2", "tune.trials=3")
    command = (*tune, "reference=[autoregressive]", f"results_dir={tmp_path}")
    run = starter.start(*command, first=PAUSING.format(rows=10))  # more than a whole prompt
    stopped(run, signal.SIGUSR1)
    (journal,) = tmp_path.glob("*-tuning/*/samples.jsonl")
    kept = journal.read_text().splitlines()
    ended = starter.run(*command)
    assert ended.code == 0, ended.err
    after = journal.read_text().splitlines()
    assert kept[0] == after[0], "what was whole is measured again"
    assert len({json.loads(row)["process_id"] for row in after}) == 2, "nothing was left to be tuned"
    assert len(set(texts_of(tmp_path))) == len(texts_of(tmp_path))


HANDLER = """
import signal, subprocess, sys
from pathlib import Path
def handler(number, frame):
    (lock,) = Path({results!r}).glob("*/*/.lock")
    other = subprocess.run([sys.executable, "-c", {holder!r}, str(lock.parent)], cwd={root!r}, stdin=subprocess.DEVNULL)
    print("asked, the lock", "is free" if other.returncode == 0 else "is not free", flush=True)
    sys.exit(37)
signal.signal(signal.SIGUSR2, handler)
"""


def test_an_earlier_handler_is_asked_once_after_the_lock_is_free_and_its_exit_code_counts(
    starter: Starter, tmp_path: Path
) -> None:
    program = HANDLER.format(results=str(tmp_path), holder=HOLDER, root=str(ROOT))
    run = starter.start(*RUN, f"results_dir={tmp_path}", first=program + PAUSING.format(rows=2))
    run.send_paused(signal.SIGUSR2)
    ended = run.wait()
    assert ended.code == 37
    assert ended.out.splitlines() == ["held", "asked, the lock is free"]
    assert ended.err.splitlines()[-1] == "stopped by SIGUSR2; the same command resumes"


def test_a_job_of_a_cluster_that_sigterm_reaches_waits_to_be_told_more(starter: Starter, tmp_path: Path) -> None:
    program = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: print('bypassed', flush=True))\n"
    program += "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(38))"
    run = starter.start(
        *RUN, f"results_dir={tmp_path}", first=program + PAUSING.format(rows=2), environment={"SLURM_JOB_ID": "1"}
    )
    run.send_paused(signal.SIGTERM)
    run.until(lambda: "bypassed" in (run.folder / "out").read_text())
    time.sleep(0.3)
    run.send(signal.SIGUSR2)
    assert run.wait().code == 38


def test_a_job_of_a_cluster_that_another_signal_reaches_ends_by_itself(starter: Starter, tmp_path: Path) -> None:
    program = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n" + PAUSING.format(rows=2)
    run = starter.start(*RUN, f"results_dir={tmp_path}", first=program, environment={"SLURM_JOB_ID": "1"})
    stopped(run, signal.SIGUSR1)


def test_a_signal_after_the_last_check_reaches_whoever_handled_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: reached.append(number))
    monkeypatch.setattr(stopping, "check", lambda: signal.raise_signal(signal.SIGUSR1))
    try:
        with stoppable():
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert reached == [signal.SIGUSR1] and not stopping._noted


def test_what_resumes_a_run_is_said_by_who_knows_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), stoppable("another command resumes"):
        signal.raise_signal(signal.SIGTERM)
    assert capsys.readouterr().err == "stopped by SIGTERM; another command resumes\n"


def test_a_signal_that_is_repeated_is_handed_over_once_and_ends_nothing_that_the_handler_starts() -> None:
    asked = []

    def requeue(number: int, frame: object) -> None:  # as submitit's
        asked.append(number)
        signal.raise_signal(signal.SIGUSR2)
        subprocess.run(["sh", "-c", "kill -USR2 $$; kill -TERM $$"], check=True)  # for Slurm tells the whole step
        sys.exit(39)

    def ends() -> None:
        with stoppable():
            signal.raise_signal(signal.SIGUSR2)
            check()

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit) as ended:
            ends()
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert ended.value.code == 39 and asked == [signal.SIGUSR2]


def test_handlers_are_what_they_were_after_a_run() -> None:
    def mine(*_: object) -> None: ...

    before = [signal.signal(signal.SIGUSR1, mine), *map(signal.getsignal, SIGNALS[::2])]
    try:
        with stoppable():
            assert signal.getsignal(signal.SIGUSR1) is not mine
        assert [signal.getsignal(number) for number in SIGNALS] == [before[1], mine, before[2]]
        with pytest.raises(ValueError), stoppable():
            raise ValueError
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before[0])


def test_a_signal_is_noted_until_somebody_checks_and_ends_at_once_what_may_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reached = []
    with pytest.raises(SystemExit) as ended, stoppable():
        signal.raise_signal(signal.SIGTERM)
        reached.append("noted")
        with pytest.raises(Stopped):
            check()
        with at_once():
            reached.append("begun")
    assert ended.value.code == 143 and reached == ["noted"]
    with pytest.raises(SystemExit) as ended, stoppable(), at_once():
        signal.raise_signal(signal.SIGUSR1)
        reached.append("gone on")
    assert ended.value.code == 128 + signal.SIGUSR1 and reached == ["noted"]
    assert capsys.readouterr().err.count("the same command resumes") == 2
    assert not stopping._noted and not stopping._ends_now
    check()


def test_a_signal_that_nobody_checked_for_still_ends_the_process() -> None:
    with pytest.raises(SystemExit) as ended, stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143

"""Sweeps on a real Slurm: what is pre-empted, cancelled or started twice ends with the rows of an undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.report.results import read_results
from tests.slurm_lab import Lab, missing, slurm_lab, wait_for
from tests.toy import ROOT

pytestmark = pytest.mark.slurm

CELLS = ("task=sql", "limit=20", "reference=[autoregressive]", "max_new_tokens=16", "energy=false")
LAUNCHER = ("hydra/launcher=slurm", *(f"hydra.launcher.{key}" for key in ("partition=main", "cpus_per_task=1")))
TEXTS = 20 * 2  # of a cell
MIDDLE = 5  # rows after which a cell is disturbed, with most of its work left
SECONDS = 280  # that nothing here takes, on a busy machine either

Rows = list[tuple[str, str, int, tuple[int, ...]]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := missing():
        pytest.skip(reason)
    with slurm_lab(cpus=2) as lab:
        yield lab


@contextmanager
def sweep(lab: Lab, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """`python run.py -m`, which waits for its jobs."""
    command = [sys.executable, "run.py", "-m", *LAUNCHER, *CELLS, *overrides]
    environment = {**lab.environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str]) -> str:
    """What it printed, after a good end."""
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, printed
    return printed


def journals(results: Path) -> list[Path]:
    return sorted(results.glob("*/*/samples.jsonl"))


def rows(results: Path) -> dict[str, Rows]:
    """The texts of each cell, sorted; every line is whole."""
    found: dict[str, Rows] = {}
    for journal in journals(results):
        text = journal.read_text()
        assert text.endswith("\n")
        records = [json.loads(line) for line in text.splitlines()]
        keys = [(row["variant"], row["prompt_id"], row["repeat"], tuple(row["token_ids"])) for row in records]
        found[journal.parent.name] = sorted(keys)
    return found


def written(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def seed_of(journal: Path) -> int:
    return int(OmegaConf.load(journal.parent / "config.yaml").seed)


def begun(results: Path) -> set[int]:
    """The seeds of the cells that are in the middle of their work."""
    return {seed_of(journal) for journal in journals(results) if written(journal) >= MIDDLE}


def wait_for_middle(results: Path, seed: int) -> None:
    wait_for(f"rows of seed {seed}", lambda: seed in begun(results), SECONDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Rows]:
    """The rows of four cells that one process measured after the other, without Slurm."""
    results = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "run.py", "-m", *CELLS, "seed=1,2,3,4", f"results_dir={results}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=SECONDS)
    return rows(results)


@dataclass(frozen=True)
class Disturbed:
    """A sweep of four cells that were stopped and have come to their end all the same.

    Attributes:
        restarts: how often Slurm has started each cell again.
    """

    results: Path
    restarts: tuple[int, ...]


@pytest.fixture(scope="module")
def disturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """In its middle, seed 1 gets the signal of a time-out, seed 2 is requeued; then a job of `high` takes the node."""
    results = tmp_path_factory.mktemp("disturbed")
    with sweep(lab, "hydra.launcher.array_parallelism=2", "seed=1,2,3,4", f"results_dir={results}") as process:
        wait_for("an array", lambda: any("_" in job for job in lab.jobs()), SECONDS)
        array = next(iter(lab.jobs())).partition("_")[0]
        # To the step: to a whole cell of an array, Slurm 22.05 sends a signal again and again.
        stops = {1: ("scancel", "--signal=USR2", f"{array}_0.0"), 2: ("scontrol", "requeue", f"{array}_1")}
        while stops:
            wait_for("the middle of a cell", lambda: bool(begun(results) & stops.keys()), SECONDS)
            lab.ask(*stops.pop((begun(results) & stops.keys()).pop()))
        wait_for_middle(results, 3)
        lab.submit("--partition=high", "--cpus-per-task=2", "true")
        finished(process)
    return Disturbed(results, tuple(int(lab.detail(f"{array}_{cell}", "Restarts")) for cell in range(4)))


def test_a_time_out_a_requeue_and_a_preemption_bring_a_cell_back_into_the_queue(disturbed: Disturbed) -> None:
    assert min(disturbed.restarts[:3]) >= 1, disturbed.restarts


def test_rows_of_a_disturbed_sweep_are_those_of_an_undisturbed_one(
    disturbed: Disturbed, undisturbed: Mapping[str, Rows]
) -> None:
    assert len(undisturbed) == 4 and {len(cell) for cell in undisturbed.values()} == {TEXTS}
    assert rows(disturbed.results) == undisturbed


def test_no_prompt_of_a_disturbed_sweep_was_measured_by_two_processes(disturbed: Disturbed) -> None:
    for journal in journals(disturbed.results):
        processes: dict[str, set[str]] = {}
        for row in map(json.loads, journal.read_text().splitlines()):
            processes.setdefault(row["prompt_id"], set()).add(row["process_id"])
        assert {len(found) for found in processes.values()} == {1}
        went_on = len(set.union(*processes.values())) > 1
        assert went_on or seed_of(journal) == 4  # which the pre-emption may have met before its first row


def test_the_files_of_submitit_are_no_results(disturbed: Disturbed) -> None:
    assert list((disturbed.results / ".slurm").iterdir())
    found = read_results(disturbed.results)
    assert len(found.runs) == 4 and not found.unfinished and not found.notes
    assert not (disturbed.results / "multirun.yaml").exists()


def test_a_cell_runs_once_at_a_time_and_a_cancelled_one_is_finished_by_the_same_command(
    lab: Lab, undisturbed: Mapping[str, Rows], tmp_path: Path
) -> None:
    command = ("seed=1", f"results_dir={tmp_path}")
    with sweep(lab, *command):
        wait_for_middle(tmp_path, 1)
        first = next(job for job, state in lab.jobs().items() if state == "RUNNING")
        lab.ask("scontrol", "suspend", first)  # it stays in the middle
        with sweep(lab, *command) as second:
            refused, _ = second.communicate(timeout=SECONDS)
        assert second.returncode == 1 and "error: another process is measuring into" in refused
        assert "Traceback" not in refused
        lab.ask("scontrol", "resume", first)
        lab.ask("scancel", first)
        wait_for("the end of the job", lambda: lab.jobs()[first] == "CANCELLED", 30)
    (left,) = rows(tmp_path).values()
    assert MIDDLE <= len(left) < TEXTS
    assert "stopped by SIGTERM" in "".join(log.read_text() for log in (tmp_path / ".slurm").glob(f"{first}/*.out"))

    with sweep(lab, *command) as again:
        finished(again)
    (whole,) = rows(tmp_path).values()
    assert whole in undisturbed.values()

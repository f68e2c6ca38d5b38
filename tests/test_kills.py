"""A sweep that is killed ten times, at moments that chance picks, and then ends with the rows of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.started_runs import TOY, lines_of, texts_of
from tests.toy import ROOT

KILLS = 10
SEED = 20240709
STARTING = 5.0  # seconds that a start takes, about; some kills fall into it
WORKING = 1.5  # seconds after a first new row within which the others fall
CELLS = ("decoder.tau=0.1,0.9", "task.size=50", "repeats=2", "reference=[autoregressive]")


def sweep(pair: Path, results: Path) -> list[str]:
    models = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
    return [sys.executable, str(ROOT / "run.py"), "-m", *TOY, *models, *CELLS, f"results_dir={results}"]


def environment() -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def figures(results: Path) -> dict[str, dict[str, tuple[object, ...]]]:
    """What the summaries say of every variant, apart from times."""
    found = {}
    for file in results.glob("*/*/summary.json"):
        decoders = json.loads(file.read_text(encoding="utf-8"))["decoders"]
        keys = ("rows", "prompts", "tokens", "score", "perplexity")
        found[file.parent.name] = {label: tuple(told[key] for key in keys) for label, told in decoders.items()}
    return found


def killed(command: list[str], results: Path, chance: random.Random, starting: bool) -> bool:
    """Start the sweep and kill it, all its processes at once, after its start or amid its work; False: it had ended."""
    before = lines_of(results)
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        while not starting and run.poll() is None and lines_of(results) <= before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, STARTING if starting else WORKING))
        if run.poll() is not None:
            return False
        os.killpg(run.pid, signal.SIGKILL)
        return run.wait() == -signal.SIGKILL


@pytest.mark.kills
def test_rows_of_a_sweep_killed_ten_times_at_random_equal_those_of_an_undisturbed_one(
    saved_pair: Path, tmp_path: Path
) -> None:
    calm, results = tmp_path / "calm", tmp_path / "killed"
    subprocess.run(sweep(saved_pair, calm), env=environment(), check=True, capture_output=True)
    chance, command = random.Random(SEED), sweep(saved_pair, results)
    kills = [killed(command, results, chance, starting=number % 3 == 0) for number in range(KILLS)]
    assert sum(kills) == KILLS, "the sweep was complete before the last kill: it must have more to do"
    finished = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "Traceback" not in finished.stderr
    assert texts_of(results) == texts_of(calm) and len(texts_of(calm)) == 2 * 50 * 2 * 2
    assert figures(results) == figures(calm) and len(figures(calm)) == 2
    for grades in results.glob("*/*/grades.jsonl"):
        given = Counter(json.dumps({**json.loads(line), "graded": None}) for line in grades.read_text().splitlines())
        assert set(given.values()) == {1}, "a text was graded twice"

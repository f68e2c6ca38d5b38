"""Runs that are killed: `python -m tests.killed_runs PAIR RESULTS KILLS`, used by test_records.

Every run is a fork of this process, which has imported everything and has not used torch yet, so that a start costs
little. Each is killed as soon as the journal has grown to a random size, or after a random time; the last one is not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from experiments.runner import run
from experiments.settings import Settings
from tests.toy import toy_settings

REPEATS = "repeats=2"


def start(settings: Settings) -> int:
    """The id of a process that makes the run."""
    child = os.fork()
    if child == 0:
        run(settings)
        os._exit(0)
    return child


def main(pair: Path, results: Path, kills: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(0)
    settings = toy_settings(pair, results, REPEATS, "reference=[autoregressive]")
    for _ in range(kills):
        before = size(results)
        child = start(settings)
        wanted = before + chance.randint(1, 12_000)
        while size(results) < wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            break  # it was complete
        print("killed", flush=True)
    os.waitpid(start(settings), 0)


def size(results: Path) -> int:
    """Bytes in the journal, also while it does not exist."""
    return sum(file.stat().st_size for file in results.glob("*/*/samples.jsonl"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

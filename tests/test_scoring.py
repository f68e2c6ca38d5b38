"""Processes that grade: they answer to their parent alone, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments.scoring import _end_with_parent, _interrupts_held_back
from tests.toy import ROOT

OWNER = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid

from experiments.scoring import _end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent)
    print(pool.submit(getpid).result(), flush=True)
    pool.submit(time.sleep, 60)
    time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether it runs; one that nobody waits for any more does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def test_a_process_that_grades_does_not_outlive_one_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    assert alive(worker)
    owner.kill()
    owner.wait()
    ends = time.monotonic() + 10
    while alive(worker) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive(worker)


def test_an_interrupt_is_the_parents_alone() -> None:
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent) as pool:
        with _interrupts_held_back():
            held = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, set())
        assert signal.SIGINT in held.result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())

"""Being told to stop: SIGTERM, SIGUSR1 or SIGUSR2 end a run within seconds, with every row so far on the disk.

A signal interrupts no writing of files: it is noted, and raises `Stopped` in what `at_once` surrounds, or else at the
next `check`. When the run has ended, whoever handled the signal before is asked, for under Slurm that is submitit,
which puts the job back into the queue. The same command goes on from there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 600.0  # the longest notice that a cluster is expected to give
_noted: list[int] = []
_ends_now = False


class Stopped(BaseException):  # like KeyboardInterrupt, it passes whoever catches errors
    """The run was told to stop, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def check() -> None:
    """Raises Stopped if a signal has come."""
    if _noted:
        raise Stopped(_noted[0])


@contextmanager
def at_once() -> Iterator[None]:
    """A signal ends what is done meanwhile: for what takes long and leaves nothing half done. Raises Stopped."""
    global _ends_now
    before, _ends_now = _ends_now, True
    try:
        check()
        yield
    finally:
        _ends_now = before


@contextmanager
def stoppable(resumes: str = "the same command resumes") -> Iterator[None]:
    """Note the signals meanwhile; where they end a run, ask whoever handled them before, then end the process.

    Args:
        resumes: how to go on, for the user.
    """
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        try:
            yield
        finally:
            check()  # one that came too late to end this run ends the sweep that it is a cell of
    except Stopped as stopped:
        print(f"stopped by {stopped}; {resumes}", file=sys.stderr, flush=True)
        try:
            _hand_over(before)
            sys.exit(128 + stopped.number)
        finally:  # Slurm may repeat a signal: none is handed over again while the process ends
            before.clear()
            _noted.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        late = _noted.copy()
        _noted.clear()
        for told in late:  # noted after the last check: whoever handled it before is to know
            signal.raise_signal(told)


def _note(number: int, frame: FrameType | None) -> None:
    _noted.append(number)
    if _ends_now and len(_noted) == 1:  # a second one must not disturb the clearing up after the first
        check()


def _hand_over(before: dict[signal.Signals, Any]) -> None:
    """Ask the earlier handlers of the signals that came, each once; submitit's of SIGUSR2 ends the process.

    Where SIGTERM has come and someone handled it, a scheduler is about to kill this job, or to tell more. Some take a
    job that ends by itself for a finished one, and would not start it again: so this waits to be killed.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number, handler in before.items() if callable(handler)
    }
    waits = signal.SIGTERM in handlers and signal.SIGTERM in _noted and "SLURM_JOB_ID" in os.environ
    deadline = time.monotonic() + (GRACE_SECONDS if waits else 0)
    while True:
        while _noted:
            number = _noted.pop(0)
            if handler := handlers.pop(number, None):
                # Slurm tells a whole step, again and again: what the handler starts (`scontrol requeue`) inherits this
                signal.signal(number, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                handler(number, None)
        if time.monotonic() >= deadline:
            return
        time.sleep(0.1)

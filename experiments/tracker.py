"""Mirrors of finished runs at a tracking service, and the one promise that holds for all: they cannot harm a run.

Whatever a service's library does - hang, crash, print, start threads - it does in a child process after the measuring,
for a limited time. Refuses to know any service.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from time import monotonic
from typing import Any, Protocol

import experiments
from experiments.build import build
from experiments.groups import choice
from experiments.redact import redact
from experiments.stopping import check

LOOK_SECONDS = 0.1  # between two looks at a child, and for a signal


class Tracker(Protocol):
    """A service that gets a copy of each run; what stands in the results folder stays the truth."""

    def check(self) -> None:
        """Raises UserError if the service's package is not installed."""

    def mirror(self, run: Path, results: Path, experiment: str | None) -> None:
        """Give the service the finished run in the folder `run`, and say in one line how that went; never raises.

        Args:
            results: the folder of all results.
            experiment: what the run is a part of.
        """


def make_tracker(config: object) -> Tracker | None:
    """The tracker that is asked for, checked to be there before anything is measured. Raises UserError."""
    if config is None:
        return None
    tracker: Tracker = build(f"tracker {choice('tracker')}", config)  # type: ignore[arg-type]
    tracker.check()
    return tracker


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        failure: why it did not do its work, in one line; None if it did.
        output: what it printed.
    """

    failure: str | None
    output: str


def in_a_child(module: str, argument: str, seconds: float) -> Ending:
    """Run a module of ours with an argument; its children and temporary files end with it. Raises Stopped."""
    path = os.pathsep.join(filter(None, [str(Path(experiments.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    with (
        TemporaryFile("w+") as output,
        TemporaryFile("w+", errors="replace") as errors,
        TemporaryDirectory(ignore_cleanup_errors=True) as scratch,  # which a killed child cannot clear up itself
    ):
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, argument],
                env={**os.environ, "PYTHONPATH": path, "TMPDIR": scratch},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is ours to handle, nothing can be asked at a terminal
            )
        except OSError as error:
            return Ending(f"cannot start a process: {error.strerror}", "")
        try:
            code = _wait(child, seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in (output, errors):
            stream.seek(0)
        failure = f"no end within {seconds:g} s" if code is None else _failure(code, errors.read())
        return Ending(failure, output.read())


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code; None if time is up."""
    end = monotonic() + seconds
    while monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(LOOK_SECONDS)
        check()
    return None


def _failure(code: int, errors: str) -> str | None:
    if code == 0:
        return None
    lines = [line for line in errors.splitlines() if line.strip()]
    said: Any = redact(lines[-1].strip()) if lines else f"exit code {code}"
    return str(said)

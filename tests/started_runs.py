"""Runs as processes that tests send signals to, without the seconds that a start of Python with torch takes.

`Starter` keeps a process that has imported what a run needs and has not used torch yet; every run is a fork of it that
does what `python run.py OVERRIDES` does from there: its own session, its own standard streams, the exit of the
interpreter. `python -m tests.started_runs` is that process; it reads a line of JSON for each run, and answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.toy import ROOT

TOY = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy")
PATIENCE = 90.0  # seconds, for machines that are busy

# A program for `first`: the run stops itself after so many rows, and can be told what it then finds when it goes on.
PAUSING = """
import os, signal
from experiments.journal import Journal
append, rows = Journal.append, []
def pausing(self, row):
    append(self, row)
    rows.extend([row] * (self.path.name != "trace.jsonl"))  # every text has one there too
    if len(rows) == {rows} and rows[-1] is row:
        os.kill(os.getpid(), signal.SIGSTOP)
Journal.append = pausing
"""


@dataclass(frozen=True)
class Ended:
    code: int  # as of subprocess: -n for a process that signal n has killed
    out: str
    err: str


class Started:
    """A run that has started."""

    def __init__(self, ask: Callable[[Mapping[str, Any]], int], pid: int, folder: Path) -> None:
        self._ask = ask
        self.pid = pid
        self.folder = folder

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(encoding="utf-8")

    def send(self, number: int, everyone: bool = False) -> None:
        """A signal for the process, or for all that it has started too."""
        os.killpg(self.pid, number) if everyone else os.kill(self.pid, number)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the run is about to do."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; the run said: {self.err}"
            time.sleep(0.002)

    def send_paused(self, *numbers: int, everyone: bool = False) -> None:
        """Signals for a run that has stopped itself, which then goes on."""
        self.until(lambda: Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        for number in (*numbers, signal.SIGCONT):
            self.send(number, everyone)

    def wait(self) -> Ended:
        """How it ended."""
        status = self._ask({"wait": self.pid})
        return Ended(os.waitstatus_to_exitcode(status), (self.folder / "out").read_text(encoding="utf-8"), self.err)


class Starter:
    """Starts runs of the toy task on a saved pair."""

    def __init__(self, pair: Path, scratch: Path, environment: Mapping[str, str] | None = None) -> None:
        self._pair = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
        self._scratch = scratch
        self._runs: list[Started] = []
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.started_runs"],
            cwd=ROOT,
            env={**(environment or os.environ), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *overrides: str, first: str = "", environment: Mapping[str, str] | None = None) -> Started:
        """Start `python run.py` with these overrides; `first` is a program that the process runs before that."""
        folder = self._scratch / f"run{len(self._runs)}"
        folder.mkdir()
        flags = [override for override in overrides if override.startswith("-")]
        arguments = ["run.py", *flags, *TOY, *self._pair, *overrides[len(flags) :]]
        job = {"arguments": arguments, "folder": str(folder), "first": first, "environment": dict(environment or {})}
        self._runs.append(Started(self._ask, self._ask(job), folder))
        return self._runs[-1]

    def run(self, *overrides: str, **how: Any) -> Ended:
        """Start a run and wait for its end."""
        return self.start(*overrides, **how).wait()

    def close(self) -> None:
        """Kill what still runs."""
        self._server.communicate()
        for run in self._runs:
            with suppress(ProcessLookupError):
                run.send(signal.SIGKILL, everyone=True)

    def _ask(self, job: Mapping[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(job), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


def rows_of(results: Path) -> list[dict[str, Any]]:
    """The rows of all runs in a results folder, torn ones refused."""
    lines = [line for file in sorted(results.glob("*/*/samples.jsonl")) for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def lines_of(results: Path) -> int:
    """How many rows have begun to be written in a results folder."""
    return sum(file.read_bytes().count(b"\n") for file in results.glob("*/*/samples.jsonl"))


def texts_of(results: Path) -> list[tuple[Any, ...]]:
    """What every row of a results folder says, apart from times, in an order of their own."""
    return sorted(
        (row["run_id"], row["variant"], row["prompt_id"], row["turn"], row["repeat"], tuple(row["token_ids"]))
        for row in rows_of(results)
    )


def serve() -> Callable[[], object]:
    """Fork for each line, and answer with the process's number; in the fork, return what it is to do."""
    import run
    from experiments import runner  # noqa: F401  # imported here so that forks need not
    from experiments.sweep import failed  # noqa: F401

    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "wait" in job:
            print(os.waitpid(job["wait"], 0)[1], flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            _become(job)
            return run.main
    return lambda: None


def _become(job: Mapping[str, Any]) -> None:
    os.setsid()
    for number, (name, mode) in enumerate((("/dev/null", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))):
        descriptor = os.open(Path(job["folder"]) / name, mode | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(job["environment"])
    sys.argv = job["arguments"]
    exec(job["first"], {})


if __name__ == "__main__":
    serve()()

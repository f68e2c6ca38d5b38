"""Runs that are killed: `python -m tests.killed_runs PAIR RESULTS`, used by test_records.

Every run is a fork of this process, which has imported everything and has not used torch yet, so that a start costs
little. Each kills itself with SIGKILL at a point that is counted in rows, so that no clock decides: within or after the
write of a row, then within the last compaction of the journal. The last run is not killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.journal import Journal, to_json
from experiments.runner import run
from experiments.settings import Settings
from tests.toy import toy_settings

# Of each run: the row whose write is its last, and how many bytes of that reach the disk (None: all).
APPENDS: tuple[tuple[int, int | None], ...] = ((1, 10), (3, None), (6, 1), (2, 0), (10, -1), (1, None))


def start(settings: Settings, row: int = 0, size: int | None = None, compaction: bool = False) -> None:
    """Make the run in a process of its own and wait for its end; row 0 never comes."""
    child = os.fork()
    if child == 0:
        _fatal_append(row, size)
        if compaction:
            Journal.rewrite = _fatal_rewrite  # type: ignore[method-assign]
        run(settings)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0
    if killed:
        print("killed in the compaction" if compaction else "killed", flush=True)


def _fatal_append(last: int, size: int | None) -> None:
    append, rows = Journal.append, 0

    def fatal(self: Journal, row: Mapping[str, Any]) -> None:
        nonlocal rows
        trace = self.path.name == "trace.jsonl"  # each stands before the text that is counted
        rows += not trace
        if trace or rows != last:
            return append(self, row)
        with self.path.open("ab", buffering=0) as journal:
            journal.write(f"{to_json(row)}\n".encode()[:size])
        os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = fatal  # type: ignore[method-assign]


def _fatal_rewrite(self: Journal, rows: Any) -> None:
    """The replacement is half written and not in its place yet."""
    text = "".join(to_json(row) + "\n" for row in rows)
    self.path.with_name(f".{self.path.name}.new").write_text(text[: len(text) // 2], encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


def main(pair: Path, results: Path) -> None:
    torch.set_num_threads(1)
    settings = toy_settings(pair, results, "repeats=2", "reference=[autoregressive]")
    for row, size in APPENDS:
        start(settings, row, size)
    start(settings, compaction=True)
    start(settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

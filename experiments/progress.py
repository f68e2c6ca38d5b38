"""How far a run is: a live bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 20.0


def say(message: str) -> None:
    """A line for the user; results go to stdout, all else here."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, done: int, burst: int = 1, what: str = "texts") -> Iterator[Callable[[str], None]]:
    """A function to be called after every row, with what was measured; rows, of `what`, come `burst` at a time."""
    if not sys.stderr.isatty():
        yield _plain(total, done, burst, what)
        return
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as bar:
        task = bar.add_task("measuring", total=total, completed=done)
        yield lambda what: bar.update(task, advance=1, description=what)


def _plain(total: int, done: int, burst: int, texts: str) -> Callable[[str], None]:
    started, last, first = monotonic(), monotonic(), done

    def advance(what: str) -> None:
        nonlocal done, last
        done += 1
        if monotonic() - last > PLAIN_SECONDS and (done - first) % burst == 0:
            last = monotonic()
            left = (last - started) / (done - first) * max(total - done, 0)
            say(f"{done} of {total} {texts}, about {left:.0f} s left")

    return advance

"""How tables of runs look on a terminal: readable at 100 columns, and when piped. Knows no figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPED_COLUMNS = 100
Summary = Mapping[str, Any]


def readable(console: Console | None) -> Console:
    """The console, or the usual one; of a fixed width where the output is piped."""
    console = console or Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_COLUMNS, file=console.file)


def plain_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table with heads of columns of words (left) and of numbers (right)."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title=escape(title), title_justify="left", title_style="bold")
    for head in left:
        table.add_column(head, no_wrap=True)
    for head in right:
        table.add_column(escape(head), justify="right")
    return table


def number(value: float | None, digits: int) -> str:
    """Rounded; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """In per cent; a dash for None."""
    return "-" if value is None else f"{value:.0%}"

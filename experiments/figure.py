"""A figure of a summary: a value, and beside it why there is none. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def figure(name: str, value: float | None, reason: str | None) -> dict[str, Any]:
    """The value under its name; the reason counts only where the value is None."""
    return {name: value, f"{name}_reason": reason if value is None else None}


def ratio(a: float | None, b: float) -> float | None:
    """a / b; None without an a, or by zero."""
    return None if a is None or not b else a / b


def counted(number: int, what: str) -> str:
    """As in "1 window" and "2 windows"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)

"""Checks of decoder options, each with one clear line."""

from __future__ import annotations

import math
from typing import Any, get_args

from mtad.errors import UserError


def at_least(name: str, value: float, least: float) -> None:
    """Raises UserError unless `value` is a finite number >= `least` (and whole, if `least` is 1 or more)."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least:
        raise UserError(f"{name} must be a number >= {least}, not {value!r}")
    if least >= 1 and not isinstance(value, int):
        raise UserError(f"{name} must be a whole number >= {least}, not {value!r}")


def each_at_least(name: str, values: tuple[int, ...], least: int) -> None:
    """Raises UserError unless every entry of `values` is a whole number >= `least`."""
    for value in values:
        at_least(f"every entry of {name}", value, least)


def one_of(name: str, value: Any, choices: Any) -> None:
    """Raises UserError unless `value` is one of a `Literal`'s values."""
    if value not in get_args(choices):
        raise UserError(f"{name} must be one of {', '.join(map(str, get_args(choices)))}, not {value!r}")

"""Figures of the benchmark as JSON data: a value with its 95 % interval and the sample's size, and verdicts on them.

Knows numbers; refuses to know what they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark.options import Aim
from experiments.comparisons import Figure, metric_sums
from experiments.intervals import Estimate, estimate, estimate_of_sums
from experiments.journal import Row

Known = dict[str, Any]
REACHED, MISSED, OPEN = "reached", "not reached", "cannot tell"
NOT_TIMED = "its forwards are not timed one by one"


def known(found: Estimate | Mapping[str, Any], n: int, unit: str) -> Known:
    """A figure: value, low and high, of `n` units; a reason for what is null.

    Args:
        found: also a comparison of `experiments.comparisons`.
    """
    parts = found if isinstance(found, Mapping) else vars(found)
    return {**{key: parts[key] for key in ("value", "low", "high", "reason")}, "n": n, "unit": unit}


def unknown(reason: str) -> Known:
    """A figure that is not there."""
    return known(Estimate(None, reason=reason), 0, "")


def of_rows(figure: Figure, rows: Sequence[Row], missing: str = NOT_TIMED) -> Known:
    """A figure of the texts of one variant, resampled by prompts."""
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    sums = metric_sums(figure, rows, prompts)
    if sums is None:
        return unknown(missing)
    with np.errstate(all="ignore"):
        found = estimate_of_sums(lambda s: figure.value(s[..., 0] / s[..., 1]), [sums], null=figure.null)
    return known(found, len(prompts), "prompts")


def median(seconds: np.ndarray) -> Known:
    """The median of seconds [repetitions]."""
    found = estimate(lambda a: np.median(a, axis=-1), [seconds], unit="repetitions")
    return known(found, len(seconds), "repetitions")


def median_ratio(a: np.ndarray, b: np.ndarray) -> Known:
    """The ratio of two medians, of seconds [repetitions] that were taken by turns."""
    found = estimate(lambda x, y: np.median(x, axis=-1) / np.median(y, axis=-1), [a, b], unit="repetitions")
    return known(found, len(a), "repetitions")


def judged(aims: Sequence[Aim], sections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every aim with the figure that the sections of a pair give it, the verdict, and the reason for that."""
    figures: dict[str, Known] = {}
    quality: dict[str, str | None] = {}
    for section in sections.values():
        figures |= section["figures"]
        quality |= section.get("quality", {})
    found = []
    for aim in aims:
        figure = figures.get(aim.figure) or unknown("no section that was measured gives it")
        condition = REACHED if aim.quality is None else quality.get(aim.quality) or OPEN
        reached, why = verdict(aim, figure, condition)
        found.append({"figure": aim.figure, "aim": str(aim), "measured": figure, "verdict": reached, "reason": why})
    return found


def verdict(aim: Aim, figure: Known, condition: str = REACHED) -> tuple[str, str | None]:
    """Whether an aim is reached by the whole interval, and why not or why that cannot be told.

    Args:
        condition: what the quality of the variant says, a verdict too.
    """
    low, high, value = figure["low"], figure["high"], figure["value"]
    if value is None or low is None:
        return OPEN, figure["reason"]
    if aim.at_least is not None:
        holds, fails = low >= aim.at_least, high < aim.at_least
    else:
        assert aim.at_most is not None
        holds, fails = high <= aim.at_most, low > aim.at_most
    if fails:
        return MISSED, None
    if condition == MISSED:
        return MISSED, "its perplexity or score is worse than autoregressive sampling's"
    if not holds:
        return OPEN, "the interval spans the aim"
    if condition == OPEN:
        return OPEN, "fast enough, but its perplexity or score may be worse than autoregressive sampling's"
    return REACHED, None


def not_worse(perplexity_ratio: Known, score_difference: Known) -> str:
    """Whether quality holds: by the values, unless an interval shows a loss.

    The reference is autoregressive sampling: a perplexity ratio of at most 1, a score difference of at least 0.
    """
    found = []
    for figure, sign, null in ((perplexity_ratio, 1, 1.0), (score_difference, -1, 0.0)):
        value, end = figure["value"], figure["low" if sign > 0 else "high"]
        if value is None:
            found.append(OPEN)
        elif sign * (value - null) <= 0:
            found.append(REACHED)
        else:  # worse by the value; shown only if the better end of the interval is worse too
            found.append(MISSED if end is not None and sign * (end - null) > 0 else OPEN)
    return MISSED if MISSED in found else OPEN if OPEN in found else REACHED

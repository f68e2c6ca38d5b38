"""The figures of one decoder, predicted and measured side by side, as JSON data; what cannot be had is null with why.

Knows rows and predictions; refuses to know models and plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.baseline import BASELINE
from experiments.comparisons import compare_all
from experiments.cost.predict import (
    Costs,
    Tally,
    acceptance_for,
    best_gamma,
    break_even,
    expected_tokens,
    seconds_per_token,
    speedup,
    speedup_at,
)
from experiments.journal import Row

THE_BASELINE = "the baseline"
NO_RATES = "no round shows whether its first drafted token was accepted"


def predicted(
    label: str, counted: Tally, rows: Sequence[Row], costs: Costs, deepest: int, foreign: str | None
) -> dict[str, Any]:
    """Prediction and measurement of one variant, as JSON data.

    Args:
        foreign: why costs and rows may not be set against each other, if so: there are no errors then.
    """
    value, measured, own = speedup(counted, costs), _measured(label, rows), of_variant(rows, label)
    seconds = seconds_per_token(counted, costs)
    # A speed-up that is known may have a reason too: that of its missing interval.
    unknown = measured["measured_speedup_reason"] if measured["measured_speedup"] is None else None
    untold = THE_BASELINE if label == BASELINE else unknown or foreign
    decode = sum(row["seconds"]["decode"] for row in own)
    forwards = sum(row["seconds"]["target"] + row["seconds"]["draft"] for row in own)
    return {
        "predicted_seconds_per_token": seconds,
        "predicted_speedup": value,
        **measured,
        **_error("error", value, measured["measured_speedup"], untold),
        "measured_seconds_per_token": decode / counted.tokens,
        **_error("seconds_per_token_error", seconds, decode / counted.tokens, foreign),
        "measured_share_outside_forwards": 1 - forwards / decode,
        "reads": {"target": dict(counted.target), "draft": dict(counted.draft)},
        "largest_timed_read_nodes": costs.target.steady.nodes[-1],
        **_drafting(counted, costs, deepest),
    }


def incomparable(rows: Sequence[Row], processes: Sequence[Row], here: Row) -> str | None:
    """Why this process's costs say nothing about the seconds of the rows, in one line; None if they do.

    Args:
        processes: those that measured the rows, as the run records them.
        here: this process, recorded likewise.
    """
    machines = {process["process_id"]: process.get("machine") for process in processes}
    if {machines.get(row["process_id"]) for row in rows} - {here["machine"]}:
        return "rows of the run were measured on another machine, or on one that is not recorded"
    if {row["code"] for row in rows} - {here["code"]}:
        return "rows of the run were measured with other code"
    return None


def _error(name: str, value: float, measured: float | None, reason: str | None) -> dict[str, Any]:
    """Predicted over measured, minus 1; null if there is a reason why not."""
    error = value / measured - 1 if measured and not reason else None
    return {name: error, f"{name}_reason": reason}


def _measured(label: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The measured speed-up with its interval, by the same code as the summary's."""
    found: Mapping[str, Any] = {"value": None, "low": None, "high": None, "reason": f"the run has no {BASELINE}"}
    if label == BASELINE:
        found = {"value": 1.0, "low": None, "high": None, "reason": None}
    elif any(row["variant"] == BASELINE for row in rows):
        found = next(one for one in compare_all(rows, [(label, BASELINE)]) if one["metric"] == "speedup")
    return {
        "measured_speedup": found["value"],
        "measured_speedup_low": found["low"],
        "measured_speedup_high": found["high"],
        "measured_speedup_reason": found["reason"],
    }


def _drafting(counted: Tally, costs: Costs, deepest: int) -> dict[str, Any]:
    """Break-even and best gamma of a decoder whose rounds have one draft length; nulls and the reason for another."""
    names = ("break_even_tokens_per_round", "break_even_acceptance", "equivalent_acceptance", "best_gamma")
    if counted.gamma is None or not counted.conditional:
        return {"gamma": None, **dict.fromkeys(names), "gamma_reason": counted.gamma_reason or NO_RATES}
    needed, alpha = break_even(counted.gamma, counted, costs)
    tokens = expected_tokens(counted.gamma, counted.conditional)
    best = best_gamma(counted, costs, deepest)
    values = needed, alpha, acceptance_for(tokens, counted.gamma), best
    return {
        "gamma": counted.gamma,
        **dict(zip(names, values, strict=True)),
        "break_even_acceptance_reason": None if alpha is not None else "not even full acceptance would pay",
        "gamma_reason": None,
        "tokens_per_round": tokens,
        "conditional_acceptance": counted.conditional,
        "predicted_speedup_at_gamma": speedup_at(counted.gamma, counted, costs),
        "predicted_speedup_by_gamma": [speedup_at(gamma, counted, costs) for gamma in range(1, deepest + 1)],
    }


def of_variant(rows: Sequence[Row], label: str) -> list[Row]:
    """The rows of one variant."""
    return [row for row in rows if row["variant"] == label]

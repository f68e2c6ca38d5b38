"""Comparisons of variants: for every pair and metric a value, its interval, and what a reader needs to judge it.

Knows rows and how a metric is made of them; refuses to know statistics (`experiments.intervals`) and tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from experiments.intervals import CONFIDENCE, SAME_VALUE, Estimate, Sums, estimate_of_sums, holm, sums
from experiments.journal import Row
from experiments.quality import log_likelihood, replayed

Comparison = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A comparison of two variants, each summed up as sum(numerator) / sum(denominator) over its rows.

    Attributes:
        numerator, denominator: of one row; None where the row has no such figure.
        compare: of the two figures.
        null: the value that says "no difference".
        better: the direction of the better value.
        missing: the reason to be given where a row has no numerator.
    """

    name: str
    numerator: Callable[[Row], float | None]
    denominator: Callable[[Row], float | None]
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray]
    null: float
    better: Literal["higher", "lower"]
    missing: str = "not measured"


def _tokens(row: Row) -> float:
    return len(row["token_ids"])


def _decode(row: Row) -> float:
    return float(row["seconds"]["decode"])


def _whole(row: Row) -> float:
    return float(row["seconds"]["prefill"] + row["seconds"]["decode"])


def _judged(key: str) -> Callable[[Row], float | None]:
    return lambda row: (row.get("judge") or {}).get(key)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a / b


def _perplexity_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(b - a))  # of mean log-likelihoods


METRICS = (
    Metric("speedup", _tokens, _decode, _ratio, 1, "higher"),
    Metric("speedup_end_to_end", _tokens, _whole, _ratio, 1, "higher"),
    Metric(
        "perplexity_ratio",
        log_likelihood,
        _tokens,
        _perplexity_ratio,
        1,
        "lower",
        "some tokens have no finite log-likelihood",
    ),
    Metric(
        "score_difference",
        lambda row: row["score"],
        lambda row: 1.0,
        lambda a, b: a - b,
        0,
        "higher",
        "the task gives no score",
    ),
)
JUDGE = Metric(
    "judge_perplexity_ratio",
    _judged("log_likelihood"),
    _judged("tokens"),
    _perplexity_ratio,
    1,
    "lower",
    "the judge could not read some texts",
)
OF_SPEED = tuple(metric for metric in METRICS if metric.name.startswith("speedup"))
NO_LOSS = ("perplexity_ratio", "judge_perplexity_ratio", "score_difference")  # what "no loss" may be claimed of


def compare_all(rows: Sequence[Row], pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Every metric for every (variant, reference); repeats are nested in their prompts.

    Of texts that are those of a trace only the speed is compared: `quality` says why.
    """
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    judged = any(row.get("judge") for row in rows)
    metrics = OF_SPEED if replayed(rows) else (*METRICS, JUDGE) if judged else METRICS
    pairs = list(pairs)
    by_label = {
        label: [row for row in rows if row["variant"] == label] for label in {name for pair in pairs for name in pair}
    }
    summed = {(m.name, label): metric_sums(m, found, prompts) for m in metrics for label, found in by_label.items()}
    return [
        comparison(
            label,
            reference,
            m.name,
            m.better,
            m.null,
            compare_sums(m, summed[m.name, label], summed[m.name, reference]),
        )
        for label, reference in pairs
        for m in metrics
    ]


@dataclass(frozen=True)
class Figure:
    """A figure of one variant alone: what `value` makes of sum(numerator) / sum(denominator) over its rows."""

    numerator: Callable[[Row], float | None]
    denominator: Callable[[Row], float | None]
    value: Callable[[np.ndarray], np.ndarray]
    null: float  # 1 for what is above 0, whose interval lies on the log scale
    most: float = np.inf  # what it can be at most; at least 0


FIGURES = {
    "perplexity": Figure(log_likelihood, _tokens, lambda mean: np.exp(-mean), 1),
    "score": Figure(lambda row: row["score"], lambda row: 1.0, np.asarray, 0, most=1),
    "tokens_per_second": Figure(_tokens, _decode, np.asarray, 1),
    "tokens_per_target_forward": Figure(_tokens, lambda row: row["counts"]["target_forwards"], np.asarray, 1),
}


def own_intervals(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How well each of `FIGURES` is known of one variant: low and high, or null with the reason.

    An interval ends where the figure does, such as a score at 1.

    Two variants whose intervals overlap may differ all the same: they write to the same prompts, as comparisons know.
    """
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    found = {}
    for name, one in FIGURES.items():
        summed = metric_sums(one, rows, prompts)
        with np.errstate(all="ignore"):
            known = _alone(one, summed) if summed else Estimate(None, reason="not measured of every text")
        low, high = (None if end is None else min(max(end, 0.0), one.most) for end in (known.low, known.high))
        found[name] = {"low": low, "high": high, "reason": known.reason}
    return found


def _alone(one: Figure, summed: Sums) -> Estimate:
    return estimate_of_sums(lambda s: one.value(s[..., 0] / s[..., 1]), [summed], null=one.null)


def comparison(label: str, reference: str, metric: str, better: str, null: float, value: Estimate) -> Comparison:
    """One comparison as JSON data."""
    heading = {"decoder": label, "reference": reference, "metric": metric, "null": null, "better": better}
    return {**heading, **asdict(value), "confidence": CONFIDENCE}


def correct_together(comparisons: Sequence[Comparison], margin: float | None) -> list[Comparison]:
    """Add Holm's correction over all comparisons with one reference, and the verdict on "no loss" beyond `margin`.

    A perplexity ratio shows no loss if its whole interval lies below 1 + margin, a score difference if it lies above
    -margin; that is a one-sided test at half the two-sided level.
    """
    families: dict[str, list[float]] = {}
    for found in comparisons:
        families.setdefault(found["reference"], []).extend([] if found["p"] is None else [found["p"]])
    p_holm = {reference: dict(zip(family, holm(family), strict=True)) for reference, family in families.items()}
    return [
        {
            **found,
            "p_holm": p_holm[found["reference"]].get(found["p"]),
            "family_size": len(families[found["reference"]]),
            "margin": None,
            "no_loss": None,
            **(_no_loss(found, margin) if margin is not None and found["metric"] in NO_LOSS else {}),
        }
        for found in comparisons
    ]


def _no_loss(found: Comparison, margin: float) -> dict[str, Any]:
    low, high = found["low"], found["high"]
    if low is None and SAME_VALUE in (found["reason"] or ""):  # texts that are all the same, as under greedy sampling
        low = high = found["value"]
    if low is None:
        return {"margin": margin}
    inside = high < found["null"] + margin if found["better"] == "lower" else low > found["null"] - margin
    return {"margin": margin, "no_loss": bool(inside)}


def metric_sums(metric: Metric | Figure, rows: Sequence[Row], prompts: Sequence[str]) -> Sums | None:
    """Numerator and denominator, summed over the repeats of each prompt; None if a row lacks one."""
    by_prompt = {prompt: [0.0, 0.0] for prompt in prompts}
    for row in rows:
        numerator, denominator = metric.numerator(row), metric.denominator(row)
        if numerator is None or denominator is None:
            return None
        by_prompt[row["prompt_id"]][0] += numerator
        by_prompt[row["prompt_id"]][1] += denominator
    return sums(np.array(list(by_prompt.values())))


def compare_sums(metric: Metric, a: Sums | None, b: Sums | None) -> Estimate:
    """The comparison of two variants' sums of a metric; null with the reason where one has none."""
    if a is None or b is None:
        return Estimate(None, reason=metric.missing)

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return metric.compare(a[..., 0] / a[..., 1], b[..., 0] / b[..., 1])

    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate_of_sums(statistic, (a, b), null=metric.null)

"""A variant's figures by the names that axes have, with intervals. Knows summaries; refuses to know pictures.

The interval of a figure such as perplexity says how well that is known of one variant; whether two variants differ,
which write to the same prompts, only a comparison knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from experiments.report.results import PLACES, Run

AXIS = 44  # letters that fit along a panel


@dataclass(frozen=True)
class Metric:
    """What an axis may show.

    Attributes:
        title: on the axis, with the unit.
        better: the direction of the better value; empty if none is.
        path: of the figure in the summary of a variant; empty if it is a comparison with the baseline.
    """

    title: str
    better: str = ""
    path: tuple[str, ...] = ()

    @property
    def axis(self) -> str:
        """The title and the better direction."""
        return "\n".join([*wrap(self.title, AXIS), *([f"({self.better} is better)"] if self.better else [])])


@dataclass(frozen=True)
class Value:
    """A figure; None with the reason. No interval: both ends are None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def number(self) -> float:
        """The value of a figure that is there."""
        assert self.value is not None
        return self.value

    @property
    def reach(self) -> list[list[float]] | None:
        """How far the interval reaches below and above, as errorbar wants it; None without one."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return [[self.value - self.low], [self.high - self.value]]


METRICS: Mapping[str, Metric] = {
    "perplexity": Metric("perplexity under the target", "lower", ("perplexity",)),
    "score": Metric("score", "higher", PLACES["score"]),
    "tokens_per_second": Metric("tokens per second of decoding", "higher", ("tokens_per_second",)),
    "joules_per_token": Metric("joules per token, idling included", "lower", PLACES["joules_per_token"]),
    "judge_perplexity": Metric("perplexity under the judge", "lower", ("judge_perplexity",)),
    "perplexity_ratio": Metric("perplexity, relative to {baseline}", "lower"),
    "judge_perplexity_ratio": Metric("perplexity under the judge, relative to {baseline}", "lower"),
    "score_difference": Metric("score, difference from {baseline}", "higher"),
    "speedup": Metric("speed-up of decoding over {baseline}", "higher"),
    "speedup_end_to_end": Metric("speed-up end to end over {baseline}", "higher"),
    "energy_ratio": Metric("joules per token, relative to {baseline}", "lower"),
    "energy_ratio_net": Metric("joules per token without idling, relative to {baseline}", "lower"),
    "tokens_per_target_forward": Metric("tokens per target forward", "higher", ("tokens_per_target_forward",)),
    "tokens_per_round": Metric("tokens per round", "higher", ("tokens_per_round",)),
    "draft_acceptance_rate": Metric("accepted / drafted tokens", "higher", PLACES["draft_acceptance_rate"]),
    "mean_acceptance_length": Metric("tokens per step that drafts", "higher", PLACES["mean_acceptance_length"]),
    "proven_share": Metric("share of blocks proven best", "higher", ("proven_share",)),
    "gap_without_last_token": Metric(
        "gap to the exact best block without the last token (nats per block)",
        "lower",
        PLACES["gap_without_last_token"],
    ),
    "gap_with_last_token": Metric(
        "gap to the exact best block with the last token (nats per block)", "lower", PLACES["gap_with_last_token"]
    ),
    "gap_bound": Metric("bound of the gap (nats per block)", "lower", PLACES["gap_bound"]),
    "forwards_per_block": Metric("target forwards per block, exact search", "lower", PLACES["forwards_per_block"]),
    "mean_tokens": Metric("tokens per text", "", ("mean_tokens",)),
    "distinct_2": Metric("distinct-2 (share of distinct pairs of tokens)", "higher", ("distinct_2",)),
    "self_bleu": Metric("self-BLEU among the texts of a prompt", "lower", ("self_bleu",)),
    "repeated_4": Metric("share of repeated 4-grams", "lower", ("repeated_4",)),
}
UNKNOWN = "there is no such figure"


def metric(run: Run, name: str) -> Metric:
    """What the axis of a figure says; a name that is not listed stands for a figure of the variants."""
    found = METRICS.get(name, Metric(name.replace("_", " "), "", (name,)))
    title = found.title.format(baseline=run.baseline)
    kinds = {figures["score"]["name"] for figures in run.summary["decoders"].values()} if name == "score" else set()
    if len(kinds) == 1 and None not in kinds:
        title = kinds.pop().replace("_", " ")
    return Metric(title, found.better, found.path)


def measured(run: Run, label: str, name: str) -> Value:
    """A figure of a variant, by the name of its axis."""
    known, figures = metric(run, name), run.summary["decoders"][label]
    if not known.path:
        return compared(run, label, name)
    own = _own(figures, known.path)
    interval = figures.get("intervals", {}).get(name)  # not in summaries of the first versions
    if own.value is None or interval is None:
        return own
    return Value(own.value, interval["low"], interval["high"])


def compared(run: Run, label: str, name: str) -> Value:
    """A comparison of a variant with the baseline; the baseline's own is "no difference"."""
    baseline = run.baseline
    ours = [one for one in run.summary["comparisons"] if one["metric"] == name and one["reference"] == baseline]
    if label == baseline and ours:
        return Value(float(ours[0]["null"]))
    for one in ours:
        if one["decoder"] == label:
            return Value(one["value"], one["low"], one["high"], one["reason"])
    return Value(None, reason=f"not compared with {baseline}" if ours else f"no {name.replace('_', ' ')} was measured")


def _own(figures: Mapping[str, Any], path: tuple[str, ...]) -> Value:
    """The figure at `path`, with its interval if it has one; else the reason that stands beside it, or above."""
    found: Any = figures
    beside: Mapping[str, Any] = figures
    for key in path:
        if key not in found:
            return Value(None, reason=UNKNOWN)
        if found[key] is None:
            return Value(None, reason=found.get(f"{key}_reason") or found.get("reason") or "not measured")
        beside, found = found, found[key]
    if not isinstance(found, (int, float)):
        return Value(None, reason=UNKNOWN)
    return Value(float(found), beside.get(f"{path[-1]}_low"), beside.get(f"{path[-1]}_high"))

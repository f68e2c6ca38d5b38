"""The frontier: what plain sampling attains by being colder, and how far lossy decoders lie from it.

Who gives up variety can buy probability and score with a lower temperature or top-p alone, at no cost. So a lossy
decoder is compared with autoregressive decoding *at equal diversity*: a sweep of temperature or top-p is a curve of
points (diversity, quality), and between two neighbouring settings lie their mixtures, which write each prompt, with all
its repeats, under one of the two by chance. With s the share of setting 1, which is chosen to give diversity d,

    diversity   d = (s D_1 + (1 - s) D_2) / (s m_1 + (1 - s) m_2)     D, m: sum of the diversities, number of texts
    quality         (s V_1 + (1 - s) V_2) / (s n_1 + (1 - s) n_2)     V, n: log-likelihood, tokens; or score, texts

The frontier at d is the best mixture of neighbours there, so a lossy decoder on it does no better than plain sampling.
Since the best of several noisy mixtures looks a little better than it is, errors favour the frontier. Resampled prompts
take the decoder and the whole frontier along, diversity included. Nothing is extrapolated: outside of the frontier
there is no distance, and a resample that ends up outside takes the frontier's nearest end.

Knows samplings and rows; refuses to know decoders and tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from experiments.baseline import FRONTIER
from experiments.comparisons import METRICS, Comparison, Metric, comparison, correct_together, metric_sums
from experiments.figure import ratio
from experiments.intervals import Estimate, Sums, estimate_of_sums, sums
from experiments.journal import Row
from experiments.quality import ONE_TEXT, distinct_2, replayed, self_bleu
from mtad.errors import UserError
from mtad.law import Sampling
from mtad.options import at_least

SWEPT = "autoregressive"  # the decoder whose sampling is swept
KNOBS = ("temperature", "top_p")
COMPARED = ("perplexity_ratio", "score_difference")
ROUNDING = 1e-9  # of sums of diversity
NO_QUALITY = "texts of a trace, replayed for their cost, have no quality of their own"
NO_SWEEP = "autoregressive decoding was measured at one setting only (frontier.temperature and frontier.top_p add some)"


@dataclass(frozen=True)
class FrontierSettings:
    """The settings of the sweeps; without any there is no frontier.

    Attributes:
        temperature: temperatures, at the run's top-k and top-p; 0 is greedy sampling, the end of both sweeps.
        top_p: values of top-p, at the run's temperature and top-k.
    """

    temperature: tuple[float, ...] = ()
    top_p: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for value in self.temperature:
            at_least("every frontier.temperature", value, 0)
        for value in self.top_p:
            at_least("every frontier.top_p", value, 0)
            if not 0 < value <= 1:
                raise UserError(f"every frontier.top_p must be in (0, 1], not {value!r}")

    def samplings(self, base: Sampling) -> dict[str, Sampling]:
        """The samplings to be measured, by their labels."""
        drawn = replace(base, greedy=False)
        colder = {f"T={_plain(t)}": replace(drawn, temperature=float(t)) for t in self.temperature if t}
        greedy = {"T=0": replace(base, greedy=True)} if 0 in self.temperature else {}
        return {**greedy, **colder, **{f"top-p={_plain(p)}": replace(drawn, top_p=float(p)) for p in self.top_p}}


def _plain(number: float) -> str:
    """All of its digits, a whole number without a point: two settings never share a label."""
    return str(int(number)) if number == int(number) else str(number)


class Point(NamedTuple):
    """A variant as a point of one sweep."""

    knob: str
    value: float
    label: str


@dataclass(frozen=True)
class Diversity:
    """A measure of diversity, summed up as sum / count over prompts.

    Attributes:
        name, title: in the summary, in words.
        of_prompt: sum and count over the texts of one prompt.
        sign: 1 if more is more diverse, -1 if less is.
        missing: the reason to be given where the count is 0.
    """

    name: str
    title: str
    of_prompt: Callable[[Sequence[Row]], tuple[float, float]]
    sign: int
    missing: str

    def sums(self, rows: Sequence[Row]) -> Sums:
        """Over the prompts, in the order of their ids."""
        by_prompt = groupby(sorted(rows, key=itemgetter("prompt_id")), itemgetter("prompt_id"))
        return sums(np.array([self.of_prompt(list(of_one)) for _, of_one in by_prompt]))


def _distinct_2(rows: Sequence[Row]) -> tuple[float, float]:
    shares = [share for row in rows if (share := distinct_2([row])) is not None]
    return sum(shares), len(shares)


def _self_bleu(rows: Sequence[Row]) -> tuple[float, float]:
    return self_bleu(rows) or 0.0, 1.0


DISTINCT_2 = Diversity("distinct_2", "distinct-2", _distinct_2, 1, "no text has two tokens")
SELF_BLEU = Diversity("self_bleu", "self-BLEU", _self_bleu, -1, ONE_TEXT)


def frontier(
    rows: Mapping[str, Sequence[Row]],
    figures: Mapping[str, Mapping[str, Any]],
    margin: float | None,
) -> dict[str, Any]:
    """`frontier` of the summary, or None and the reason.

    Args:
        rows: of every variant, the decoder under study first; its sampling is the one that the sweeps start from.
        figures: of every variant, as in the summary.
        margin: what still counts as no loss.

    Returns:
        diversity: the measures; points: those of each sweep in its knob's order, so that one variant may stand in both;
        distances: for every lossy decoder, measure and metric a comparison with the frontier, and with it `diversity`,
        `at` (the decoder's diversity) and `between` (the settings whose mixture it is compared with). Holm's correction
        is over all distances.
    """
    if replayed(found[0] for found in rows.values()):
        return {"frontier": None, "frontier_reason": NO_QUALITY}
    points = _points({label: found[0] for label, found in rows.items()})
    if not points:
        return {"frontier": None, "frontier_reason": NO_SWEEP}
    lossy = [label for label, found in rows.items() if not found[0].get("lossless", True)]
    repeated = any(row["repeat"] > 0 for found in rows.values() for row in found)
    measures = (DISTINCT_2, SELF_BLEU) if repeated else (DISTINCT_2,)
    found = {
        "diversity": [measure.name for measure in measures],
        "diversity_reason": None if repeated else ONE_TEXT,
        "points": [_as_json(point, figures[point.label]) for point in points],
        "distances": correct_together(_distances(rows, lossy, points, measures), margin),
    }
    return {"frontier": found, "frontier_reason": None}


def _points(first: Mapping[str, Row]) -> list[Point]:
    """The sweeps, each in its knob's order: the variants that differ from the run's sampling in that knob alone.

    Args:
        first: one row of every variant.
    """
    base = next(iter(first.values()))["sampling"]
    points: list[Point] = []
    for knob in KNOBS:
        fixed = base.keys() - {knob, "greedy"}
        sweep = [
            Point(knob, 0.0 if sampling["greedy"] else sampling[knob], label)
            for label, sampling in ((label, row["sampling"]) for label, row in first.items() if row["decoder"] == SWEPT)
            if sampling["greedy"] or all(sampling[key] == base[key] for key in fixed)
        ]
        elsewhere = {point.label for point in points}
        if len(sweep) > 1 and any(point.label not in elsewhere for point in sweep):
            points += sorted(sweep, key=lambda point: point.value)
    return points


def _as_json(point: Point, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A point as JSON data; the reasons of what is null stand with the variant's own figures."""
    copied = {key: figures[key] for key in ("distinct_2", "self_bleu", "perplexity")}
    return {
        **{"variant": point.label, "knob": point.knob, "value": point.value},
        **copied,
        "score": figures["score"]["value"],
    }


class Mixtures(NamedTuple):
    """The frontier in one measure and one metric.

    Attributes:
        diversity, value: sums of all points, [..., points, 2].
        neighbours: the points of each segment, [segments, 2].
    """

    diversity: np.ndarray
    value: np.ndarray
    neighbours: np.ndarray

    def at(self, diversity: np.ndarray) -> np.ndarray:
        """Value of each segment's mixture with that diversity ([...]), [..., segments]; -inf where there is none."""
        one, other = self.neighbours.T
        excess = self.diversity[..., 0] - diversity[..., None] * self.diversity[..., 1]
        excess[np.abs(excess) < ROUNDING] = 0.0  # or an equal to the end could lie beyond it
        a, b = excess[..., one], excess[..., other]
        share = np.divide(b, b - a, out=np.full(a.shape, 0.5), where=a != b)[..., None]
        mixed = share * self.value[..., one, :] + (1 - share) * self.value[..., other, :]
        alone = self.value[..., 0] / self.value[..., 1]
        both = (a == 0) & (b == 0)  # then every share has that diversity, and the best is the better point itself
        found = np.where(both, np.maximum(alone[..., one], alone[..., other]), mixed[..., 0] / mixed[..., 1])
        return np.where(a * b <= 0, found, -np.inf)

    def nearest(self, diversity: np.ndarray) -> np.ndarray:
        """The point whose diversity is nearest to that one, [...]."""
        return np.asarray(np.abs(self.diversity[..., 0] / self.diversity[..., 1] - diversity[..., None]).argmin(-1))

    def best(self, diversity: np.ndarray) -> np.ndarray:
        """Of the mixtures with that diversity, or else of the nearest point; [...]."""
        best = self.at(diversity).max(axis=-1)
        end = np.take_along_axis(self.value, self.nearest(diversity)[..., None, None], axis=-2)[..., 0, :]
        return np.where(best > -np.inf, best, end[..., 0] / end[..., 1])


def _distances(
    rows: Mapping[str, Sequence[Row]], lossy: Sequence[str], points: Sequence[Point], measures: Sequence[Diversity]
) -> list[Comparison]:
    """Of every lossy decoder in every measure and metric, not corrected."""
    labels = list(dict.fromkeys(point.label for point in points))
    pairs = [(one.label, other.label) for one, other in pairwise(points) if one.knob == other.knob]
    neighbours = np.array([[labels.index(label) for label in pair] for pair in pairs])
    used, prompts = (*labels, *lossy), sorted({row["prompt_id"] for row in rows[labels[0]]})
    metrics = [metric for metric in METRICS if metric.name in COMPARED]
    diversity = {(m.name, label): m.sums(rows[label]) for m in measures for label in used}
    value = {(m.name, label): metric_sums(m, rows[label], prompts) for m in metrics for label in used}
    found = []
    for decoder, measure, metric in product(lossy, measures, metrics):
        summed = [(diversity[measure.name, label], value[metric.name, label]) for label in (decoder, *labels)]
        result, at, between = _distance(measure, metric, summed, labels, neighbours)
        heading = comparison(decoder, FRONTIER, metric.name, metric.better, metric.null, result)
        found.append({**heading, "diversity": measure.name, "at": at, "between": between})
    return found


def _distance(
    measure: Diversity,
    metric: Metric,
    summed: Sequence[tuple[Sums, Sums | None]],
    labels: Sequence[str],
    neighbours: np.ndarray,
) -> tuple[Estimate, float | None, list[str] | None]:
    """The distance of a decoder, its diversity, and the settings whose mixture it is compared with.

    Args:
        summed: diversity and value of the decoder, then of the points `labels`.
        neighbours: the points of each segment, [segments, 2].
    """
    samples = [one for pair in summed for one in pair if one is not None]
    at = ratio(*map(float, summed[0][0].whole))
    if len(samples) < 2 * len(summed):
        return Estimate(None, reason=metric.missing), at, None
    if at is None:
        return Estimate(None, reason=measure.missing), None, None

    def mixtures(points: Sequence[np.ndarray]) -> Mixtures:
        return Mixtures(np.stack(points[0::2], axis=-2), np.stack(points[1::2], axis=-2), neighbours)

    def statistic(diversity: np.ndarray, value: np.ndarray, *points: np.ndarray) -> np.ndarray:
        best = mixtures(points).best(diversity[..., 0] / diversity[..., 1])
        return metric.compare(value[..., 0] / value[..., 1], best)

    with np.errstate(divide="ignore", invalid="ignore"):
        whole = mixtures([sample.whole for sample in samples[2:]])
        mixed = whole.at(np.array(at))
        if mixed.max() > -np.inf:
            between = [labels[point] for point in neighbours[mixed.argmax()]]
            return estimate_of_sums(statistic, samples, null=metric.null), at, between
        end = int(whole.nearest(np.array(at)))
        return Estimate(None, reason=_outside(measure, at, whole.diversity[end], labels[end])), at, None


def _outside(measure: Diversity, at: float, end: np.ndarray, label: str) -> str:
    """Why a decoder has no distance."""
    beyond = at - float(end[0] / end[1])
    way = "more" if beyond * measure.sign > 0 else "less"
    return f"{way} diverse than every point of the frontier, by {abs(beyond):.3f} of {measure.title} from {label}"

"""Quality against diversity: lossy decoders beside what plain sampling attains by being colder or narrower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report.plots.measured import Value, measured, metric
from experiments.report.plots.plot import Plot
from experiments.report.plots.speed import KINDS
from experiments.report.plots.style import GREY, Look, cross, entry, missing, numbered, plot, sheet
from experiments.report.results import Run

QUALITY = {"perplexity": "perplexity_ratio", "score": "score_difference"}
KNOBS = {"temperature": Look(GREY, "h", "-"), "top_p": Look("#0072B2", "^", "--")}


def frontier(run: Run) -> Plot | None:
    """Perplexity and score over each measure of diversity; None without a sweep that says anything."""
    found = run.summary.get("frontier")
    if not found or all(one["value"] is None for one in found["distances"]):  # one colder control makes no frontier
        return None
    distances = {(one["decoder"], one["metric"], one["diversity"]): one for one in found["distances"]}
    labels = list(dict.fromkeys(one["decoder"] for one in found["distances"]))
    pairs = list(product(QUALITY, found["diversity"]))
    figure, panels = sheet(len(pairs), width=4.6, height=3.9, columns=len(found["diversity"]))
    without: list[tuple[str, Value]] = []
    for axes, (quality, diversity) in zip(panels, pairs, strict=True):
        _sweeps(axes, found["points"], quality, diversity)
        for number, label in enumerate(labels, start=1):
            x, y = measured(run, label, diversity), measured(run, label, quality)
            without += [(label, x), (label, y)]
            if x.value is not None and y.value is not None:
                bar = beside_frontier(y, distances[label, QUALITY[quality], diversity])
                _point(axes, number, x, y, bar)
        axes.set_xlabel(metric(run, diversity).title + _more(diversity))
        axes.set_ylabel(metric(run, quality).axis)
    knobs = dict.fromkeys(point["knob"] for point in found["points"])
    legend = [entry(f"{number}  {label}", KINDS["lossy"]) for number, label in enumerate(labels, start=1)]
    legend += [Line2D([], [], color="none", label="")]
    legend += [entry(f"autoregressive along {knob}", KNOBS[knob]) for knob in knobs]
    caption = [
        "Numbered: lossy decoders. Lines: autoregressive decoding at other temperatures and top-p, joined in the "
        "knob's order; between neighbours lie their mixtures, and the best of all is the frontier. A bar is the 95 % "
        "interval of the distance from it at equal diversity: one that crosses the frontier shows no difference.",
        "Hollow: without an interval, for instance since outside of the frontier's diversity there is no distance.",
    ]
    bars = "95 % intervals of the distance from the frontier at equal diversity"
    what = "quality at equal diversity, beside colder sampling"
    return plot(run, "frontier", what, figure, legend, [*caption, *missing(without)], bars)


def beside_frontier(y: Value, distance: Mapping[str, Any]) -> Value:
    """The figure with the interval of its distance, laid at the frontier of that diversity; none without one."""
    if y.value is None or distance["value"] is None or distance["low"] is None:
        return Value(y.value)
    if distance["metric"] == "perplexity_ratio":
        at = y.value / distance["value"]
        return Value(y.value, at * distance["low"], at * distance["high"])
    at = y.value - distance["value"]
    return Value(y.value, at + distance["low"], at + distance["high"])


def _sweeps(axes: Axes, points: Sequence[Mapping[str, Any]], quality: str, diversity: str) -> None:
    for knob in dict.fromkeys(point["knob"] for point in points):
        sweep = [point for point in points if point["knob"] == knob and None not in (point[quality], point[diversity])]
        look = KNOBS[knob]
        axes.plot(
            [point[diversity] for point in sweep],
            [point[quality] for point in sweep],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=4,
            linewidth=0.9,
            zorder=1,
        )
        for point in sweep:
            axes.annotate(
                f"{point['value']:g}",
                (point[diversity], point[quality]),
                textcoords="offset points",
                xytext=(4, 4 if knob == "temperature" else -9),
                color=look.colour,
                fontsize=6,
            )


def _point(axes: Axes, number: int, x: Value, y: Value, bar: Value) -> None:
    look = KINDS["lossy"]
    cross(axes, Value(x.value), bar, look.colour)
    numbered(axes, number, x.number, y.number, look.colour, look.marker, filled=bar.low is not None)


def _more(diversity: str) -> str:
    """Which way texts are more varied."""
    return "\n(right: more varied)" if diversity == "distinct_2" else "\n(left: more varied)"

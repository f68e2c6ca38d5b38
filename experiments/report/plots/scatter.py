"""Perplexity against score: does text that the target finds more probable score better?"""

from __future__ import annotations

from math import isnan

from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from experiments.report.plots.measured import measured, metric
from experiments.report.plots.plot import Plot
from experiments.report.plots.speed import KINDS, kind
from experiments.report.plots.style import GREY, INTERVALS, cross, entry, missing, numbered, plot, sheet
from experiments.report.results import Run

FEWEST = 4  # variants; with fewer there is nothing to correlate


def perplexity_score(run: Run) -> Plot | None:
    """One point for each variant that has both figures, with Spearman's rank correlation."""
    found = {label: (measured(run, label, "perplexity"), measured(run, label, "score")) for label in _labels(run)}
    drawn = {label: both for label, both in found.items() if None not in (both[0].value, both[1].value)}
    if len(drawn) < FEWEST:
        return None
    figure, (axes,) = sheet(1, width=6, height=4.5)
    legend: list[Line2D] = []
    for number, (label, (x, y)) in enumerate(drawn.items(), start=1):
        look = KINDS[kind(run, label)]
        cross(axes, x, y, look.colour)
        numbered(axes, number, x.number, y.number, look.colour, look.marker)
        legend.append(entry(f"{number}  {label}", look))
    kinds = dict.fromkeys(kind(run, label) for label in drawn)
    legend += [Line2D([], [], color="none", label=""), *(entry(name, KINDS[name]) for name in kinds)]
    axes.set_xlabel(metric(run, "perplexity").axis)
    axes.set_ylabel(metric(run, "score").axis)
    rho = correlation([(x.number, y.number) for x, y in drawn.values()])
    axes.set_title(
        f"Spearman's rho {'undefined' if rho is None else f'{rho:+.2f}'} over {len(drawn)} variants", color=GREY
    )
    caption = [
        "One point for each variant.",
        "Rho describes these points and tests nothing: the variants share their prompts, are no sample of decoders, "
        "and may differ by less than their intervals.",
        *missing([(label, value) for label, both in found.items() for value in both]),
    ]
    return plot(run, "perplexity-score", "perplexity against score", figure, legend, caption, INTERVALS)


def correlation(points: list[tuple[float, float]]) -> float | None:
    """Spearman's rho; None where all values along one axis are the same."""
    if any(len(set(values)) < 2 for values in zip(*points, strict=True)):
        return None
    rho = float(spearmanr(*zip(*points, strict=True)).statistic)
    return None if isnan(rho) else rho


def _labels(run: Run) -> list[str]:
    return list(run.summary["decoders"])

"""Figures along an option of the decoders, as a run's own `figure: {x: ..., panels: [...]}` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log, nan
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from experiments.report.plots.measured import Value, measured, metric
from experiments.report.plots.options import Lines, lines_along
from experiments.report.plots.plot import Plot
from experiments.report.plots.style import DOTTED, INTERVALS, Look, entry, look, missing, plot, say, sheet
from experiments.report.results import Run

OPTIONS = {
    "gamma": "gamma (tokens drafted, or joined in a block)",
    "tau": "tau (acceptance threshold)",
    "width": "width (beams)",
}
LEVEL = "Dotted lines are variants without that option, drawn without their intervals."
ASIDE = 2.5  # points


def sweep(run: Run) -> Plot | None:
    """One panel for each figure that the run names."""
    wanted = run.summary.get("figure") or {}
    if not wanted.get("x") or not wanted.get("panels"):
        return None
    option, names = str(wanted["x"]), [str(name) for name in wanted["panels"]]
    lines = lines_along(run, option)
    if not lines.lines:
        return None
    figure, panels = sheet(len(names))
    looks = {drawn: look(number) for number, drawn in enumerate(lines.names)}
    without: list[tuple[str, Value]] = []
    for axes, name in zip(panels, names, strict=True):
        without += draw_lines(axes, run, lines, name, looks)
        axes.set_xlabel(OPTIONS.get(option, option))
    titles = _listed([metric(run, name).title for name in names])
    caption = [f"{titles} along {option}, other options fixed.", LEVEL]
    if lines.left_out:
        caption.append(f"Left out, since they differ in other options: {', '.join(lines.left_out)}.")
    caption += missing(without)
    return plot(run, f"{option}-sweep", f"decoders along {option}", figure, _legend(lines, looks), caption, INTERVALS)


def draw_lines(axes: Axes, run: Run, lines: Lines, name: str, looks: Mapping[str, Look]) -> list[tuple[str, Value]]:
    """The lines of one figure, those without the option level across; returns what was found, label by label."""
    places = place_values(axes, lines.values)
    found: list[tuple[str, Value]] = []
    for number, line in enumerate(lines.lines):
        points = [(places[x], measured(run, label, name)) for x, label in line.labels.items()]
        found += zip(line.labels.values(), (value for _, value in points), strict=True)
        draw_line(axes, points, looks[line.name], number - (len(lines.lines) - 1) / 2)
    for label in lines.flat:
        value = measured(run, label, name)
        found.append((label, value))
        if value.value is not None:
            style = looks[label]
            axes.plot(
                [0, 1],
                [value.value] * 2,
                color=style.colour,
                linestyle=DOTTED,
                linewidth=1,
                marker=style.marker,
                markersize=4,
                transform=axes.get_yaxis_transform(),
            )
            axes.update_datalim([(min(places.values()), value.value)])
    if all(value.value is None for _, value in found):
        say(axes, f"not drawn: {found[0][1].reason}")
    axes.autoscale_view()
    axes.set_ylabel(metric(run, name).axis)
    return found


def draw_line(
    axes: Axes, points: Sequence[tuple[float, Value]], style: Look, place: float, hollow: bool = False
) -> None:
    """One line with its intervals, moved a little aside so that it hides no other one."""
    there = [(x, value) for x, value in points if value.value is not None]
    assert axes.figure is not None
    aside = axes.transData + ScaledTranslation(place * ASIDE / 72, 0, axes.figure.dpi_scale_trans)
    for x, value in there:
        # What is moved aside counts for no limits of the axes.
        ends = (value.number, value.low, value.high)
        axes.update_datalim([(x, end) for end in ends if end is not None])
        if value.reach is not None:
            shown: dict[str, Any] = {"ecolor": style.colour, "elinewidth": 0.9, "alpha": 0.7}
            axes.errorbar([x], [value.number], yerr=value.reach, fmt="none", transform=aside, **shown)
    axes.plot(  # a line is broken where a point is missing
        [x for x, _ in points],
        [nan if value.value is None else value.value for _, value in points],
        color=style.colour,
        linestyle=style.line,
        linewidth=1.3,
        marker=style.marker,
        markersize=5,
        markerfacecolor="white" if hollow else style.colour,
        transform=aside,
    )


def _legend(lines: Lines, looks: Mapping[str, Look]) -> list[Line2D]:
    """The lines, then the variants without the option."""
    drawn = [entry(line.name, looks[line.name]) for line in lines.lines]
    return [*drawn, *(entry(label, Look(looks[label].colour, looks[label].marker, DOTTED)) for label in lines.flat)]


def place_values(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Where each value lies on the x axis: logarithmic if that parts them better, by name if they are no numbers."""
    if not all(isinstance(value, (int, float)) for value in values):
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        return {value: float(place) for place, value in enumerate(values)}
    if values[0] > 0 and _closest([log(value) for value in values]) > _closest(values):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:g}" for value in values])
    return {value: float(value) for value in values}


def _closest(values: Sequence[float]) -> float:
    """The smallest gap between neighbours, as a share of them all."""
    return min((b - a for a, b in pairwise(values)), default=0) / ((values[-1] - values[0]) or 1)


def _listed(titles: Sequence[str]) -> str:
    *first, last = titles
    return f"{', '.join(first)} and {last}" if first else last

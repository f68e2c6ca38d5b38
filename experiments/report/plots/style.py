"""How plots look: colours, markers, titles, legends and error bars. Knows axes; refuses to know what they show.

Colours are Okabe and Ito's, told apart by colour-blind readers. Markers, lines and hatches differ too, for grey print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report.plots.measured import AXIS, Value
from experiments.report.plots.plot import Plot
from experiments.report.results import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # no yellow on white paper
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
DOTTED = ":"  # of what has no value on the x axis
GREY = "#666666"
PANEL = (3.9, 3.3)  # inches
LEGEND = 2.6
LEGEND_LINE = 0.19
LEGEND_LETTER, LEGEND_HANDLE = 0.066, 0.6
TITLE_INCHES = 0.9  # title and footer
LETTER = 0.085  # of the title
MOST_COLUMNS = 3
DAGGER = "†"
INTERVALS = "95 % intervals"


@dataclass(frozen=True)
class Look:
    """How one series is told from the others."""

    colour: str
    marker: str
    line: Any


def look(place: int) -> Look:
    """Of the series at a place; no two of 77 share both colour and marker."""
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])


def sheet(
    panels: int, width: float = PANEL[0], height: float = PANEL[1], columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure with so many panels, and room for a legend on the right."""
    columns = columns or (panels if panels <= MOST_COLUMNS else 2 if panels == 4 else MOST_COLUMNS)
    rows = -(-panels // columns)
    figure = Figure(figsize=(columns * width + LEGEND, rows * height + TITLE_INCHES), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def plot(
    run: Run,
    kind: str,
    what: str,
    figure: Figure,
    legend: Sequence[Artist],
    caption: Sequence[str],
    bars: str = INTERVALS,
) -> Plot:
    """The finished plot: title, legend and footer, all outside of the panels.

    Args:
        kind: ends its file's name.
        what: it shows, in words.
        caption: sentences.
        bars: what error bars are; empty if there are none.
    """
    summary = run.summary
    mark = DAGGER if run.stand_in else ""
    title = f"{summary['model']}{mark}, {summary['task']}: {what}"
    stand_in = f"{DAGGER} stand-in: {run.stand_in}; no reproduction of a published figure" if run.stand_in else ""
    wide = int((figure.get_figwidth() - LEGEND) / LETTER)
    lines = [line for part in (title, stand_in) for line in wrap(part, wide)]
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")  # in the middle it would run into the legend
    prompts = max(figures["prompts"] for figures in summary["decoders"].values())
    mixed, machines = len(summary["code_versions"]), summary.get("machines") or 1
    containers = (one for axes in figure.axes for one in axes.containers)
    drawn = any(isinstance(one, ErrorbarContainer) and (one.has_xerr or one.has_yerr) for one in containers)
    footer = [f"experiment {summary['experiment']}"] if summary.get("experiment") else []
    footer += [f"run {summary['run_id']}", f"{prompts} prompts", f"bars: {bars}" if bars and drawn else "no intervals"]
    footer += [f"MIXED: {mixed} versions of the code"] if mixed > 1 else []
    footer += [f"MIXED: {machines} machines"] if machines > 1 else []
    figure.supxlabel(" · ".join(footer), fontsize=7, color=GREY)
    if legend:
        longest = max(len(str(one.get_label())) for one in legend)
        more = LEGEND_LETTER * longest + LEGEND_HANDLE - LEGEND
        figure.set_figwidth(figure.get_figwidth() + max(more, 0))
        figure.set_figheight(max(figure.get_figheight(), LEGEND_LINE * len(legend) + 0.2))
        figure.legend(handles=legend, loc="outside right upper")
    return Plot(
        f"{run.name.replace('/', '-')}-{kind}",
        " ".join(filter(None, (title, f"({stand_in})" if stand_in else ""))),
        " ".join(caption),
        figure,
    )


def entry(text: str, look: Look) -> Line2D:
    """A line of the legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, markersize=5, label=text)


def say(axes: Axes, text: str) -> None:
    """In place of what would be in an empty panel."""
    lines = "\n".join(wrap(text, AXIS))
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, ha="center", va="center", color=GREY).set_in_layout(False)


def numbered(axes: Axes, number: int, x: float, y: float, colour: str, marker: str, filled: bool = True) -> None:
    """A point with the number that the legend explains."""
    axes.plot(x, y, marker, color=colour, markerfacecolor=colour if filled else "white", markersize=11, zorder=2)
    ink = "white" if filled else colour
    axes.annotate(str(number), (x, y), color=ink, fontsize=7, ha="center", va="center_baseline", zorder=3)


def cross(axes: Axes, x: Value, y: Value, colour: str) -> None:
    """The intervals of a point, along both axes."""
    axes.errorbar(
        [x.number], [y.number], xerr=x.reach, yerr=y.reach, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.7
    )


def missing(found: Sequence[tuple[str, Value]]) -> list[str]:
    """A sentence on the variants that have no figure, by reason; none if all have one."""
    reasons: dict[str, list[str]] = {}
    for label, value in found:
        if value.value is None:
            reasons.setdefault(value.reason or "not measured", []).append(label)
    return [f"Not drawn: {', '.join(dict.fromkeys(labels))} ({reason})." for reason, labels in reasons.items()]

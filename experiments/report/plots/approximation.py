"""How far accepted blocks are from the exact best ones, beside the bound, and what the exact search costs.

Draws what the pass of that name left in a summary: mean gaps in nats per block, and forwards by entropy.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.report.plots.measured import Value, measured
from experiments.report.plots.options import lines_along
from experiments.report.plots.plot import Plot
from experiments.report.plots.style import GREY, Look, entry, look, missing, plot, sheet
from experiments.report.plots.sweep import OPTIONS, draw_line, draw_lines, place_values
from experiments.report.results import Run

ALONG = ("tau", "gamma", "width")
WITHOUT, WITH, BOUND = "gap_without_last_token", "gap_with_last_token", "gap_bound"
BOUND_LINE: Any = (0, (1, 1))
EXACT = "mjgd"  # whose blocks are the best ones, without a gap to draw; its own search is, where it was measured


def approximation(run: Run) -> Plot | None:
    """The gap without the last token beside its bound, and with it, along each option that was swept."""
    decoders = run.summary["decoders"]
    having = [label for label, own in decoders.items() if own.get("approximation") and own["decoder"] != EXACT]
    sweeps = {option: lines_along(run, option).only(having) for option in ALONG}
    sweeps = {option: lines for option, lines in sweeps.items() if lines.lines}
    if not sweeps:
        return None
    figure, panels = sheet(2 * len(sweeps), columns=len(sweeps))
    names = dict.fromkeys(line.name for lines in sweeps.values() for line in lines.lines)
    looks = {name: look(number) for number, name in enumerate(names)}
    found: list[tuple[str, Value]] = []
    for column, (option, lines) in enumerate(sweeps.items()):
        upper, lower = panels[column], panels[column + len(sweeps)]
        for axes, name in ((upper, WITHOUT), (lower, WITH)):
            found += draw_lines(axes, run, lines, name, looks)
            axes.set_xlabel(OPTIONS[option])
            axes.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
        places = place_values(upper, lines.values)
        for line in lines.lines:
            bound = [(places[x], measured(run, label, BOUND)) for x, label in line.labels.items()]
            style = Look(looks[line.name].colour, looks[line.name].marker, BOUND_LINE)
            draw_line(upper, bound, style, 0, hollow=True)
        upper.autoscale_view()
    legend = [entry(name, style) for name, style in looks.items()]
    legend.append(Line2D([], [], color=GREY, linestyle=BOUND_LINE, marker="o", markerfacecolor="white", label="bound"))
    caption = (
        "Log-probability of the exact best block of the same length and law minus that of the decoder's block, mean "
        "over proven blocks; 0: the block is the best one. Above: accepted draft tokens alone, with the bound that "
        "acceptance guarantees (hollow). Below: with the token that the target adds, which no bound covers."
    )
    return plot(
        run, "approximation", "gap between accepted and exact best blocks", figure, legend, [caption, *missing(found)]
    )


def exact(run: Run) -> Plot | None:
    """Target forwards of the exact search against the entropy before a block, and against the block's surprisal."""
    binned = {
        label: figures["approximation"]["bins"]
        for label, figures in run.summary["decoders"].items()
        if (figures.get("approximation") or {}).get("bins")
    }
    own = [label for label in binned if run.summary["decoders"][label]["decoder"] == EXACT]
    labels = own or list(binned)
    if not labels:
        return None
    figure, panels = sheet(2, width=4.7, height=4.0)
    for axes, key in zip(panels, ("entropy", "surprisal"), strict=True):
        for number, label in enumerate(labels):
            points = [(one[key], _forwards(one)) for one in binned[label] if one["blocks"] and one[key] is not None]
            draw_line(axes, sorted(points, key=itemgetter(0)), look(number), 0)
        _label(axes, key)
    legend = [entry(label, look(number)) for number, label in enumerate(labels)]
    caption = [
        "Mean target forwards of a block by the entropy of its first token's law.",
        "A block's forwards are those of the decoder's own search."
        if own
        else "Nobody decodes so here: these are searches for blocks of the length that the decoder wrote.",
    ]
    return plot(run, "exact", "what exact joint decoding costs", figure, legend, caption)


def _forwards(one: dict[str, Any]) -> Value:
    return Value(one["forwards"], one["forwards_low"], one["forwards_high"], one["forwards_reason"])


def _label(axes: Axes, key: str) -> None:
    titles = {
        "entropy": "entropy of the first token's law, mean of the bin (nats)",
        "surprisal": "surprisal of the best block, mean of the bin (nats)",
    }
    axes.set_xlabel(titles[key])
    axes.set_ylabel("target forwards per block\n(lower is better)")
    axes.autoscale_view()
    axes.set_ylim(bottom=0)

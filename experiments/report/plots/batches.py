"""Throughput and joules per token against the batch size, as windows of a run have measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.figure import counted
from experiments.report.plots.measured import Value
from experiments.report.plots.plot import Plot
from experiments.report.plots.style import INTERVALS, entry, look, missing, plot, sheet
from experiments.report.results import Run

PANELS = {
    "tokens_per_second": "tokens per second, prefill included\n(higher is better)",
    "latency_mean_seconds": "seconds from entering a row to a text's end, mean\n(lower is better)",
    "joules_per_token": "joules per token, idling included\n(lower is better)",
}


def batch_curves(run: Run) -> Plot | None:
    """One line a variant along the batch size; None without windows."""
    decoders: Mapping[str, Sequence[Mapping[str, Any]]] = (run.summary.get("batches") or {}).get("decoders") or {}
    if not decoders:
        return None
    found = {
        (name, label): [_value(one, name) for one in sizes] for name in PANELS for label, sizes in decoders.items()
    }
    names = [name for name in PANELS if any(v.value is not None for label in decoders for v in found[name, label])]
    figure, panels = sheet(len(names))
    looks = {label: look(place) for place, label in enumerate(decoders)}
    for axes, name in zip(panels, names, strict=True):
        for label, sizes in decoders.items():
            own = looks[label]
            points = [(one["batch_size"], value) for one, value in zip(sizes, found[name, label], strict=True)]
            there = [(size, value) for size, value in points if value.value is not None]
            axes.plot(
                [size for size, _ in there],
                [value.number for _, value in there],
                color=own.colour,
                marker=own.marker,
                linestyle=own.line,
                markersize=5,
            )
            for size, value in there:
                axes.errorbar([size], [value.number], yerr=value.reach, fmt="none", ecolor=own.colour, elinewidth=0.8)
        axes.set_xscale("log", base=2)
        ticks = sorted({one["batch_size"] for sizes in decoders.values() for one in sizes})
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("batch (texts)")
        axes.set_ylabel(PANELS[name])
    windows, schedule = counted(run.summary["batches"]["windows"], "window"), run.summary["batches"]["schedule"]
    caption = [f"{windows} of texts, schedule {schedule}; what happens until a window's last text ends counts."]
    caption += missing([(label, value) for name in names for label in decoders for value in found[name, label]])
    legend = [entry(label, own) for label, own in looks.items()]
    return plot(run, "batches", "by batch size", figure, legend, caption, f"{INTERVALS} over windows")


def _value(one: Mapping[str, Any], name: str) -> Value:
    return Value(one[name], one[f"{name}_low"], one[f"{name}_high"], one[f"{name}_reason"])

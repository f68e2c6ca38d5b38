"""Where time and energy go: seconds a token by phase, joules a token, and their split by batch from a cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from experiments.report.plots.measured import measured, metric
from experiments.report.plots.plot import Plot
from experiments.report.plots.style import COLOURS, INTERVALS, missing, plot, sheet
from experiments.report.results import Run

PHASES = {
    "prefill": (COLOURS[5], ""),
    "draft": (COLOURS[1], "///"),
    "target": (COLOURS[0], ""),
    "decide": (COLOURS[2], "..."),
    "commit": (COLOURS[3], "xxx"),
}
NOT_SPLIT = "decoding, not split"
LOOKS = {**PHASES, NOT_SPLIT: ("#999999", "\\\\\\")}
SOURCES = {"compute": (COLOURS[0], ""), "memory": (COLOURS[1], "///"), "idling": ("#999999", "...")}
BAR = 0.28  # inches


def time_split(run: Run) -> Plot | None:
    """Milliseconds per token of every variant, stacked by phase."""
    decoders = run.summary["decoders"]
    labels = [label for label, figures in decoders.items() if figures["tokens"]]
    if not labels:
        return None
    figure, (axes,) = sheet(1, width=6.5, height=1.0 + BAR * len(labels))
    _stack(axes, labels, [seconds_by_phase(decoders[label]) for label in labels], LOOKS, 1000)
    axes.set_xlabel("milliseconds per token, prefill included\n(lower is better)")
    used = [name for name in LOOKS if any(seconds_by_phase(decoders[label]).get(name) for label in labels)]
    caption = [
        "Seconds of each phase over the tokens of all texts. No intervals: those of speed-ups are of whole texts."
    ]
    if NOT_SPLIT in used:
        caption.append("Engines of other libraries are not timed forward by forward.")
    return plot(run, "time", "where the time goes", figure, _patches(LOOKS, used), caption, "")


def seconds_by_phase(figures: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per token; decoding in one where its phases were not timed."""
    seconds, tokens = figures["seconds"], figures["tokens"]
    phases = [name for name in PHASES if name != "prefill"]
    if any(seconds[name] is None for name in phases):
        return {"prefill": seconds["prefill"] / tokens, NOT_SPLIT: seconds["decode"] / tokens}
    return {name: seconds[name] / tokens for name in PHASES}


def energy(run: Run) -> Plot | None:
    """Joules per token of every variant; None where no device was read."""
    found = {label: measured(run, label, "joules_per_token") for label in run.summary["decoders"]}
    there = {label: value for label, value in found.items() if value.value is not None}
    if not there:
        return None
    figure, (axes,) = sheet(1, width=6.5, height=1.0 + BAR * len(there))
    for place, value in enumerate(there.values()):
        axes.barh(place, value.number, color=COLOURS[5], edgecolor="black", linewidth=0.5)
        axes.errorbar([value.number], [place], xerr=value.reach, fmt="none", ecolor="black", elinewidth=0.9)
    _rows(axes, list(there))
    axes.set_xlabel(metric(run, "joules_per_token").axis)
    return plot(run, "energy", "joules per token at batch 1", figure, [], missing(list(found.items())), INTERVALS)


def energy_by_batch(run: Run) -> Plot | None:
    """Joules per token by source and batch, from the run's cost model; None without one."""
    found = run.cost.get("energy") or {}
    splits: Mapping[str, Sequence[Mapping[str, Any]]] = found.get("splits") or {}
    if not splits:
        return None
    figure, panels = sheet(len(splits))
    any_measured = False
    for axes, (label, split) in zip(panels, splits.items(), strict=True):
        names = [str(one["batch"]) for one in split]
        bottom = [0.0] * len(split)
        for source, (colour, hatch) in SOURCES.items():
            height = [one.get(f"{KEYS[source]}_joules_per_token") or 0.0 for one in split]
            axes.bar(names, height, bottom=bottom, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
            bottom = [low + more for low, more in zip(bottom, height, strict=True)]
        at = [(str(one["batch"]), one["measured_joules_per_token"]) for one in split]
        there = [(batch, joules) for batch, joules in at if joules is not None]
        any_measured = any_measured or bool(there)
        axes.plot([batch for batch, _ in there], [joules for _, joules in there], "kD", markersize=5, linestyle="")
        axes.set_title(label)
        axes.set_xlabel("batch (texts)")
        axes.set_ylabel("joules per token\n(lower is better)")
    used = [
        name for name in SOURCES if any(one.get(f"{KEYS[name]}_joules_per_token") for s in splits.values() for one in s)
    ]
    source = found["prices"]["source"]
    caption = [
        f"By a cost model, with prices {source}.",
        "Diamonds are measured." if any_measured else "None is measured.",
    ]
    what = "energy by batch, modelled" + ("" if any_measured else ", not measured")
    return plot(run, "energy-by-batch", what, figure, _patches(SOURCES, used), caption, "")


KEYS = {"compute": "compute", "memory": "memory", "idling": "idle"}


def _stack(
    axes: Axes,
    labels: Sequence[str],
    parts: Sequence[Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
    scale: float,
) -> None:
    """One bar for each label, its parts one after another."""
    for place, part in enumerate(parts):
        left = 0.0
        for name, value in part.items():
            colour, hatch = looks[name]
            axes.barh(place, value * scale, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
            left += value * scale
    _rows(axes, labels)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """The first label on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(right=1.04 * axes.dataLim.x1)


def _patches(looks: Mapping[str, tuple[str, str]], used: Sequence[str]) -> list[Patch]:
    return [Patch(facecolor=looks[n][0], hatch=looks[n][1], edgecolor="white", label=n) for n in looks if n in used]

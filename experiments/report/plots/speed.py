"""Quality against speed: every variant as a point, relative to autoregressive decoding, with the frontier's sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.baseline import BASELINE
from experiments.report.plots.measured import compared, metric
from experiments.report.plots.plot import Plot
from experiments.report.plots.style import GREY, Look, cross, entry, missing, numbered, plot, say, sheet
from experiments.report.results import Run

PANELS = ("perplexity_ratio", "score_difference")
OTHER_LAW = "lossless, but of another sampling"
KINDS = {
    "lossless": Look("#0072B2", "o", ""),
    "lossy": Look("#D55E00", "s", ""),
    "other library": Look("#009E73", "D", ""),
    OTHER_LAW: Look(GREY, "h", ""),
    "kind not recorded": Look("#000000", "p", ""),
}
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20)
FINE = (0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.4)  # where fewer than three of those fit


def quality_speed(run: Run) -> Plot | None:
    """Perplexity and score over the speed-up; None without autoregressive decoding."""
    labels = by_speed(run)
    if not labels:
        return None
    figure, panels = sheet(len(PANELS), width=4.7, height=4.3)
    for axes, name in zip(panels, PANELS, strict=True):
        _panel(axes, run, labels, name)
    caption = [f"Each variant against {BASELINE}, with 95 % intervals; the numbers are explained in the legend."]
    if sweeps := _sweeps(run.summary):
        caption.append(f"Grey lines join the settings of {BASELINE} along {' and '.join(sweeps)}.")
    without = [(label, compared(run, label, name)) for label in labels for name in PANELS]
    return plot(
        run, "quality-speed", "quality against speed", figure, _legend(run, labels), [*caption, *missing(without)]
    )


def by_speed(run: Run) -> list[str]:
    """The variants that are compared with autoregressive decoding and have a speed-up, the fastest first."""
    if BASELINE not in run.summary["decoders"]:
        return []
    speed = {label: compared(run, label, "speedup").value or 0 for label in run.summary["decoders"]}
    return sorted((label for label in speed if label != BASELINE and speed[label] > 0), key=lambda label: -speed[label])


def kind(run: Run, label: str) -> str:
    """What a reader must know of a variant before he compares it."""
    figures, baseline = run.summary["decoders"][label], run.summary["decoders"][run.baseline]
    if figures.get("lossless") is None:
        return "kind not recorded"
    if figures["kind"] == "engine":
        return "other library"
    if not figures["lossless"]:
        return "lossy"
    return "lossless" if figures.get("sampling") == baseline.get("sampling") else OTHER_LAW


def _panel(axes: Axes, run: Run, labels: Sequence[str], name: str) -> None:
    """One numbered point for each variant that has both figures; the frontier's sweeps as lines."""
    found = {label: (compared(run, label, "speedup"), compared(run, label, name)) for label in labels}
    if all(y.value is None for _, y in found.values()):
        say(axes, f"not drawn: {next(iter(found.values()))[1].reason}")
        axes.set_axis_off()
        return
    null = compared(run, BASELINE, name).value or 0
    axes.set_xscale("log")
    axes.axvline(1, color="#cccccc", linewidth=0.8, zorder=0)
    axes.axhline(null, color="#cccccc", linewidth=0.8, zorder=0)
    for place, label in enumerate(labels, start=1):
        x, y = found[label]
        if x.value is None or y.value is None:
            continue
        look = KINDS[kind(run, label)]
        cross(axes, x, y, look.colour)
        numbered(axes, place, x.value, y.value, look.colour, look.marker)
    for sweep in _sweeps(run.summary).values():
        pairs = [(compared(run, label, "speedup").value, compared(run, label, name).value) for label in sweep]
        line = [(x, y) for x, y in pairs if x is not None and y is not None]
        axes.plot([x for x, _ in line], [y for _, y in line], color=GREY, linewidth=0.8, zorder=0)
    left, right = axes.get_xlim()
    ticks = [tick for tick in TICKS if left <= tick <= right]
    ticks = ticks if len(ticks) > 2 else [tick for tick in FINE if left <= tick <= right]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("speed-up of decoding over autoregressive, log scale\n(higher is better)")
    axes.set_ylabel(metric(run, name).axis)


def _sweeps(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """The variants of each sweep of the frontier, by its knob, in order."""
    points = (summary.get("frontier") or {"points": []})["points"]
    knobs = dict.fromkeys(point["knob"] for point in points)
    return {knob: [point["variant"] for point in points if point["knob"] == knob] for knob in knobs}


def _legend(run: Run, labels: Sequence[str]) -> list[Line2D]:
    """The names behind the numbers, each in the look of its kind, the kinds below."""
    kinds = {label: kind(run, label) for label in labels}
    named = [entry(f"{number}  {label}", KINDS[kinds[label]]) for number, label in enumerate(labels, start=1)]
    return [
        *named,
        entry("", Look("none", "", "")),
        *(entry(name, KINDS[name]) for name in dict.fromkeys(kinds.values())),
    ]

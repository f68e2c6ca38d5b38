"""Draws quality against speed: python -m scripts.plots RUN... [--out FOLDER]

RUN is a run's folder or a file such as results/reference/tiny-sql.json. For each of them <name>-quality-speed.png shows
perplexity and score against autoregressive decoding over the speed-up, with 95 % intervals. Reads summaries only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.frontier import GROUP
from experiments.summarise import BASELINE

Summary = Mapping[str, Any]
PANELS = {  # metric of the summary -> how its axis is called
    "perplexity_ratio": "perplexity, relative to autoregressive",
    "score_difference": "score, difference from autoregressive",
}
COLOURS = {  # Okabe and Ito's, told apart by colour-blind readers too
    "lossless": "#0072B2",
    "lossy": "#D55E00",
    "other library": "#009E73",
    "autoregressive at other settings": "#777777",
    "kind not recorded": "#000000",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every run that is named."""
    parser = argparse.ArgumentParser(prog="python -m scripts.plots", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a summary file")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where the pictures go (default: .)")
    options = parser.parse_args(arguments)
    drawn = [(name, draw(summary)) for name, summary in map(read, options.runs)]
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn:
            picture = options.out / f"{name}-quality-speed.png"
            figure.savefig(picture, dpi=150)
            print(picture)
    except OSError as error:
        sys.exit(f"error: cannot write to {options.out}: {error.strerror}")


def read(run: Path) -> tuple[str, Summary]:
    """Name and summary of a run. Exits with one line if there is none, or nothing to set anything against."""
    file = run / "summary.json" if run.is_dir() else run
    name = run.resolve().parent.name + "-" + run.resolve().name if run.is_dir() else run.stem
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = None
    if not isinstance(summary, dict) or not {"model", "task", "decoders", "comparisons"} <= summary.keys():
        sys.exit(f"error: {file} is no summary of a run; name a folder that holds summary.json, or such a file")
    if any("lossless" not in figures for figures in summary["decoders"].values()):
        sys.exit(f"error: {file} is of an older version; the command of that run, given again, writes it anew")
    if BASELINE not in summary["decoders"]:
        sys.exit(f"error: {file} compares nothing with {BASELINE}; measure with reference=[{BASELINE},...]")
    return name, summary


def draw(summary: Summary) -> Figure:
    """Two panels over the speed-up, and a list of the numbered points."""
    found = {(one["decoder"], one["metric"]): one for one in summary["comparisons"] if one["reference"] == BASELINE}
    labels = [label for label in by_speed(summary, found) if (found[label, "speedup"]["value"] or 0) > 0]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            panel(axes, summary, found, labels, metric)
            axes.set_xlabel("speed-up of decoding over autoregressive (log scale)")
            axes.set_ylabel(title)
        figure.suptitle(f"{summary['model']}, {summary['task']}: quality against speed, 95 % intervals")
        figure.legend(handles=_legend(summary, labels), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def panel(
    axes: Axes, summary: Summary, found: Mapping[tuple[str, str], Summary], labels: Sequence[str], metric: str
) -> None:
    """One numbered point for each variant that has both figures, with its intervals; the frontier's sweeps as lines."""
    sweeps = (summary.get("frontier") or {"points": []})["points"]
    axes.set_xscale("log")
    axes.axvline(1, color="#cccccc", linewidth=0.8, zorder=0)
    null = found[labels[0], metric]["null"] if labels else 0
    axes.axhline(null, color="#cccccc", linewidth=0.8, zorder=0)
    for place, label in enumerate(labels, start=1):
        x, y = found[label, "speedup"], found[label, metric]
        if y["value"] is None:
            continue
        colour = COLOURS[kind(summary, label)]
        axes.errorbar(
            x["value"], y["value"], xerr=_reach(x), yerr=_reach(y), color=colour, elinewidth=0.8, alpha=0.6, zorder=1
        )
        axes.plot(x["value"], y["value"], "o", color=colour, markersize=10, zorder=2)
        axes.annotate(
            str(place), (x["value"], y["value"]), color="white", fontsize=7, ha="center", va="center", zorder=3
        )
    for knob in dict.fromkeys(point["knob"] for point in sweeps):
        sweep = [point["variant"] for point in sweeps if point["knob"] == knob]
        line = [
            (1, null) if label == BASELINE else (found[label, "speedup"]["value"], found[label, metric]["value"])
            for label in sweep
            if label in (*labels, BASELINE)
        ]
        axes.plot(*zip(*line, strict=True), color=COLOURS["autoregressive at other settings"], linewidth=0.8, zorder=0)
    ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20) if _within(tick, axes.get_xlim())]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def by_speed(summary: Summary, found: Mapping[tuple[str, str], Summary]) -> list[str]:
    """The variants that are compared, the fastest first."""
    labels = [label for label in summary["decoders"] if (label, "speedup") in found]
    return sorted(labels, key=lambda label: -(found[label, "speedup"]["value"] or 0))


def kind(summary: Summary, label: str) -> str:
    """What a reader must know of a variant before he compares it."""
    figures = summary["decoders"][label]
    if figures["group"] == GROUP:
        return "autoregressive at other settings"
    if figures["lossless"] is None:
        return "kind not recorded"
    if figures["kind"] == "engine":
        return "other library"
    return "lossless" if figures["lossless"] else "lossy"


def _legend(summary: Summary, labels: Sequence[str]) -> list[Line2D]:
    """The names behind the numbers, each in the colour of its kind, the kinds below."""

    def entry(colour: str, text: str) -> Line2D:
        return Line2D([], [], marker="o", linestyle="", color=colour, label=text)

    numbered = [entry(COLOURS[kind(summary, label)], f"{i}  {label}") for i, label in enumerate(labels, start=1)]
    kinds = dict.fromkeys(kind(summary, label) for label in labels)
    return [*numbered, entry("none", ""), *(entry(COLOURS[name], name) for name in kinds)]


def _reach(found: Summary) -> list[list[float]] | None:
    """How far the interval reaches below and above the value, as errorbar wants it."""
    if found["low"] is None:
        return None
    return [[found["value"] - found["low"]], [found["high"] - found["value"]]]


def _within(tick: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= tick <= limits[1]


if __name__ == "__main__":
    main()

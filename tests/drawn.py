"""Summaries to draw, their plots, and what is in these."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.report.plots import Plot, plots
from experiments.report.results import Results, Run
from experiments.summarise import summarise
from tests.made_rows import random_rows, sampling, summary_of, swept, texts_at, timed

REAL = {"parameters": {"target": 13_000_000_000, "draft": 68_000_000}, "experiment": None, "figure": None}
PANELS = ("perplexity", "score", "speedup")
TINY = {**REAL, "parameters": {"target": 11_000_000, "draft": 600_000}}


def summary() -> dict[str, Any]:
    names = {"fast": "mtad", "slow": "autoregressive"}
    rows = [{**r, "lossless": False, "variant": names[r["variant"]]} for r in random_rows(12, 1)]
    return {**summary_of(rows, "mtad", "autoregressive"), **REAL}


def along_gamma(**changes: Any) -> dict[str, Any]:
    """The sweep with changes."""
    return {**deepcopy(_along_gamma()), **REAL, "figure": {"x": "gamma", "panels": list(PANELS)}, **changes}


@cache
def _along_gamma() -> dict[str, Any]:
    """Two searches along gamma, one of them at another width too, beside autoregressive decoding."""
    chance = np.random.default_rng(2)
    ease = chance.uniform(0.2, 1.4, 12)
    variants = {
        f"{search} {gamma}": {"decoder": "mjgd", "options": {"gamma": gamma, "search": search, "width": 8}}
        for search in ("exact", "beam")
        for gamma in (1, 2, 4)
    }
    variants["wide"] = {"decoder": "mjgd", "options": {"gamma": 2, "search": "beam", "width": 16}}
    rows = [
        r
        for number, (label, own) in enumerate(variants.items())
        for r in texts_at(chance, label, ease, [0.2 + 0.1 * number] * 12, lossless=False, sampling=sampling(), **own)
    ]
    rows += texts_at(chance, "autoregressive", ease, [1.0] * 12, **swept(1.0))
    for r in rows:
        r["seconds"] = timed(0.1, chance.uniform(0.5, 1.5))
    return summarise(rows, "id", "llama2-13b", "toy", [*variants, "autoregressive"])


def of(made: dict[str, Any], path: Path | None = None) -> dict[str, Plot]:
    """The plots of a run, by their kind."""
    run = Run("made", path, made)
    found = plots(Results(Path(), (run,)))
    return {plot.name.removeprefix("made-"): plot for plot in found}


def bars(axes: Axes) -> list[tuple[float, ...]]:
    """The ends of all intervals that are drawn, (x, y, x, y)."""
    return [tuple(np.ravel(part).round(9)) for lines in axes.collections for part in lines.get_segments()]


def texts(plot: Plot) -> str:
    return " ".join(text.get_text() for axes in plot.figure.axes for text in axes.texts)

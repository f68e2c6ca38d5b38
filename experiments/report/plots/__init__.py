"""Results as pictures, each kind where a run holds what it shows. Reads summaries and cost models; changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl

from experiments.report.plots.approximation import approximation, exact
from experiments.report.plots.batches import batch_curves
from experiments.report.plots.costs import energy, energy_by_batch, time_split
from experiments.report.plots.frontier import frontier
from experiments.report.plots.plot import FORMATS, STYLE, Plot, picture
from experiments.report.plots.scatter import perplexity_score
from experiments.report.plots.speed import quality_speed
from experiments.report.plots.sweep import sweep
from experiments.report.results import Results, Run

__all__ = ["FORMATS", "Plot", "picture", "plots"]

KINDS: tuple[Callable[[Run], Plot | None], ...] = (
    *(sweep, approximation, exact),
    *(quality_speed, frontier, perplexity_score),
    *(energy, batch_curves, energy_by_batch, time_split),
)


def plots(results: Results) -> list[Plot]:
    """What can be drawn of these runs, run by run."""
    with mpl.rc_context(STYLE):
        return [plot for run in results.runs for kind in KINDS if (plot := kind(run))]

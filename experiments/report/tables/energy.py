"""Energy by batch, split into compute and memory access, as in the paper's table 2.

Measured is what a run's windows have (`batch_size`), or at batch 1 alone, where it has none, its blocks of texts. The
split, at every batch, is the cost study's (cost.json in the run's folder): modelled per token from FLOPs and bytes,
with the prices that it names. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.batch_notes import metering_notes
from experiments.report.results import Run
from experiments.report.tables.batches import by_size, measured, ratio
from experiments.report.tables.figures import (
    ENERGY_RATIO,
    HEADING,
    VARIANT,
    Figures,
    against,
    caveats_of,
    dagger,
    sections_of,
)
from experiments.report.tables.table import Cell, Column, Row, Table, finished

EXPERIMENT = "table2"
ONE_BY_ONE = "the run has no windows of this batch size; only the split knows it"
NO_SPLIT = "not split; python -m experiments.cost, with the settings of the run, does that"
SPLIT = {  # key of a column -> key of the record
    "compute": "compute_joules_per_token",
    "memory": "memory_joules_per_token",
    "memory_share": "memory_share",
    "idle": "idle_joules_per_token",
    "read": "measured_joules_per_token",
}
COLUMNS = (
    *HEADING,
    VARIANT,
    Column("batch", "batch", "d"),
    Column("joules_per_token", "J/token\nmeasured", ".4g"),
    ENERGY_RATIO,
    Column("compute", "compute\nJ/token", ".3g"),
    Column("memory", "memory\nJ/token", ".3g"),
    Column("memory_share", "memory\nshare", ".1%"),
    Column("idle", "idle\nJ/token", ".3g"),
    Column("read", "one read\nmeasured", ".4g"),
)


def energy_table(figures: Figures, runs: Sequence[Run]) -> Iterator[Table]:
    """The table of the runs of that experiment, and of those with a cost study; none without any."""
    shown = [run for run in runs if run.summary.get("experiment") == EXPERIMENT or run.cost]
    sections = sections_of(shown)
    rows = [row for run in shown for row in _rows(figures, run, sections[run.name])]
    if rows:
        metered = [f"{run.name}: {note}" for run in shown for note in metering_notes(run.summary.get("batches") or {})]
        notes = [*against(shown), *metered, *caveats_of(shown), *_sources(run.cost for run in shown)]
        yield finished(EXPERIMENT, f"Energy by batch{dagger(*shown)}", COLUMNS, rows, notes)


def _rows(figures: Figures, run: Run, section: str) -> Iterator[Row]:
    """One line for each variant, and one more for each larger batch that it was measured at or split for."""
    study = run.cost
    splits = (study.get("energy") or {}).get("splits", {})
    for label in run.summary["decoders"]:
        of_label = {split["batch"]: split for split in splits.get(label, ())}
        windows = by_size(run, label)
        for batch in sorted({1, *windows, *of_label}):
            own = {"batch": Cell(batch), **_split(of_label.get(batch), study.get("energy_reason") or NO_SPLIT)}
            if batch in windows:
                own |= {"joules_per_token": measured(windows[batch], "joules_per_token")}
                own |= {ENERGY_RATIO.key: ratio(windows[batch], "energy_ratio")}
            elif batch > 1:
                own |= {"joules_per_token": Cell(None, ONE_BY_ONE), ENERGY_RATIO.key: Cell(None, ONE_BY_ONE)}
            yield figures.row(run, label, COLUMNS, section, **own)


def _split(split: Mapping[str, Any] | None, absent: str) -> dict[str, Cell]:
    if split is None:
        return {key: Cell(None, absent) for key in SPLIT}
    return {key: Cell(split[name], split.get(f"{name}_reason")) for key, name in SPLIT.items()}


def _sources(studies: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """Where the prices of the split come from."""
    for study in studies:
        if study.get("energy"):
            yield f"compute, memory: modelled for the target's reads, of {study['energy']['prices']['source']}"

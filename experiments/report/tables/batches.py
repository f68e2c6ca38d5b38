"""Throughput, latency and energy by batch size, of runs that have written windows of texts in batches. Copies only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.batch_notes import left_out_notes, metering_notes
from experiments.figure import counted
from experiments.report.results import Run
from experiments.report.tables.figures import HEADING, ITSELF, VARIANT, Figures, caveats_of, dagger, sections_of
from experiments.report.tables.table import Cell, Column, Row, Table, finished

NAME = "batches"
COMPARED = {  # key of a column -> key of the record
    "batch_speedup": "speedup",
    "over_single": "speedup_over_single",
    "batch_energy_ratio": "energy_ratio",
    "energy_to_single": "energy_ratio_to_single",
}
OWN = ("tokens_per_second", "latency_mean_seconds", "joules_per_token")  # with intervals
PLAIN = (
    *("latency_median_seconds", "latency_p95_seconds", "row_use", "texts_differing", "texts_unexplained"),
    *("texts", "tokens", "seconds", "prefill_seconds", "target_forwards", "draft_forwards"),
)
COLUMNS = (
    *HEADING,
    VARIANT,
    Column("batch", "batch", "d"),
    Column("batch.tokens_per_second", "tokens\n/s", ".1f"),
    Column("batch_speedup", "speed-up", ".2f", "higher"),
    Column("over_single", "over\nbatch 1", ".2f", "higher"),
    Column("batch.latency_mean_seconds", "latency\ns, mean", ".2f"),
    Column("batch.latency_p95_seconds", "p95", ".2f"),
    Column("batch.joules_per_token", "J/token", ".4g"),
    Column("batch_energy_ratio", "J/token\nratio", ".3f", "lower"),
    Column("energy_to_single", "to\nbatch 1", ".3f", "lower"),
    Column("batch.row_use", "row\nuse", ".0%"),
    *(Column(f"batch.{key}", "", "g") for key in PLAIN if key not in ("latency_p95_seconds", "row_use")),
)
NOTES = (
    "tokens/s: of whole windows, prefill included; intervals over windows",
    "speed-up, J/token ratio: against the reference at the same batch size",
    "latency: from entering a row to the end of the text, the queue before it left out",
    "row use: share of the time that rows held a text",
)


def batch_table(figures: Figures, runs: Sequence[Run]) -> Iterator[Table]:
    """One line for each variant and size; none without windows."""
    shown = [run for run in runs if any(by_size(run, label) for label in run.summary["decoders"])]
    sections = sections_of(shown)
    rows = [row for run in shown for row in _rows(figures, run, sections[run.name])]
    if rows:
        notes = [*NOTES, *(note for run in shown for note in _notes(run)), *caveats_of(shown)]
        yield finished(NAME, f"Batches{dagger(*shown)}", COLUMNS, rows, notes)


def by_size(run: Run, label: str) -> dict[int, Mapping[str, Any]]:
    """The figures of a variant's windows; none where there are none, as in summaries of the first versions."""
    found = (run.summary.get("batches") or {}).get("decoders", {}).get(label, ())
    return {one["batch_size"]: one for one in found}


def measured(one: Mapping[str, Any], name: str) -> Cell:
    """A figure with its interval, if it has one."""
    low, high = one.get(f"{name}_low"), one.get(f"{name}_high")
    reason = one.get(f"{name}_reason") or one.get(f"{name}_low_reason")
    return Cell(one[name], reason, low, high)


def ratio(one: Mapping[str, Any], name: str) -> Cell:
    """A comparison of two cells of the same windows."""
    found = one[name]
    if found["reason"] == ITSELF:
        return Cell(1.0, ITSELF, low=1.0, high=1.0, null=1.0)
    return Cell(found["value"], found["reason"], found["low"], found["high"], null=1.0, detectable=found["detectable"])


def _rows(figures: Figures, run: Run, section: str) -> Iterator[Row]:
    for label in run.summary["decoders"]:
        for size, one in by_size(run, label).items():
            own = {f"batch.{name}": measured(one, name) for name in (*OWN, *PLAIN)}
            own |= {key: ratio(one, name) for key, name in COMPARED.items()}
            yield figures.row(run, label, COLUMNS, section, batch=Cell(size), **own)


def _notes(run: Run) -> Iterator[str]:
    """What was left out of a run's windows, and which texts nobody can explain."""
    found = run.summary["batches"]
    reference = next(iter(one["reference"] for sizes in found["decoders"].values() for one in sizes))
    windows = counted(found["windows"], "window")
    yield f"{run.name}: {windows}, schedule {found['schedule']}, reference {reference}"
    yield from (f"{run.name}: {note}" for note in metering_notes(found))
    yield from (f"{run.name}: {note}" for note in left_out_notes(found["left_out"]))
    every = [one for sizes in found["decoders"].values() for one in sizes]
    differing, unexplained = (sum(one[key] for one in every) for key in ("texts_differing", "texts_unexplained"))
    if differing:
        yield (
            f"{run.name}: {differing} texts leave those written alone, {differing - unexplained} of them where less "
            f"than the logits' tolerance decides" + (f"; UNEXPLAINED: {unexplained}" if unexplained else "")
        )
    yield from (f"{run.name}: {note}" for note in found["isolation"])
    if (versions := len(found["code_versions"])) > 1:
        yield f"{run.name}: MIXED: windows of {versions} versions of the code"

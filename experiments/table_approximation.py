"""The table at the end of a run that sets blocks beside the best ones. Knows summaries alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.table_style import Summary, number, plain_table, share

HEADS = ["blocks", "gap", "bound", "gap with the\nlast token", "proven", "for-\nwards"]


def approximation_tables(summary: Summary) -> Iterator[Table]:
    """One, if any variant's blocks were set beside the best ones."""
    if not (measured := _measured(summary)):
        return
    table = plain_table("Log-probability of the best block minus that of the decoder's", ["variant"], HEADS)
    for label, found in measured.items():
        accepted, emitted = (found[kind] or {} for kind in ("accepted", "emitted"))
        table.add_row(
            escape(label),
            str(accepted.get("blocks", "-")),
            _with_interval(accepted, "gap"),
            number(accepted.get("bound"), 2),
            _with_interval(emitted, "gap"),
            share(emitted.get("proven_share")),
            number(emitted.get("forwards"), 1),
        )
    yield table


def approximation_notes(summary: Summary) -> Iterator[str]:
    """What the table leaves open."""
    if not (measured := _measured(summary)):
        return
    yield (
        "gap: nats per accepted block, to the best one of the same length and law, over proven ones; 0 is the best; "
        "bound: what acceptance promises that it stays below, on average; forwards: of the target, for one exact search"
    )
    yield from sorted(
        {f"no accepted block: {found['accepted_reason']}" for found in measured.values() if not found["accepted"]}
    )
    if cut := sum(found["cut"] for found in measured.values()):
        yield f"{cut} rounds are left out, as a stop string has cut their blocks"


def _measured(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """Not all are in summaries of the first versions."""
    decoders = summary["decoders"].items()
    return {label: figures["approximation"] for label, figures in decoders if figures.get("approximation")}


def _with_interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.2f},{high:.2f}]"
    return number(figures.get(name), 3) + interval

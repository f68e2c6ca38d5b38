"""Folders as runs leave them, and the tables of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.journal import Row as Journal
from experiments.report.results import read_results
from experiments.report.tables import Cell, Table, tables
from experiments.summarise import summarise
from tests.made_rows import random_rows

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
REAL = {"parameters": {"target": 8_000_000_000, "draft": 1_000_000_000}}
TINY = {"parameters": {"target": 7_900_000, "draft": 1_000_000}}


def made(labels: Mapping[str, str] | None = None, **changes: Any) -> tuple[dict[str, Any], list[Journal]]:
    """Summary and rows of a run, its variants under these labels instead of fast and slow."""
    names = labels or {"fast": "mtad", "slow": "autoregressive"}
    rows = [
        {
            **one,
            "variant": names[one["variant"]],
            "decoder": names[one["variant"]],
            "lossless": one["variant"] == "slow",
        }
        for one in random_rows(12, 1)
    ]
    return {**summarise(rows, "id", "tiny", "toy", list(names.values())), **TINY, **changes}, rows


def save(folder: Path, summary: Mapping[str, Any] | None = None, rows: Sequence[Journal] = ()) -> Path:
    """A run's folder as a run leaves it."""
    folder.mkdir(parents=True)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return folder


def of(place: Path, name: str) -> Table:
    """One table of the results there."""
    return {table.name: table for table in tables(read_results(place))}[name]


def cell(table: Table, label: str, key: str) -> Cell:
    keys = [column.key for column in table.columns]
    rows = [one for one in table.rows if one.cells[keys.index("variant")].value == label]
    return rows[0].cells[keys.index(key)]

"""Which windows have joules, and how these were measured. Reads records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.batch_windows import Cell
from experiments.energy_report import devices_of, throttles_of
from experiments.journal import Row


def with_joules(windows: Sequence[Mapping[Cell, Row]]) -> list[Mapping[Cell, Row]]:
    """The windows in which every cell has joules, so that all figures of energy are of the same texts."""
    return [window for window in windows if all(record["joules"] is not None for record in window.values())]


def metering(windows: Sequence[Mapping[Cell, Row]]) -> dict[str, Any] | None:
    """How the windows with joules were measured; None where there are none."""
    kept = with_joules(windows)
    records = [record for window in kept for record in window.values()]
    if not records:
        return None
    devices = [device for record in records for device in devices_of(record)]
    lost = [record["joules_reason"] for window in windows for record in window.values() if record["joules"] is None]
    return {
        "source": records[0]["source"],
        "windows": len(kept),
        "failures": sorted(set(lost)),
        "shortest_seconds": min(record["seconds"] for record in records),
        "methods": sorted({device["method"] for device in devices}),
        "method_reasons": sorted({device["method_reason"] for device in devices if device["method_reason"]}),
        "shared": any(device["shared"] for device in devices),
        "device_sets": len({frozenset(device["uuid"] for device in devices_of(record)) for record in records}),
        "cells": len(records),
        "cells_disagreeing": sum(any(device["disagrees"] for device in devices_of(record)) for record in records),
        "cells_throttled": sum(bool(throttles_of(record)) for record in records),
    }

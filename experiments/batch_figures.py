"""From the records of windows to figures by variant and batch size; the bootstrap resamples windows.

Figures are ratios of sums over windows: tokens over seconds, seconds of latency over texts, joules over tokens. Reads
records only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.baseline import baseline_of
from experiments.batch_energy import metering, with_joules
from experiments.batch_windows import CELLS, Asked, Cell, arranged, settled_windows
from experiments.energy import Timed
from experiments.figure import figure, ratio
from experiments.intervals import CONFIDENCE, Estimate, Sums, estimate_of_sums, sums
from experiments.isolation import findings
from experiments.journal import Row
from mtad.batch import SCHEDULE

UNIT = "windows"
ITSELF = "the reference itself"
NO_WINDOW = "no window was measured at all sizes for all variants"
NOT_WHOLE = "no window has joules in all its cells"
SECONDS, TOKENS, LATENCY, TEXTS, JOULES = range(5)  # columns of a window

Statistic = Callable[..., np.ndarray]  # of sums over windows [..., columns]


def batches(records: Sequence[Row], rows: Iterable[Row], asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What summary.json says of the batches; None where none were asked for.

    Args:
        records: of batches.jsonl.
        rows: of the run's texts, which say what the windows hold.
        asked: the fields of `Asked`.
    """
    if asked is None:
        return None
    wanted = Asked(**{**asked, "sizes": tuple(asked["sizes"]), "labels": tuple(asked["labels"])})
    lists, wanted = arranged(Timed(rows).items, wanted)
    windows = list(settled_windows(records, lists, wanted).values())
    found = _Figures(windows, wanted)
    every = [record for window in windows for record in window.values()]
    return {
        "schedule": SCHEDULE,
        "sizes": list(wanted.sizes),
        "windows": len(windows),
        "reason": None if windows else NO_WINDOW,
        "left_out": dict(wanted.left_out),
        "confidence": CONFIDENCE,
        "isolation": findings([record["isolation"] for record in every], CELLS),
        "energy": metering(windows),
        "code_versions": sorted({record["code"] for record in every}),
        "processes": sorted({record["process_id"] for record in every}),
        "decoders": {label: [found.of(label, size) for size in wanted.sizes] for label in wanted.labels if windows},
    }


class _Figures:
    """Sums over the windows of every cell, resampled together; for joules, over the windows that have them."""

    def __init__(self, windows: Sequence[Mapping[Cell, Row]], asked: Asked) -> None:
        self._records = {cell: [window[cell] for window in windows] for cell in asked.cells}
        metered = with_joules(windows)
        self._sums = {cell: _sums(windows, cell) for cell in asked.cells}
        self._metered = {cell: _sums(metered, cell) for cell in asked.cells}
        every = [one for records in self._records.values() for one in records]
        reasons = (one["joules_reason"] for one in every if one["joules"] is None)
        self._no_joules = None if metered else next(reasons, None) or NOT_WHOLE
        self._baseline = baseline_of(asked.labels) if asked.labels else None

    def of(self, label: str, size: int) -> dict[str, Any]:
        """The figures of a variant at a size, each with its interval."""
        cell, records = (label, size), self._records[label, size]
        latencies = np.concatenate([one["latency_seconds"] for one in records])
        alone, baseline = (label, 1), (self._baseline or label, size)
        whole = {key: sum(one[key] for one in records) for key in ("texts", "tokens", "seconds", "prefill_seconds")}
        counts = {key: sum(one[key] for one in records) for key in COUNTS}
        return {
            "batch_size": size,
            **whole,
            **counts,
            "row_use": ratio(float(latencies.sum()), whole["seconds"] * size),
            "latency_median_seconds": float(np.median(latencies)),
            "latency_p95_seconds": float(np.quantile(latencies, 0.95)),
            **self._interval("tokens_per_second", _rate, cell),
            **self._interval("latency_mean_seconds", _latency, cell),
            **self._interval("joules_per_token", _joules, cell),
            "speedup_over_single": self._compared(_rate, cell, alone),
            "speedup": self._compared(_rate, cell, baseline),
            "energy_ratio_to_single": self._compared(_joules, cell, alone),
            "energy_ratio": self._compared(_joules, cell, baseline),
            "reference": baseline[0],
        }

    def _interval(self, name: str, value: Statistic, cell: Cell) -> dict[str, Any]:
        known = self._estimate(value, [cell])
        return {
            **figure(name, known.value, known.reason),
            **figure(f"{name}_low", known.low, known.reason),
            **figure(f"{name}_high", known.high, known.reason),
        }

    def _compared(self, value: Statistic, cell: Cell, other: Cell) -> dict[str, Any]:
        """The ratio of a cell's figure to another's, of the same windows."""
        if cell == other and not (value is _joules and self._no_joules):
            return asdict(Estimate(1.0, reason=ITSELF))
        return asdict(self._estimate(value, [cell, other]))

    def _estimate(self, value: Statistic, cells: Sequence[Cell]) -> Estimate:
        """A figure of a cell, or its ratio to that of a second one."""
        if value is _joules and self._no_joules:
            return Estimate(None, reason=self._no_joules)
        of = self._metered if value is _joules else self._sums
        with np.errstate(divide="ignore", invalid="ignore"):
            return estimate_of_sums(
                lambda first, *second: value(first) / (value(*second) if second else 1),
                [of[cell] for cell in cells],
                unit=UNIT,
            )


COUNTS = ("target_forwards", "draft_forwards", "texts_differing", "texts_unexplained")


def _sums(windows: Sequence[Mapping[Cell, Row]], cell: Cell) -> Sums:
    return sums(np.array([_columns(window[cell]) for window in windows]).reshape(len(windows), JOULES + 1))


def _columns(record: Row) -> list[float]:
    joules = np.nan if record["joules"] is None else record["joules"]
    return [record["seconds"], record["tokens"], sum(record["latency_seconds"]), record["texts"], joules]


def _rate(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., TOKENS] / s[..., SECONDS])


def _latency(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., LATENCY] / s[..., TEXTS])


def _joules(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., JOULES] / s[..., TOKENS])

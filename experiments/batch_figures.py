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
from experiments.batch_windows import Asked, Cell, arranged, settled_windows
from experiments.energy import Timed
from experiments.figure import figure, ratio
from experiments.intervals import CONFIDENCE, Estimate, Sums, estimate_of_sums, sums
from experiments.isolation import findings
from experiments.journal import Row
from mtad.batch import SCHEDULE

UNIT = "windows"
ITSELF = "the reference itself"
NO_WINDOW = "no window was measured at all sizes for all variants"
NOT_WHOLE = "not every window has joules"
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
        "isolation": findings([record["isolation"] for record in every], UNIT),
        "code_versions": sorted({record["code"] for record in every}),
        "processes": sorted({record["process_id"] for record in every}),
        "decoders": {label: [found.of(label, size) for size in wanted.sizes] for label in wanted.labels if windows},
    }


class _Figures:
    """Sums over the windows of every cell, resampled together."""

    def __init__(self, windows: Sequence[Mapping[Cell, Row]], asked: Asked) -> None:
        self._records = {cell: [window[cell] for window in windows] for cell in asked.cells}
        self._sums = {cell: sums(np.array([_columns(one) for one in self._records[cell]])) for cell in asked.cells}
        every = [one for records in self._records.values() for one in records]
        self._no_joules = next((one["joules_reason"] or NOT_WHOLE for one in every if one["joules"] is None), None)
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
            **self._interval("joules_per_token", _joules, cell, self._no_joules),
            "speedup_over_single": self._compared(_rate, cell, alone),
            "speedup": self._compared(_rate, cell, baseline),
            "energy_ratio_to_single": self._compared(_joules, cell, alone, self._no_joules),
            "energy_ratio": self._compared(_joules, cell, baseline, self._no_joules),
            "reference": baseline[0],
        }

    def _interval(self, name: str, value: Statistic, cell: Cell, absent: str | None = None) -> dict[str, Any]:
        known = Estimate(None, reason=absent) if absent else _estimate(value, [self._sums[cell]])
        return {
            **figure(name, known.value, known.reason),
            **figure(f"{name}_low", known.low, known.reason),
            **figure(f"{name}_high", known.high, known.reason),
        }

    def _compared(self, value: Statistic, cell: Cell, other: Cell, absent: str | None = None) -> dict[str, Any]:
        """The ratio of a cell's figure to another's, of the same windows."""
        if absent:
            return asdict(Estimate(None, reason=absent))
        if cell == other:
            return asdict(Estimate(1.0, reason=ITSELF))
        return asdict(_estimate(lambda a, b: value(a) / value(b), [self._sums[cell], self._sums[other]]))


COUNTS = ("target_forwards", "draft_forwards", "texts_differing", "texts_unexplained")


def _columns(record: Row) -> list[float]:
    joules = np.nan if record["joules"] is None else record["joules"]
    return [record["seconds"], record["tokens"], sum(record["latency_seconds"]), record["texts"], joules]


def _rate(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., TOKENS] / s[..., SECONDS])


def _latency(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., LATENCY] / s[..., TEXTS])


def _joules(s: np.ndarray) -> np.ndarray:
    return np.asarray(s[..., JOULES] / s[..., TOKENS])


def _estimate(value: Statistic, samples: Sequence[Sums]) -> Estimate:
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate_of_sums(value, samples, unit=UNIT)

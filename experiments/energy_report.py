"""From the records of the energy pass to figures and comparisons. Reads records only; refuses to know meters.

Gross joules per token is the primary figure: all that the devices drew while a decoder wrote, over the tokens. The net
one subtracts what they draw idle with the weights resident, which flatters slow decoders. Ratios are ratios of sums
over rounds, and the bootstrap resamples rounds.

Idle power drifts from the spell before the blocks to the one after them by far more than within either. So the spells
of a process are the units, resampled by themselves. Two tell little of a spread: their standard error, half of the
difference, is as often too small as too large, so twice that is taken. An exact 95 % is beyond two spells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from experiments.comparisons import Comparison, comparison
from experiments.energy import settled_rounds
from experiments.figure import figure, ratio
from experiments.intervals import Estimate, estimate
from experiments.journal import Row
from mtad.meter.nvml import THROTTLES

ONE_SPELL = "no interval: a process has joules of idling before or after its blocks only, so the drift is unknown"
NOT_ABOVE_IDLE = "a decoder draws no more than the idle device, so net joules have no ratio"

Joules = Callable[[str], np.ndarray]  # of a variant's blocks, [..., rounds]
Idle = dict[str, np.ndarray]  # by process: watts [spells, devices]
SPELLS = 2  # of idling in a process that was not interrupted
# Resampling two spells gives the standard error of their mean over sqrt(2), since it divides by n and not by n - 1.
WIDENED = 2 * np.sqrt(2)


class Energy:
    """The records of one run, with the rounds that count.

    Attributes:
        blocks: of these rounds.

    Args:
        records: of energy.jsonl, in its order.
        labels: all variants of the run; a round counts if it has them all.
        absent: why there are no records, if there are none.
    """

    def __init__(self, records: Sequence[Row], labels: Sequence[str], absent: str = "not measured") -> None:
        self._rounds = list(settled_rounds(records, labels).values())
        self.blocks = [block for blocks in self._rounds for block in blocks.values()]
        self._idle = _idle_watts(records)
        self._notes = sorted({note for record in records for note in record.get("notes", ())})
        self._failures = _failures(records, settled_rounds(records, labels))
        self._absent = _why_not(records, absent)

    def figures(self, label: str) -> dict[str, Any]:
        """The figures of one variant; watts are means over the blocks, seconds those of the counter."""
        blocks = [blocks[label] for blocks in self._rounds]
        tokens = sum(block["tokens"] for block in blocks)
        gross = _sum(block["joules"] for block in blocks) if blocks else None
        cpu = _sum(block["joules_cpu"] for block in blocks) if blocks else None
        net, net_reason = self._net(label)
        seconds = sum(_seconds(block) for block in blocks)
        devices = [device for block in blocks for device in devices_of(block)]
        no_cpu = next((block["joules_cpu_reason"] for block in blocks if block["joules_cpu_reason"]), self._absent)
        return {
            **figure("joules_per_token", ratio(gross, tokens), self._absent),
            **self._interval(label),
            **figure("joules_per_token_net", ratio(net, tokens), net_reason),
            **figure("cpu_joules_per_token", ratio(cpu, tokens), no_cpu),
            **figure("watts", ratio(gross, seconds), self._absent),
            "source": blocks[0]["source"] if blocks else None,
            "methods": sorted({device["method"] for device in devices}),
            "method_reasons": sorted({device["method_reason"] for device in devices if device["method_reason"]}),
            "devices": sorted({device["uuid"] for device in devices}),
            "device_sets": len({frozenset(device["uuid"] for device in devices_of(block)) for block in blocks}),
            "shared": any(device["shared"] for device in devices),
            "blocks": len(blocks),
            "shortest_block_seconds": min((block["work_seconds"] for block in blocks), default=None),
            "failures": self._failures,
            "notes": self._notes,
            "blocks_disagreeing": sum(any(d["disagrees"] for d in devices_of(block)) for block in blocks),
            "blocks_throttled": sum(bool(throttles_of(block)) for block in blocks),
            "throttles": sorted({reason for block in blocks for reason in throttles_of(block)}),
            "tokens": tokens,
            "texts": sum(block["texts"] for block in blocks),
            "texts_differing": sum(block["texts_differing"] for block in blocks),
            "seconds": seconds,
        }

    def _interval(self, label: str) -> dict[str, Any]:
        """How well gross J/token is known, over rounds."""
        known = Estimate(None, reason=self._absent)
        if self._rounds:
            samples = [self._column(label, key) for key in ("joules", "tokens")]
            with np.errstate(divide="ignore", invalid="ignore"):
                known = estimate(lambda j, t: np.asarray(j.sum(-1) / t.sum(-1)), samples, unit="rounds")
        return {
            **figure("joules_per_token_low", known.low, known.reason),
            **figure("joules_per_token_high", known.high, known.reason),
        }

    def compare(self, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
        """`energy_ratio` and `energy_ratio_net`, J/token of a variant over that of a reference; none without rounds."""
        if not self._rounds:
            return []
        return [
            comparison(label, reference, name, "lower", 1, ratio(label, reference))
            for label, reference in pairs
            for name, ratio in (("energy_ratio", self.ratio), ("energy_ratio_net", self.ratio_net))
        ]

    def ratio(self, label: str, reference: str) -> Estimate:
        """Gross J/token of one variant over that of another; paired over rounds."""
        samples = [self._column(name, key) for name in (label, reference) for key in ("joules", "tokens")]

        def statistic(j_a: np.ndarray, t_a: np.ndarray, j_b: np.ndarray, t_b: np.ndarray) -> np.ndarray:
            return np.asarray((j_a.sum(-1) / t_a.sum(-1)) / (j_b.sum(-1) / t_b.sum(-1)))

        with np.errstate(divide="ignore", invalid="ignore"):
            return estimate(statistic, samples, unit="rounds")

    def ratio_net(self, label: str, reference: str) -> Estimate:
        """The same without the idle power, whose drift enters the interval."""
        without = self._without_idle()
        if without:
            return Estimate(None, reason=without)
        processes = self._processes()
        tokens = {name: self._column(name, "tokens") for name in (label, reference)}

        def statistic(rounds: np.ndarray, *spells: np.ndarray) -> np.ndarray:
            idle = {}
            for name, chosen in zip(processes, spells, strict=True):
                mean = self._idle[name].mean(axis=0)
                idle[name] = mean + WIDENED * (self._idle[name][chosen].mean(axis=-2) - mean)
            per_token = []
            for name in (label, reference):
                net = np.take_along_axis(self._net_joules(name, idle), rounds, -1)
                per_token.append(net.sum(-1) / tokens[name][rounds].sum(-1))
            positive = (per_token[0] > 0) & (per_token[1] > 0)  # two negative ones would pass for a ratio
            return np.where(positive, per_token[0] / per_token[1], np.nan)

        samples = [np.arange(len(self._rounds)), *(np.arange(len(self._idle[name])) for name in processes)]
        with np.errstate(divide="ignore", invalid="ignore"):
            if any(len(self._idle[name]) < SPELLS for name in processes):
                value = float(statistic(*samples))
                return Estimate(value, reason=ONE_SPELL) if value > 0 else Estimate(None, reason=NOT_ABOVE_IDLE)
            return estimate(statistic, samples, paired=False, unit="rounds", undefined=NOT_ABOVE_IDLE)

    def _net(self, label: str) -> tuple[float | None, str | None]:
        """Joules of all blocks without those of idling; None and the reason."""
        without = self._without_idle()
        if without:
            return None, without
        return float(self._net_joules(label, {n: self._idle[n].mean(axis=0) for n in self._processes()}).sum()), None

    def _net_joules(self, label: str, idle: dict[str, np.ndarray]) -> np.ndarray:
        """Joules of every round without those of idling, [..., rounds], for watts [..., devices] of each process."""
        net = []
        for blocks in self._rounds:
            seconds = np.array([device["seconds"] for device in devices_of(blocks[label])])
            net.append(blocks[label]["joules"] - idle[blocks[label]["process_id"]] @ seconds)
        return np.stack(net, axis=-1)

    def _without_idle(self) -> str | None:
        """Why there are no net figures; None if there are."""
        if not self._rounds:
            return self._absent
        none = [name for name in self._processes() if name not in self._idle]
        return "no window of idling has joules in some process" if none else None

    def _processes(self) -> list[str]:
        return sorted({block["process_id"] for blocks in self._rounds for block in blocks.values()})

    def _column(self, label: str, key: str) -> np.ndarray:
        return np.array([blocks[label][key] for blocks in self._rounds], dtype=float)


def _idle_watts(records: Iterable[Row]) -> Idle:
    """Of every process the means of its spells, over windows in which each device has joules; devices as in blocks."""
    watts: dict[str, list[np.ndarray]] = {}
    for record in records:
        windows = [w for w in record["windows"] if w["joules"] is not None] if record["kind"] == "idle" else []
        if windows:
            rows = [[device["joules"] / device["seconds"] for device in devices_of(window)] for window in windows]
            watts.setdefault(record["process_id"], []).append(np.mean(rows, axis=0))
    return {process: np.array(spells) for process, spells in watts.items()}


def _failures(records: Iterable[Row], settled: Iterable[int]) -> list[str]:
    """Why rounds that were tried do not count."""
    counted = set(settled)
    tried = [record for record in records if record["kind"] == "block" and record["round"] not in counted]
    return sorted({block["joules_reason"] for block in tried if block["joules"] is None})


def _why_not(records: Sequence[Row], absent: str) -> str:
    """Why no round counts: the last reason that a block, or a spell of idling, gives for having no joules."""
    measured = [window for record in records for window in record.get("windows", [record])]
    reasons = [entry["joules_reason"] for entry in measured if entry["joules"] is None]
    if reasons:
        return str(reasons[-1])
    return "no round was measured for all variants" if records else absent


def devices_of(block: Row) -> list[Row]:
    """The readings of the devices that `joules` sums up."""
    return [device for device in block["devices"] if device["kind"] == block["source"]]


def _seconds(block: Row) -> float:
    """What the counters span; devices differ by less than a refresh."""
    spans = [device["seconds"] for device in devices_of(block)]
    return sum(spans) / len(spans)


def throttles_of(block: Row) -> set[str]:
    """What held a device's clocks back in a block."""
    states = [state for device in block["devices"] for state in device["states"]]
    return {event for state in states for event in state.get("clock_events") or ()} & THROTTLES


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None if one is missing."""
    listed = list(values)
    present = [value for value in listed if value is not None]
    return sum(present) if len(present) == len(listed) else None

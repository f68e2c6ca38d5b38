"""The energy pass: after the timed rows, blocks of texts are written again under a meter, in balanced random order.

In every round each variant writes one block, all of them from the same list of texts. The list begins where that of the
round before ended, and is as long as the fastest variant needs for `seconds`. A variant that is done earlier writes the
whole list again. So every block is long enough for the counter, and the mix of texts is equal for all. A block's joules
cover all that a decoder's texts need: prefill, decoding, and the little between texts.

Blocks pair within a process only, and a round counts if one process measured all of it without a failure; one with a
failure is repeated twice at most. Knows texts by variant, prompt and repeat, and a function that writes them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import ceil, isfinite
from pathlib import Path
from time import sleep
from typing import Any

from experiments.journal import SCHEMA_VERSION, Row
from experiments.stopping import at_once
from mtad.errors import UserError
from mtad.generate import Output
from mtad.meter.device import Kind
from mtad.meter.meter import Meter, Record, Window, check_hertz
from mtad.meter.rapl import POWERCAP

ATTEMPTS = 3  # at a round whose blocks have no joules
IDLE_WINDOWS = 5
PAUSE_SECONDS = 5.0  # before a spell of idling, so that the clocks have fallen; no longer than the spell

Item = tuple[str, int, int]  # (prompt id, turn, repeat)
Write = Callable[[str, str, int, int], Output]  # of (variant label, prompt id, turn, repeat)


@dataclass(frozen=True)
class MeterSettings:
    """How the pass measures.

    Attributes:
        seconds: of every block, at least.
        blocks: of every variant, that is, rounds.
        idle_seconds: of doing nothing before the blocks, and again after them.
        hertz: readings of power a second.
        gpus: UUIDs; None takes the GPUs in use.
        rapl: the powercap folder; None leaves the CPU's packages out.
        zeus: also ask Zeus.
    """

    seconds: float = 10.0
    blocks: int = 5
    idle_seconds: float = 10.0
    hertz: float = 20.0
    gpus: tuple[str, ...] | None = None
    rapl: Path | None = POWERCAP
    zeus: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "idle_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or not isfinite(value):
                raise UserError(f"meter.{name} must be a number > 0, not {value!r}")
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise UserError(f"meter.blocks must be a whole number >= 1, not {self.blocks!r}")
        check_hertz("meter.hertz", self.hertz)
        if self.gpus is not None:
            if isinstance(self.gpus, str) or not all(isinstance(uuid, str) for uuid in self.gpus):
                raise UserError(f"meter.gpus must be a list of UUIDs such as [GPU-...], not {self.gpus!r}")
            object.__setattr__(self, "gpus", tuple(self.gpus))
        if self.rapl is not None and not isinstance(self.rapl, str | Path):
            raise UserError(f"meter.rapl must be a folder, not {self.rapl!r}")
        if self.rapl is not None:
            object.__setattr__(self, "rapl", Path(self.rapl))

    @property
    def pause_seconds(self) -> float:
        """Before every spell of idling."""
        return min(PAUSE_SECONDS, self.idle_seconds)


class Timed:
    """The timed rows, as what the pass expects: seconds and tokens of every text.

    Attributes:
        items: all texts, every prompt of the first repeat, then of the second, and so on.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.seconds: dict[tuple[str, Item], float] = {}
        self.tokens: dict[tuple[str, Item], tuple[int, ...]] = {}
        for row in rows:
            key = (row["variant"], (row["prompt_id"], row["turn"], row["repeat"]))
            self.seconds[key] = row["seconds"]["prefill"] + row["seconds"]["decode"]
            self.tokens[key] = tuple(row["token_ids"])
        self.items: list[Item] = sorted(dict.fromkeys(item for _, item in self.seconds), key=lambda item: item[2])

    def lists(self, labels: Sequence[str], seconds: float, rounds: int) -> list[list[Item]]:
        """The texts of every round: as many as the fastest of `labels` needs `seconds` for, each once at most."""
        lists: list[list[Item]] = []
        position = 0
        for _ in range(rounds):
            chosen: list[Item] = []
            spent = dict.fromkeys(labels, 0.0)
            while len(chosen) < len(self.items) and min(spent.values()) < seconds:
                chosen.append(self.items[(position + len(chosen)) % len(self.items)])
                spent = {label: spent[label] + self.seconds[label, chosen[-1]] for label in labels}
            position += len(chosen)
            lists.append(chosen)
        return lists

    def expected_seconds(self, labels: Sequence[str], settings: MeterSettings, missing: Iterable[int]) -> float:
        """How long the `missing` rounds and the two spells of idling will take, if texts take as long again."""
        lists = self.lists(labels, settings.seconds, settings.blocks)
        expected = 2 * (settings.idle_seconds + settings.pause_seconds)
        for number in missing:
            for label in labels:
                once = sum(self.seconds[label, item] for item in lists[number])
                expected += once * ceil(settings.seconds / once) if once else settings.seconds
        return expected


@dataclass
class _Written:
    """What a block's texts come to; the texts themselves hold events of the device and are let go."""

    texts: int = 0
    tokens: int = 0
    text_seconds: float = 0.0
    texts_differing: int = 0

    def add(self, output: Output, expected: Sequence[int]) -> None:
        """Count a text, which should have come out as `expected`."""
        self.texts += 1
        self.tokens += len(output.tokens)
        self.text_seconds += output.prefill_seconds + output.decode_seconds
        self.texts_differing += output.tokens != expected


@dataclass(frozen=True)
class EnergyPass:
    """One process's part in the pass.

    Attributes:
        provenance: what every record carries: run_id, process_id, code.
        labels: of the variants.
        seed: of the order of variants.
        append: takes a record as soon as it exists.
        advance: told the variant of each measured block.
    """

    provenance: Mapping[str, Any]
    labels: Sequence[str]
    timed: Timed
    write: Write
    meter: Meter
    settings: MeterSettings
    seed: int
    append: Callable[[Row], None]
    advance: Callable[[str], None] = lambda label: None

    def run(self, records: Iterable[Row]) -> None:
        """Measure the rounds that are missing in `records`, between two spells of idling."""
        missing = missing_rounds(records, self.labels, self.settings.blocks)
        if not missing:
            return
        if not self._idle("before"):
            return  # a meter that gives no joules now gives none under load, and the record has the reason
        lists = self.timed.lists(self.labels, self.settings.seconds, self.settings.blocks)
        for number in missing:
            for attempt in range(ATTEMPTS):
                if self._round(number, attempt, lists[number]):
                    break
        self._idle("after")

    def _idle(self, when: str) -> bool:
        """Append a record of idling, weights resident; whether any of its windows has joules."""
        with at_once():
            sleep(self.settings.pause_seconds)
            windows = self.meter.idle(self.settings.idle_seconds, IDLE_WINDOWS)
        data = [{**asdict(window), **joules_of(self.meter, window)} for window in windows]
        self.append({**self._stamp("idle"), "when": when, "notes": list(self.meter.notes), "windows": data})
        return any(window["joules"] is not None for window in data)

    def _round(self, number: int, attempt: int, items: Sequence[Item]) -> bool:
        """One block of every variant; whether all have joules. Stops at the first that has none."""
        order = sorted(self.labels)
        random.Random(f"{self.seed} energy {number} {attempt}").shuffle(order)
        for place, label in enumerate(order):
            record = self._block({"round": number, "attempt": attempt, "order": place, "variant": label}, items)
            if record["joules"] is None:
                return False
            self.advance(label)
        return True

    def _block(self, heading: Row, items: Sequence[Item]) -> Row:
        """Append and return the record of whole lists of texts, written until `seconds` have passed.

        If writing fails, as it does on a GPU that is lost, there is a record without joules before the error passes on.
        """
        label, written, window = heading["variant"], _Written(), self.meter.window()
        try:
            with window:
                while window.elapsed < self.settings.seconds:
                    for item in items:
                        written.add(self.write(label, *item), self.timed.tokens[label, item])
        except Exception as error:
            self.append(self._broken(heading, items, written, window, error))
            raise
        record = self._record(heading, items, written, window.record)
        self.append(record)
        return record

    def _broken(self, heading: Row, items: Sequence[Item], written: _Written, window: Window, error: Exception) -> Row:
        """The record of a block that ended in an error: of the work, or of the meter, which then leaves no record."""
        name = type(error).__name__
        if hasattr(window, "record"):
            record = self._record(heading, items, written, window.record)
            return without_joules(record, record["joules_reason"] or f"writing ended in {name}")
        nothing = Record(datetime.now(UTC).isoformat(timespec="milliseconds"), 0.0, (), None)
        return without_joules(self._record(heading, items, written, nothing), f"the meter ended in {name}")

    def _record(self, heading: Row, items: Sequence[Item], written: _Written, window: Record) -> Row:
        return {
            **self._stamp("block"),
            **heading,
            "items": [list(item) for item in items],
            "least_seconds": self.settings.seconds,
            "passes": written.texts // len(items),
            **asdict(written),
            **asdict(window),
            **joules_of(self.meter, window),
        }

    def _stamp(self, kind: str) -> Row:
        return {"schema_version": SCHEMA_VERSION, **self.provenance, "kind": kind}


def without_joules(record: Row, reason: str) -> Row:
    """A record of a block, or of a spell of idling, whose joules do not count, for this reason."""
    if record["kind"] == "idle":
        return {**record, "windows": [{**w, "joules": None, "joules_reason": reason} for w in record["windows"]]}
    return {**record, "joules": None, "joules_reason": reason}


def source_of(meter: Meter) -> Kind:
    """What `joules` sums up: the GPUs where one is in use, else the CPU packages."""
    return "gpu" if any(device.kind == "gpu" for device in meter.devices) else "cpu"


def alike(records: Iterable[Row], seconds: float, source: Kind | None) -> list[Row]:
    """The records that may stand in one figure: blocks of at least so many seconds, of the same source.

    Blocks of one round are of one process, and so of the same devices; rounds may be of different ones.

    Args:
        source: of the joules; None takes that of most blocks.
    """
    listed = list(records)
    sources = Counter(r["source"] for r in listed if r["kind"] == "block" and r["joules"] is not None)
    wanted = source or next((name for name, _ in sources.most_common(1)), None)
    return [
        record
        for record in listed
        if record["kind"] != "block" or (record["least_seconds"] >= seconds and wanted in (None, record["source"]))
    ]


def settled_rounds(records: Iterable[Row], labels: Sequence[str]) -> dict[int, dict[str, Row]]:
    """The blocks that count, by round and variant: of the last attempt that one process made whole."""
    attempts: dict[tuple[int, str, int], dict[str, Row]] = {}
    for record in records:
        if record["kind"] == "block" and record["joules"] is not None:
            key = (record["round"], record["process_id"], record["attempt"])
            attempts.setdefault(key, {})[record["variant"]] = record
    whole = {key[0]: blocks for key, blocks in attempts.items() if blocks.keys() >= set(labels)}
    return {number: {label: whole[number][label] for label in labels} for number in sorted(whole)}


def missing_rounds(records: Iterable[Row], labels: Sequence[str], blocks: int) -> list[int]:
    """The numbers of the rounds that are not settled yet."""
    settled = settled_rounds(records, labels)
    return [number for number in range(blocks) if number not in settled]


def joules_of(meter: Meter, window: Record) -> Row:
    """What a window drew, summed over the GPUs and over the CPU packages; `joules` is that of the meter's source."""
    source = source_of(meter)
    sums: Row = {"source": source}
    kinds: dict[str, Kind] = {"joules": source, "joules_gpu": "gpu", "joules_cpu": "cpu"}
    for name, kind in kinds.items():
        joules, reason = window.joules(kind)
        sums |= {name: joules, f"{name}_reason": meter.reasons.get(kind, reason)}
    return sums

"""The batch pass: after the timed texts, windows of texts are written again, several at a time (`batch_size`).

In every window each variant writes the same list of texts at every size, cells in random order. Size 1 goes through the
same scheduler, so that the curve has a beginning of its own kind. Under a meter a window writes its whole list again
until `meter.seconds` have passed, without running empty in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np

from experiments.batch_equal import Difference, Equality, compared
from experiments.batch_notes import left_out_notes
from experiments.batch_windows import CELLS, Asked, arranged, batched, settled_windows
from experiments.bench import WARM_UP_TOKENS
from experiments.code_version import check_code
from experiments.energy import Item, Timed, joules_of, source_of
from experiments.figure import counted
from experiments.intervals import FEWEST
from experiments.journal import Row
from experiments.process import Process
from experiments.progress import progress, say
from experiments.records import settled
from experiments.redact import redact
from experiments.stopping import at_once
from experiments.variants import Variant
from mtad.batch import SCHEDULE, Batch, Start, write_batch
from mtad.decoder import RoundDecoder
from mtad.generate import Output
from mtad.margin import decided, varies
from mtad.meter.meter import Window

NO_METER: Row = {"source": None, "joules": None, "joules_gpu": None, "joules_cpu": None}
DIGITS = 6  # of the seconds of a single text


def asked_of(process: Process) -> Asked | None:
    """Which windows the run is to have; None for none."""
    settings, meter = process.plan.settings, process.meter
    if settings.batch_sizes is None:
        return None
    variants, left_out = batched(settings.variants)
    seconds, source = (settings.meter.seconds, source_of(meter)) if meter else (0.0, None)
    return Asked(settings.batch_sizes, tuple(v.label for v in variants), left_out, seconds, source)


def measure_batches(process: Process) -> None:
    """Measure the windows that have not been measured in all cells."""
    plan, folder, asked = process.plan, process.plan.folder, asked_of(process)
    if asked is None:
        return
    rows = settled(folder.samples.rows(), plan.cells)
    windows, asked = arranged(Timed(rows).items, asked)
    records = folder.batches.rows()
    done = settled_windows(records, windows, asked)
    missing = [number for number in range(len(windows)) if number not in done]
    if not missing or not asked.labels:
        return
    check_code([*rows, *records], folder.path, plan.settings.mixed)
    for note in left_out_notes(asked.left_out):
        say(f"batches: {note}")
    sizes = ", ".join(map(str, asked.sizes))
    texts = f"{counted(len(missing), 'window')} of {len(windows[0])} texts or so for each variant"
    minutes = _most_seconds(Timed(rows), [windows[number] for number in missing], asked) / 60
    say(f"batches of {sizes}: {texts}, at most about {minutes:.{0 if minutes >= 10 else 1}f} min")
    if len(windows) < FEWEST:
        smaller = sum(map(len, windows)) // FEWEST
        other = f", or no size above {smaller}" if smaller > 1 else ""
        say(f"batches: intervals need {FEWEST} windows, and so {FEWEST * asked.sizes[-1]} texts{other}")
    batches = BatchPass(process, asked, rows)
    batches.warm_up(windows[missing[0]])
    process.begin()
    with progress(len(windows) * len(asked.cells), len(done) * len(asked.cells), what=CELLS) as advance:
        for number in missing:
            for record in batches.window(number, windows[number]):
                folder.batches.append(record)
                advance(record["variant"])


def _most_seconds(timed: Timed, windows: Sequence[Sequence[Item]], asked: Asked) -> float:
    """How long windows take if texts take as long again, and sharing forwards saves nothing."""
    once = [sum(timed.seconds[label, item] for item in items) for items in windows for label in asked.labels]
    return len(asked.sizes) * sum(ceil(max(asked.seconds / seconds, 1)) * seconds for seconds in once if seconds)


class BatchPass:
    """One process's part in the pass."""

    def __init__(self, process: Process, asked: Asked, rows: Sequence[Row]) -> None:
        self._process = process
        self._asked = asked
        self._bench = process.bench
        self._variants = {variant.label: variant for variant in process.plan.settings.variants}
        self._rows = {(row["variant"], (row["prompt_id"], row["turn"], row["repeat"])): row for row in rows}
        self._hangs: dict[tuple[str, Item, tuple[int, ...]], bool] = {}
        self._spelling = 0.0

    def warm_up(self, items: Sequence[Item]) -> None:
        """Let every cell begin texts that are not recorded, and that end one after the other.

        So each number of rows that forwards have is met here first, and no graph of it is captured under the clock.
        """
        plan = self._process.plan
        longest = min(WARM_UP_TOKENS, plan.settings.max_new_tokens)
        for label, size in self._asked.cells:
            lengths = [max(1, longest * (i + 1) // size) for i in range(size)]
            texts = zip((items[i % len(items)] for i in range(size)), lengths, strict=True)
            queue = [self._start(self._variants[label], item, length) for item, length in texts]
            with at_once():
                write_batch(queue, self._bench.batch_rows(size))

    def window(self, number: int, items: Sequence[Item]) -> Iterator[Row]:
        """The records of one window, cells in an order that only seed and window decide. Raises Stopped, UserError."""
        order = list(self._asked.cells)
        random.Random(f"{self._process.plan.settings.seed} batches {number}").shuffle(order)
        for place, (label, size) in enumerate(order):
            heading = {"window": number, "order": place, "variant": label, "batch_size": size, "schedule": SCHEDULE}
            yield self._cell(heading, self._variants[label], items)

    def _cell(self, heading: Row, variant: Variant, items: Sequence[Item]) -> Row:
        process, watch = self._process, self._process.watch
        rows = self._bench.batch_rows(heading["batch_size"])
        watch.start()
        window = process.meter.window() if process.meter else None
        with at_once(), window or nullcontext():
            batch = write_batch(self._queue(variant, items, window), rows, self._clock)
        lap = watch.lap()
        self._bench.insist(lap)  # before there is a record: under `strict` the window is to be measured again
        record = {**process.stamp, **process.signature, **heading, "items": [list(item) for item in items]}
        record |= {**_times(batch, heading["batch_size"]), "passes": len(batch.outputs) // len(items)}
        record |= {**self._equality(variant, items, batch.outputs), **self._joules(window), "isolation": lap}
        return dict(redact(record))  # reasons are other libraries' words

    def _queue(self, variant: Variant, items: Sequence[Item], window: Window | None) -> Iterator[Start[Output]]:
        """The list, and under a meter the whole of it again as long as there is time left."""
        while True:
            for item in items:
                yield self._start(variant, item, None)
            if window is None or window.elapsed >= self._asked.seconds:
                return

    def _start(self, variant: Variant, item: Item, longest: int | None) -> Start[Output]:
        return self._bench.start(variant, *item, self._context(variant, item), self._spell, longest)

    def _context(self, variant: Variant, item: Item) -> list[int]:
        return self._process.plan.context(self._rows[variant.label, item])

    def _spell(self, tokens: Sequence[int]) -> str:
        started = perf_counter()
        text = self._bench.detokenise(tokens)
        self._spelling += perf_counter() - started
        return text

    def _clock(self) -> float:
        """As for texts alone, the search for stop strings, which turns tokens into text, does not count."""
        return perf_counter() - self._spelling

    def _joules(self, window: Window | None) -> Row:
        meter = self._process.meter
        if window is None or meter is None:
            return {"least_seconds": 0.0, **NO_METER, "joules_reason": self._process.no_energy}
        record = window.record
        return {"least_seconds": self._asked.seconds, **asdict(record), **joules_of(meter, record)}

    def _equality(self, variant: Variant, items: Sequence[Item], outputs: Sequence[Output]) -> Row:
        """Every text beside the one that the run wrote alone."""
        equality = Equality()
        for place, output in enumerate(outputs):
            item = items[place % len(items)]
            name = dict(zip(("prompt_id", "turn", "repeat"), item, strict=True))
            found = compared(self._rows[variant.label, item], output)
            equality.add(name, found, self._asks(variant, item, output))
        return {
            "texts_differing": equality.within + equality.unexplained,
            "texts_unexplained": equality.unexplained,
            "differing": equality.listed,
        }

    def _asks(self, variant: Variant, item: Item, output: Output) -> Callable[[Difference], bool]:
        """For `Equality`: makes a decision again, once for every text that came out in another way."""

        def hangs(found: Difference) -> bool:
            key = variant.label, item, output.tokens
            if key not in self._hangs:
                self._hangs[key] = self._hangs_on_little(variant, item, found)
            return self._hangs[key]

        return hangs

    def _hangs_on_little(self, variant: Variant, item: Item, found: Difference) -> bool:
        bench, plan = self._bench, self._process.plan
        limits, luck = plan.limits(plan.settings.max_new_tokens), bench.luck(*item)
        by_rounds = isinstance(variant.decoder, RoundDecoder)
        decide = decided(
            variant.decoder,
            self._context(variant, item),
            found.written,
            limits,
            variant.sampling,
            luck,
            bench.detokenise,
            first=1 + (found.offset if by_rounds else found.position),
        )
        with at_once():
            return varies(decide, bench.pair.target, bench.pair.draft)


def _times(batch: Batch[Output], size: int) -> Mapping[str, Any]:
    """What a window's texts come to."""
    latencies = [round(stay.seconds, DIGITS) for stay in batch.stays]
    return {
        "texts": len(batch.outputs),
        "tokens": sum(len(output.tokens) for output in batch.outputs),
        "seconds": batch.seconds,
        "prefill_seconds": sum(output.prefill_seconds for output in batch.outputs),
        "latency_seconds": latencies,
        "latency_mean_seconds": float(np.mean(latencies)),
        "latency_median_seconds": float(np.median(latencies)),
        "latency_p95_seconds": float(np.quantile(latencies, 0.95)),
        "row_use": sum(latencies) / (batch.seconds * size),
        "target_forwards": batch.target_forwards,
        "draft_forwards": batch.draft_forwards,
    }

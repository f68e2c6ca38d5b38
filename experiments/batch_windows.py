"""Windows: the fixed lists of texts that every variant writes at every batch size, and which of them are measured.

A window is the unit of the pass: seconds and joules are its, and belong to no text of it. Windows share no prompt, so
that the bootstrap may resample them. Knows texts by name, and records; refuses to know how a window is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.baseline import FRONTIER
from experiments.energy import Item
from experiments.intervals import FEWEST
from experiments.journal import Row
from experiments.variants import Variant
from mtad.decoder import Engine
from mtad.errors import UserError
from mtad.meter.device import Kind

MOST_WINDOWS = 20
TEXTS_A_ROW = 2  # at the largest batch, where there are texts enough: else rows run empty for most of a window

Cell = tuple[str, int]  # variant, batch size
CELLS = "cells of windows"  # what is measured one by one, in words
ENGINE = "an engine of another library, with a cache of its own: it cannot share forwards with our scheduler"
POINT = "a point of the frontier: plain sampling, which is measured in batches as autoregressive already"


@dataclass(frozen=True)
class Asked:
    """Which records of windows count.

    Attributes:
        sizes: of batches, ascending, 1 among them: it is what the others are compared with.
        labels: of the variants that can be batched.
        left_out: the others, and sizes that cannot be measured, with the reason.
        seconds: that a window under a meter lasts at least; 0 without one.
        source: of the joules; None without a meter.
    """

    sizes: tuple[int, ...]
    labels: tuple[str, ...]
    left_out: Mapping[str, str]
    seconds: float
    source: Kind | None

    @property
    def cells(self) -> list[Cell]:
        """What is measured in every window."""
        return [(label, size) for label in self.labels for size in self.sizes]


def batch_sizes(asked: Any) -> tuple[int, ...] | None:
    """The sizes that the key `batch_size` asks for, 1 always among them; None for none. Raises UserError."""
    if asked is None:
        return None
    listed = asked if isinstance(asked, list) else [asked]
    whole = [size for size in listed if isinstance(size, int) and not isinstance(size, bool) and size >= 1]
    if not whole or len(whole) < len(listed) or len(set(whole)) < len(whole):
        raise UserError(
            f"batch_size must be a whole number >= 1, or a list of different ones as in [2,4,8], not {asked!r}"
        )
    return tuple(sorted({1, *whole}))


def batched(variants: Sequence[Variant]) -> tuple[list[Variant], dict[str, str]]:
    """The variants whose texts can share forwards, and why the others are left out."""
    out = {
        variant.label: ENGINE if isinstance(variant.decoder, Engine) else POINT
        for variant in variants
        if isinstance(variant.decoder, Engine) or variant.group == FRONTIER
    }
    return [variant for variant in variants if variant.label not in out], out


def arranged(items: Sequence[Item], asked: Asked) -> tuple[list[list[Item]], Asked]:
    """The texts of every window, all turns and repeats of a prompt in one; and what is asked of these windows.

    So many windows that each row of the largest batch gets TEXTS_A_ROW texts; where these are too few for intervals, as
    many as give intervals if each row still gets one. A size of more rows than even a single window has texts is left
    out.
    """
    texts, largest = Counter(item[0] for item in items), asked.sizes[-1]
    count = max(len(items) // (TEXTS_A_ROW * largest), min(FEWEST, len(items) // largest), 1)
    count = min(count, len(texts), MOST_WINDOWS)
    while count > 1 and min(_spread(texts, count)[1]) < largest:
        count -= 1
    place, lengths = _spread(texts, count)
    windows = [[item for item in items if place[item[0]] == window] for window in range(count)]
    fewest = min(lengths, default=0)
    sizes = tuple(size for size in asked.sizes if size <= max(fewest, 1))
    few = {f"batch {size}": f"its windows would have {fewest} texts" for size in asked.sizes if size not in sizes}
    return windows, replace(asked, sizes=sizes, left_out={**asked.left_out, **few})


def _spread(texts: Mapping[str, int], windows: int) -> tuple[dict[str, int], list[int]]:
    """The window of each prompt, given how many texts it has, and the texts of each window; the shortest grows."""
    place, lengths = dict[str, int](), [0] * windows
    for prompt, count in texts.items():
        place[prompt] = lengths.index(min(lengths))
        lengths[place[prompt]] += count
    return place, lengths


def settled_windows(
    records: Iterable[Row], windows: Sequence[Sequence[Item]], asked: Asked
) -> dict[int, dict[Cell, Row]]:
    """The records that count, by window and cell: of the last process that measured all cells of the window."""
    found: dict[tuple[int, str], dict[Cell, Row]] = {}
    lists = {number: [list(item) for item in items] for number, items in enumerate(windows)}
    for record in records:
        alike = record["least_seconds"] >= asked.seconds and asked.source in (None, record["source"])
        if alike and lists.get(record["window"]) == record["items"]:
            cells = found.setdefault((record["window"], record["process_id"]), {})
            cells[record["variant"], record["batch_size"]] = record
    whole = {number: cells for (number, _), cells in found.items() if cells.keys() >= set(asked.cells)}
    return {number: {cell: whole[number][cell] for cell in asked.cells} for number in sorted(whole)}

"""What a session asks of a model: new tokens of a text, and those of several texts as the arrays of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from mtad.clock import Mark
from mtad.growth import Growth

if TYPE_CHECKING:
    from mtad.fused import Drafts


@dataclass(frozen=True)
class Feed:
    """New tokens of one text for one forward.

    Attributes:
        row: the text's row of the cache.
        start: cache position of the first new token; the others follow.
        tokens: the new token ids, n of them.
        positions: their positions in the text (equal for siblings), n.
        known: how many cache positions, from the first on, all of them attend to.
        sees: bool [n, start + n - known]: which of the others each attends to, itself included.
        keep: for how many of the last tokens logits are wanted.
    """

    row: int
    start: int
    tokens: list[int]
    positions: list[int]
    known: int
    sees: np.ndarray
    keep: int

    @property
    def end(self) -> int:
        """The cache position after the last new token."""
        return self.start + len(self.tokens)


class Model(Protocol):
    """What a session needs of a model: a causal LM with a cache that is addressed by row and position."""

    max_positions: int
    vocabulary: int
    tolerance: float  # how far a logit may move when the same text is read in another shape

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """One forward for all feeds; for each the logits [keep, vocabulary] after its last `keep` tokens."""

    def prefill(self, feeds: Sequence[Feed]) -> None:
        """A forward for its keys alone."""

    def move(self, row: int, sources: list[int], start: int) -> None:
        """Move cache entries `sources` of `row` to `start`, `start` + 1, ..."""

    def copy(self, source: int, row: int) -> None:
        """Let `row` hold what row `source` of the cache holds."""

    def reserve(self, positions: int) -> None:
        """Make room for so many cache positions a row now, so that no timed forward has to."""

    def synchronise(self) -> None:
        """Wait until the device has done all it was asked for."""

    def mark(self) -> Mark:
        """The present point in the device's time, without waiting for it."""


@runtime_checkable
class Growing(Protocol):
    """A model that can draft by itself."""

    def grows(self) -> bool:
        """Whether it can do so now."""

    def grow(self, feeds: Sequence[Feed], growth: Growth, uniforms: Sequence[np.ndarray]) -> Drafts:
        """Draft below each text, see `mtad.model.CausalModel.grow`."""


@dataclass(frozen=True)
class Together:
    """Feeds as arrays over `rows` neighbouring rows of a cache, from row `first` on; see `mtad.recorded.Step.forward`.

    Shorter feeds are padded on the right, and rows between those of the feeds idle along.
    Padding sees the first position of its row, since a row of nothing would be NaN, and is kept at the last one, which
    nobody sees.

    Attributes:
        tokens, positions, places: int64 [rows, new].
        sees: bool [rows, new, end].
    """

    first: int
    rows: int
    tokens: np.ndarray
    positions: np.ndarray
    places: np.ndarray
    sees: np.ndarray

    @classmethod
    def of(cls, feeds: Sequence[Feed], new: int, end: int, capacity: int, span: range) -> Together:
        """Every text padded to `new` tokens, over `end` positions of the rows `span`, which have `capacity`."""
        first, rows = span.start, len(span)
        if rows == 1 and len(feeds[0].tokens) == new:
            return cls._of_one(feeds[0], end)
        tokens = np.zeros((rows, new), dtype=np.int64)
        positions = np.zeros((rows, new), dtype=np.int64)
        places = np.repeat(np.arange(1, rows + 1) * capacity - 1, new).reshape(rows, new)
        sees = np.zeros((rows, new, end), dtype=bool)
        sees[:, :, 0] = True
        for feed in feeds:
            n, row, known = len(feed.tokens), feed.row - first, feed.known
            tokens[row, :n] = feed.tokens
            positions[row, :n] = feed.positions
            start = row * capacity + feed.start
            places[row, :n] = range(start, start + n)
            sees[row, :n, :known] = True
            sees[row, :n, known : known + feed.sees.shape[1]] = feed.sees
        return cls(first, rows, tokens, positions, places, sees)

    @classmethod
    def _of_one(cls, feed: Feed, end: int) -> Together:
        """The common case, in a third of the time."""
        sees = np.zeros((1, len(feed.tokens), end), dtype=bool)
        sees[0, :, : feed.known] = True
        sees[0, :, feed.known : feed.end] = feed.sees
        tokens, positions = np.array([feed.tokens]), np.array([feed.positions])
        return cls(feed.row, 1, tokens, positions, np.arange(feed.start, feed.end)[None], sees)

    def inputs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """What a `Step` takes before the slabs."""
        return to_device((self.tokens, self.positions, self.places.ravel(), self.sees), device)


def span_of(feeds: Sequence[Feed]) -> range:
    """The rows from the first to the last that is fed."""
    rows = [feed.row for feed in feeds]
    return range(min(rows), max(rows) + 1)


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, ...]:
    """As tensors, without waiting for the device."""
    tensors = tuple(map(torch.from_numpy, arrays))
    if device.type == "cpu":
        return tensors
    return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)

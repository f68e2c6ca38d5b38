"""A preallocated key/value cache for token trees, written in place.

Every text has a row. New keys go where `aim` says, whatever each row's length is; a commit moves only the accepted
tail. Capacity grows in steps, so that shapes stay few. The interface to the model is Hugging Face's `Cache`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

STEP = 256  # capacity grows in whole steps of so many positions


class TreeCacheLayer(CacheLayerMixin):
    """Keys and values of one layer, each [rows, heads, capacity, head size]; heads are the local key/value heads."""

    def __init__(self, cache: TreeCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, with the heads, size, type and device of the first keys seen."""
        shape = (self.cache.rows, key_states.shape[1], self.cache.capacity)
        self.keys = key_states.new_zeros((*shape, key_states.shape[-1]))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [batch, heads, new, size] at the aimed places; returns all that this forward may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.keys.shape[2] < self.cache.capacity:
            self.keys, self.values = self._grown(self.keys), self._grown(self.values)
        aim = self.cache.aim
        if isinstance(aim.places, slice):
            self.keys[aim.rows, :, aim.places] = key_states
            self.values[aim.rows, :, aim.places] = value_states
        else:
            rows = aim.row_index[:, None]
            self.keys[rows, :, aim.places] = key_states.transpose(1, 2)
            self.values[rows, :, aim.places] = value_states.transpose(1, 2)
        return self.keys[aim.rows, :, : aim.end], self.values[aim.rows, :, : aim.end]

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = old.new_zeros((*old.shape[:2], self.cache.capacity, old.shape[3]))
        new[:, :, : old.shape[2]] = old
        return new

    def move(self, row: int, sources: torch.Tensor, start: int) -> None:
        """Copy the entries at `sources` [n] of `row` to `start`, `start` + 1, ..."""
        for states in (self.keys, self.values):
            assert states is not None
            states[row, :, start : start + len(sources)] = states[row].index_select(1, sources)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset; masks are always our own, so this only keeps the interface whole."""
        return self.cache.aim.end, 0

    def get_seq_length(self) -> int:
        """How many positions this forward may attend to."""
        return self.cache.aim.end

    def get_max_length(self) -> int:
        """No maximum of its own: capacity grows."""
        return -1


class Aim:
    """Where the next forward writes and what it may see.

    Attributes:
        rows: the rows in the batch: a slice where they are neighbours (a view, no copy), else an index.
        places: cache positions of the new tokens: a slice for a single row, else int64 [batch, new].
        end: number of positions that may be attended to.
    """

    def __init__(self, rows: list[int], places: slice | torch.Tensor, end: int, device: torch.device) -> None:
        neighbours = rows == list(range(rows[0], rows[0] + len(rows)))
        self.row_index = torch.tensor(rows, device=device)
        self.rows: slice | torch.Tensor = slice(rows[0], rows[-1] + 1) if neighbours else self.row_index
        self.places = places
        self.end = end


class TreeCache(Cache):
    """The cache of one model for `rows` texts.

    Attributes:
        rows: how many texts it holds.
        capacity: positions per row; the last one takes the padding of ragged batches.
    """

    def __init__(self, layers: int, rows: int = 1) -> None:
        self.rows = rows
        self.capacity = STEP
        self.aim = Aim([0], slice(0, 0), 0, torch.device("cpu"))
        super().__init__(layers=[TreeCacheLayer(self) for _ in range(layers)])

    def reserve(self, positions: int) -> None:
        """Make room for so many positions a row, and one for padding."""
        if positions >= self.capacity:
            self.capacity = (positions // STEP + 1) * STEP

    def move(self, row: int, sources: list[int], start: int, device: torch.device) -> None:
        """Move accepted entries of all layers to where the text goes on."""
        index = torch.tensor(sources, device=device)
        for layer in self.layers:
            if isinstance(layer, TreeCacheLayer) and layer.keys is not None:
                layer.move(row, index.to(layer.keys.device), start)

"""A preallocated key/value cache for token trees, written in place.

Every text has a row. New keys go where `aim` says, whatever each row's length is; a commit moves only the accepted
tail, in one copy for all layers of a device. Capacity grows in steps, so that shapes stay few. The interface to the
model is Hugging Face's `Cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_NOTHING = torch.zeros(0)
STEP = 256  # capacity grows in whole steps of so many positions


class TreeCacheLayer(CacheLayerMixin):
    """Keys and values of one layer: part `place` of the slab of its device."""

    def __init__(self, cache: TreeCache, device: torch.device, place: int) -> None:
        super().__init__()
        self.cache = cache
        self.device = device
        self.place = place

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the cache allocates for all layers of a device at once."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [batch, heads, new, size] at the aimed places; returns all that this forward may attend to."""
        aim = self.cache.aim
        if self.device not in aim.slabs:
            aim.slabs[self.device] = self.cache.allocate(self.device, key_states, aim)
        slab = aim.slabs[self.device]
        return self._written(slab[self.place, 0], key_states), self._written(slab[self.place, 1], value_states)

    def _written(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`kept` is [rows x capacity, heads, size], rows those of the batch; heads are the local key/value heads."""
        batch, aim = new.shape[0], self.cache.aim
        places = aim.places if aim.places.device == kept.device else aim.places.to(kept.device)
        kept.index_copy_(0, places, new.transpose(1, 2).reshape(-1, kept.shape[1], kept.shape[2]))
        rows = kept.view(batch, -1, kept.shape[1], kept.shape[2])
        return rows[:, : aim.mask.shape[-1]].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset; masks are always our own, so this only keeps the interface whole."""
        return self.cache.aim.mask.shape[-1], 0

    def get_seq_length(self) -> int:
        """How many positions this forward may attend to."""
        return int(self.cache.aim.mask.shape[-1])

    def get_max_length(self) -> int:
        """No maximum of its own: capacity grows."""
        return -1


class Aim:
    """Where the next forward writes and what it may see.

    Attributes:
        first, rows: the rows of the cache in the batch: so many neighbours from the first on.
        places: int64 [batch x new]: for each new token row x capacity + position, rows counted from `first`.
        mask: its last dimension is the number of positions that may be attended to.
        slabs: by device, that device's layers of these rows: [layers, 2, rows x capacity, heads, size].
    """

    def __init__(
        self, places: torch.Tensor, mask: torch.Tensor, slabs: dict[torch.device, torch.Tensor], first: int, rows: int
    ) -> None:
        self.places = places
        self.mask = mask
        self.slabs = slabs
        self.first = first
        self.rows = rows


class TreeCache(Cache):
    """The cache of one model for `rows` texts.

    Attributes:
        rows: how many texts it holds.
        capacity: positions per row; the last one takes the padding of ragged batches.
        slabs: by device, [its layers, 2 (keys, values), rows x capacity, local key/value heads, head size]; allocated
            at the first forward, which knows heads, size and type.
    """

    def __init__(self, devices: Sequence[torch.device], rows: int = 1) -> None:
        """`devices`: where each layer's keys will be."""
        self.rows = rows
        self.capacity = STEP
        self.slabs: dict[torch.device, torch.Tensor] = {}
        self.aim = Aim(_NOTHING, _NOTHING, {}, 0, rows)
        self._devices = list(devices)
        places = [self._devices[:i].count(device) for i, device in enumerate(devices)]
        super().__init__(layers=[TreeCacheLayer(self, *where) for where in zip(devices, places, strict=True)])

    def allocate(self, device: torch.device, like: torch.Tensor, aim: Aim) -> torch.Tensor:
        """The slab of a device, with the heads, size and type of `like`; the part for the rows of `aim`."""
        positions = self.rows * self.capacity
        shape = (self._devices.count(device), 2, positions, like.shape[1], like.shape[3])
        self.slabs[device] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return self.part(aim.first, aim.rows)[device]

    def take_aim(self, first: int, rows: int) -> tuple[torch.Tensor, ...]:
        """Aim at some neighbouring rows; returns the slabs for a `Step`, which says the rest."""
        self.aim = Aim(_NOTHING, _NOTHING, self.part(first, rows), first, rows)
        return tuple(self.aim.slabs.values())

    def part(self, first: int, rows: int) -> dict[torch.device, torch.Tensor]:
        """The slabs' views of some neighbouring rows."""
        start, positions = first * self.capacity, rows * self.capacity
        return {device: slab.narrow(2, start, positions) for device, slab in self.slabs.items()}

    @property
    def nbytes(self) -> int:
        """Allocated."""
        return sum(slab.nbytes for slab in self.slabs.values())

    def reserve(self, positions: int) -> bool:
        """Make room for so many positions a row, and one for padding; whether that changed the capacity."""
        if positions < self.capacity:
            return False
        old, self.capacity = self.capacity, (positions // STEP + 1) * STEP
        for device, slab in self.slabs.items():
            layers, two, _, heads, size = slab.shape
            new = slab.new_zeros((layers, two, self.rows, self.capacity, heads, size))
            new[:, :, :, :old] = slab.view(layers, two, self.rows, old, heads, size)
            self.slabs[device] = new.view(layers, two, -1, heads, size)
        return True

    def copy(self, source: int, row: int) -> None:
        """Let one row hold all that another holds."""
        for slab in self.slabs.values():
            kept = slab.view(*slab.shape[:2], self.rows, self.capacity, *slab.shape[3:])
            kept[:, :, row] = kept[:, :, source]

    def move(self, row: int, sources: Sequence[int], start: int) -> None:
        """Move accepted entries of all layers to where the text goes on."""
        first = row * self.capacity
        index = torch.tensor([first + source for source in sources])
        for device, slab in self.slabs.items():
            if device.type == "cuda":
                index = index.pin_memory()  # from other memory a copy waits for the device
            moved = slab.index_select(2, index.to(device, non_blocking=True))
            slab[:, :, first + start : first + start + len(sources)] = moved

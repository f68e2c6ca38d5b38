"""How many bytes of tensors a piece of code holds at most, on any device, also on that without numbers."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts tensors that operations make, not what these take inside.

    Attributes:
        most: the most bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(made)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given | self._held:  # else it is a view
                self._held.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return made

    def _drop(self, key: int, size: int) -> None:
        self._held.discard(key)
        self._now -= size


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)

"""Forwards as CUDA graphs: captured once for each shape, replayed without launches one by one.

A graph has fixed shapes, so sizes are rounded up to a few. Knows tensors; refuses to know texts and trees.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mtad.cache import STEP
from mtad.recorded import CannotRecordError, Eager, Step, Tensors, check, trial

SIZES = (1, 2, 4, 5, 8, 9, 16, 32, 64, 128)  # new tokens of a text in a forward; larger ones run eagerly
WARM_UPS = 3  # before a graph is captured, as torch's documentation asks for


class Graphs(Eager):
    """CUDA graphs, one for each shape met, and a few shapes only: sizes, ends and numbers of rows are rounded up.

    A forward larger than `SIZES`, and what cannot be captured, runs eagerly, and `fallback` says so.
    """

    name = "graphs"

    def __init__(self, step: Step, slabs: Tensors) -> None:
        """Raises CannotRecordError, also where a graph computes something else than the model for other values."""
        super().__init__(step)
        self._device = slabs[0].device  # need not be the current one
        self._aside = torch.cuda.Stream(self._device)
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, Tensors, Any] | None] = {}  # None: cannot be captured
        self._pool = torch.cuda.graph_pool_handle()
        captured, scratch = trial(step, slabs, 1, 2, 3)
        graph, static, output = self._capture(step, captured, scratch)
        for shape in ((1, 2, 5), (1, 2, -2)):
            inputs, others = trial(step, slabs, *shape)
            for ours, given in zip((*static, *scratch), (*inputs, *others), strict=True):
                ours.copy_(given)
            graph.replay()
            check(lambda *_: output, step, (*inputs, *others))
        self._pool = torch.cuda.graph_pool_handle()  # the trial's graph is gone, and its pool with it

    def size(self, new: int) -> int:
        return next((size for size in SIZES if size >= new), new)

    def end(self, positions: int, capacity: int) -> int:
        """Steps, doubled: a graph for every step would be captured under the clock as texts grow."""
        return min(capacity, STEP << (-(-positions // STEP) - 1).bit_length())

    def span(self, fed: range, rows: int) -> range:
        """From the first row of the cache on, a power of two of them: texts that wait are many combinations."""
        return range(min(rows, 1 << (fed.stop - 1).bit_length()))

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        if inputs[0].shape[1] > SIZES[-1]:
            self.fallback = self.fallback or f"forwards of more than {SIZES[-1]} tokens of a text run eagerly"
            return module(*inputs, *slabs)
        key = _key(module, inputs, slabs)
        if key not in self._graphs:
            self._capture_ends(module, inputs, slabs)
        if (found := self._graphs[key]) is None:
            return module(*inputs, *slabs)
        graph, static, output = found
        for ours, given in zip(static, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        graph.replay()
        # Copies, for the next replay writes there.
        return output.clone() if isinstance(output, torch.Tensor) else tuple(each.clone() for each in output)

    def forget(self) -> None:
        torch.cuda.synchronize(self._device)  # a replay may still be under way
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # that of graphs which are gone may not be taken up again

    def _capture_ends(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> None:
        """Capture for these inputs and for all larger ends, which the text will come to: now, while warming up."""
        sees, capacity = inputs[3], slabs[0].shape[2] // inputs[0].shape[0]
        end = sees.shape[2]
        while True:
            wider = nn.functional.pad(sees, (0, end - sees.shape[2]))
            given = (*inputs[:3], wider, *inputs[4:])
            try:
                self._graphs[_key(module, given, slabs)] = self._capture(module, given, slabs)
            except CannotRecordError as error:
                self._graphs[_key(module, given, slabs)] = None
                self.fallback = f"some forwards run eagerly: {error}"
            if end >= capacity:
                return
            end = self.end(end + 1, capacity)

    def _capture(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Any]:
        """The trial forwards write what the replay will write, at the same places. Raises CannotRecordError."""
        static = tuple(given.clone() for given in inputs)
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            self._aside.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._aside):
                    for _ in range(WARM_UPS - 1):
                        module(*static, *slabs)
                    with _waiting_fails():  # found here, it does not break a capture off in its middle
                        module(*static, *slabs)
                torch.cuda.current_stream().wait_stream(self._aside)
                # Other threads may use the device meanwhile; what this one must not do, above all wait, is an error.
                with torch.cuda.graph(graph, self._pool, self._aside, capture_error_mode="thread_local"):
                    output = module(*static, *slabs)
            except Exception as error:  # other people's code is run in a way that they need not have foreseen
                self._pool = torch.cuda.graph_pool_handle()
                torch.cuda.synchronize()
                raise CannotRecordError(f"{type(error).__name__} while its graph was captured") from error
        return graph, static, output


@contextmanager
def _waiting_fails() -> Iterator[None]:
    """What makes the host wait for the device raises RuntimeError, as far as torch notices."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not notice everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _key(module: nn.Module, inputs: Tensors, slabs: Tensors) -> tuple[object, ...]:
    """What a graph was captured for: it reads and writes these very slabs."""
    return (module, *(given.shape for given in inputs), *(slab.data_ptr() for slab in slabs))

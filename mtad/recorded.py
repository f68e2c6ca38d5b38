"""A forward recorded once and replayed without Python: TorchScript on a CPU, CUDA graphs on a GPU.

Small models spend a good part of a forward in Python. The recorded forward is that of Hugging Face's own model, as a
function of tensors; what it computes is what the model computes, operation by operation. On a CPU one recording serves
every shape. A GPU needs one for each shape, so sizes are rounded up to a few (`SIZES`).

Knows tensors; refuses to know texts and trees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import nn
from transformers.utils import logging

from mtad.cache import STEP, Aim, TreeCache
from mtad.packed import pack, swapped

Mode = Literal["auto", "recorded", "eager"]
SIZES = (1, 2, 4, 5, 8, 9, 16, 32, 64, 128)  # new tokens of a text in a forward; larger ones run eagerly on a GPU
WARM_UPS = 3  # before a CUDA graph is captured, as its documentation asks for
NEAR = {torch.float32: 1e-3}  # how far a recording's logits may be from the model's, relative and absolute
NEAR_HALF = 0.05  # in types of 16 bits
TRIALS = ((1, 1, 3), (1, 2, 3), (1, 5, -5), (2, 3, 3), (2, 1, 3))  # texts, new tokens, first position
Tensors = tuple[torch.Tensor, ...]


class CannotRecordError(Exception):
    """This model cannot be recorded; the message says why."""


class Step(nn.Module):
    """One forward over a tree cache as a function of tensors."""

    def __init__(self, lm: Any, cache: TreeCache) -> None:
        super().__init__()
        self.lm = lm
        self.cache = cache
        self.lowest = torch.finfo(lm.dtype).min

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        sees: torch.Tensor,
        *slabs: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [batch, new, embedding rows].

        Args:
            tokens, positions: int64 [batch, new].
            places: int64 [batch x new], see `Aim`.
            sees: bool [batch, new, end]: the cache positions that each new token attends to, itself included.
            slabs: parts of the cache, in the order of its devices; none before the first forward.
        """
        mask = torch.zeros_like(sees, dtype=self.lm.dtype).masked_fill(~sees, self.lowest)[:, None]
        aim = self.cache.aim
        self.cache.aim = Aim(places, mask, dict(zip(aim.slabs, slabs, strict=True)), aim.first, aim.rows)
        output = self.lm(
            input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=self.cache, use_cache=True
        )
        return output.logits


class Forward(Protocol):
    """What runs a `Step`, and what is built around one."""

    name: str
    step: Step
    fallback: str | None  # what runs eagerly all the same, and why

    def size(self, new: int) -> int:
        """How many new tokens a text is padded to."""

    def end(self, positions: int, capacity: int) -> int:
        """How many positions the forward attends to, at least `positions`."""

    def span(self, fed: range, rows: int) -> range:
        """Which of the `rows` rows of the cache take part, those that are `fed` among them."""

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        """What ``module(*inputs, *slabs)`` returns: a tensor, or a tuple of them."""

    def forget(self) -> None:
        """The cache was allocated anew."""


class Eager:
    """The model as it is."""

    name = "eager"
    fallback: str | None = None

    def __init__(self, step: Step) -> None:
        self.step = step

    def size(self, new: int) -> int:
        return new

    def end(self, positions: int, capacity: int) -> int:
        return positions

    def span(self, fed: range, rows: int) -> range:
        return fed

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        return module(*inputs, *slabs)

    def forget(self) -> None:
        pass


class Traced(Eager):
    """Traces by TorchScript, which records sizes as operations too, so that one serves all shapes but for one new
    token: transformers' attention takes another way then.
    """

    name = "traced"

    def __init__(self, step: Step, slabs: Tensors) -> None:
        """Raises CannotRecordError, also where the trace computes something else than the model at another shape."""
        super().__init__(step)
        self._traces: dict[tuple[nn.Module, bool], Callable[..., Any]] = {}
        self._packed = pack(step.lm)
        for trial in TRIALS:
            inputs, scratch = _trial(step, slabs, *trial)
            key = step, trial[1] == 1
            if key not in self._traces:
                self._traces[key] = self._trace(step, (*inputs, *scratch))
            _check(self._traces[key], step, (*inputs, *scratch))

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        key = module, inputs[0].shape[1] == 1
        if key not in self._traces:
            try:
                self._traces[key] = self._trace(module, (*inputs, *slabs))
            except CannotRecordError as error:
                self._traces[key] = module
                self.fallback = f"drafts run eagerly: {error}"
        return self._traces[key](*inputs, *slabs)

    def _trace(self, module: nn.Module, example: Tensors) -> Callable[..., Any]:
        with swapped(self._packed):
            return trace(module, example)


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
        captured, scratch = _trial(step, slabs, 1, 2, 3)
        graph, static, output = self._capture(step, captured, scratch)
        for trial in ((1, 2, 5), (1, 2, -2)):
            inputs, others = _trial(step, slabs, *trial)
            for ours, given in zip((*static, *scratch), (*inputs, *others), strict=True):
                ours.copy_(given)
            graph.replay()
            _check(lambda *_: output, step, (*inputs, *others))
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


def trace(function: nn.Module, example: Tensors) -> Callable[..., Any]:
    """The function as TorchScript. Raises CannotRecordError."""
    try:
        with _quiet():
            return torch.jit.trace(function, example, check_trace=False)
    except Exception as error:  # other people's code is run in a way that they need not have foreseen
        raise CannotRecordError(f"{type(error).__name__} while it was traced") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without two kinds of warnings that a trace calls forth and that mean nothing here.

    Torch's are of sizes taken for constants: shapes are tried instead. Transformers' are of what nobody uses: a trace
    looks at every attribute of a model, a loss that it was never given among them.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def _check(recorded: Callable[..., Any], step: Step, inputs: Tensors) -> None:
    """Raises CannotRecordError where a recording fails, or is not what the model computes."""
    shape = " x ".join(map(str, inputs[0].shape))
    try:
        found = recorded(*inputs)
    except Exception as error:
        raise CannotRecordError(f"{type(error).__name__} when its recording was tried at {shape} tokens") from error
    expected = step(*inputs)
    near = NEAR.get(expected.dtype, NEAR_HALF)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=near, atol=near):
        raise CannotRecordError(f"its recording differs from the model at {shape} tokens")


def _trial(step: Step, slabs: Tensors, batch: int, new: int, position: int) -> tuple[Tensors, Tensors]:
    """Arguments for a forward over a small cache of their own, and that cache.

    `position`: of the first new token in the text, counted from the end of the longest text if negative; rotations
    may be others there.
    """
    old, capacity = 3, 16
    generator = torch.Generator().manual_seed(position % 100)
    tokens = torch.randint(step.lm.config.vocab_size, (batch, new), generator=generator)
    first = position % step.lm.config.max_position_embeddings
    positions = torch.arange(first, first + new).repeat(batch, 1)
    places = (torch.arange(old, old + new) + torch.arange(batch)[:, None] * capacity).flatten()
    sees = torch.ones(new, old + new, dtype=torch.bool).tril(old).repeat(batch, 1, 1)
    scratch = []
    for slab in slabs:
        layers, two, _, heads, size = slab.shape
        kept = torch.randn((layers, two, batch * capacity, heads, size), generator=generator)
        scratch.append(kept.to(slab.device, slab.dtype))
    device = step.lm.device
    return tuple(each.to(device) for each in (tokens, positions, places, sees)), tuple(scratch)

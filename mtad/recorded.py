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

Mode = Literal["auto", "recorded", "eager"]
SIZES = (1, 2, 4, 5, 8, 9, 16, 32, 64)  # new tokens of a text in a forward; larger ones are read eagerly on a GPU
WARM_UPS = 3  # before a CUDA graph is captured, as its documentation asks for
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
        for batch, new in ((1, 1), (1, 2), (1, 5), (2, 3), (2, 1)):
            inputs = _trial(step, slabs, batch, new)
            if (step, new == 1) not in self._traces:
                self._traces[step, new == 1] = trace(step, inputs)
            found, expected = self._traces[step, new == 1](*inputs), step(*inputs)
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
                raise CannotRecordError(f"its trace differs from the model at {batch} x {new} tokens")

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        key = module, inputs[0].shape[1] == 1
        if key not in self._traces:
            try:
                self._traces[key] = trace(module, (*inputs, *slabs))
            except CannotRecordError as error:
                self._traces[key] = module
                self.fallback = f"drafts run eagerly: {error}"
        return self._traces[key](*inputs, *slabs)


class Graphs(Eager):
    """CUDA graphs, one for each shape met; a forward larger than `SIZES` runs eagerly."""

    name = "graphs"

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, Tensors, Any]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def size(self, new: int) -> int:
        return next((size for size in SIZES if size >= new), new)

    def end(self, positions: int, capacity: int) -> int:
        return min(capacity, -(-positions // STEP) * STEP)

    def span(self, fed: range, rows: int) -> range:
        """From the first row of the cache on, a power of two of them: texts that wait are many combinations."""
        return range(min(rows, 1 << (fed.stop - 1).bit_length()))

    def __call__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        if inputs[0].shape[1] not in SIZES:
            return module(*inputs, *slabs)
        key = (module, *(given.shape for given in inputs), *(slab.data_ptr() for slab in slabs))
        if key not in self._graphs:
            self._graphs[key] = self._capture(module, inputs, slabs)
        graph, static, output = self._graphs[key]
        for ours, given in zip(static, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        graph.replay()
        # Copies, for the next replay writes there.
        return output.clone() if isinstance(output, torch.Tensor) else tuple(each.clone() for each in output)

    def forget(self) -> None:
        self._graphs.clear()

    def _capture(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Any]:
        """The trial forwards write what the replay will write, at the same places."""
        static = tuple(given.clone() for given in inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                module(*static, *slabs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = module(*static, *slabs)
        return graph, static, output


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


def _trial(step: Step, slabs: Tensors, batch: int, new: int) -> Tensors:
    """Arguments for a forward over a small cache of their own."""
    old, capacity = 3, 16
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(step.lm.config.vocab_size, (batch, new), generator=generator)
    positions = torch.arange(old, old + new).repeat(batch, 1)
    places = (positions + torch.arange(batch)[:, None] * capacity).flatten()
    sees = torch.ones(new, old + new, dtype=torch.bool).tril(old).repeat(batch, 1, 1)
    scratch = []
    for slab in slabs:
        layers, two, _, heads, size = slab.shape
        kept = torch.randn((layers, two, batch * capacity, heads, size), generator=generator)
        scratch.append(kept.to(slab.dtype))
    return tokens, positions, places, sees, *scratch

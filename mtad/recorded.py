"""A forward recorded once and replayed without Python: TorchScript on a CPU; see `mtad.graphs` for a GPU.

Small models spend a good part of a forward in Python. The recorded forward is that of Hugging Face's own model, as a
function of tensors; what it computes is what the model computes, operation by operation. On a CPU one recording serves
every shape.

Knows tensors; refuses to know texts and trees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import nn

from mtad.cache import Aim, TreeCache
from mtad.packed import pack, swapped
from mtad.quiet import quiet

Mode = Literal["auto", "recorded", "eager"]
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
        for shape in TRIALS:
            inputs, scratch = trial(step, slabs, *shape)
            key = step, shape[1] == 1
            if key not in self._traces:
                self._traces[key] = self._trace(step, (*inputs, *scratch))
            check(self._traces[key], step, (*inputs, *scratch))

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


def trace(function: nn.Module, example: Tensors) -> Callable[..., Any]:
    """The function as TorchScript. Raises CannotRecordError."""
    try:
        # Torch warns of sizes taken for constants: shapes are tried instead. Transformers warns of what nobody uses: a
        # trace looks at every attribute of a model, a loss that it was never given among them.
        with quiet():
            return torch.jit.trace(function, example, check_trace=False)
    except Exception as error:  # other people's code is run in a way that they need not have foreseen
        raise CannotRecordError(f"{type(error).__name__} while it was traced") from error


def check(recorded: Callable[..., Any], step: Step, inputs: Tensors) -> None:
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


def trial(step: Step, slabs: Tensors, batch: int, new: int, position: int) -> tuple[Tensors, Tensors]:
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

"""Whether a decision hangs on less than the logits' tolerance: it is made again and again with logits moved at random.

The same text may be read in other shapes, alone or beside others, and its logits then differ by rounding, by less than
`Model.tolerance`. Where that decides, two texts part though nothing is wrong. Of no decoder is asked how it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from mtad.clock import Mark
from mtad.decoder import Decoder, RoundDecoder
from mtad.ending import Detokenise, Limits
from mtad.feeds import Feed, Model
from mtad.generate import generate, next_round
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.session import Session

TRIALS = 32

T = TypeVar("T")


class Shaken:
    """A model whose logits are moved by up to its tolerance, each on its own, equally often up and down."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._random: torch.Generator | None = None
        self.max_positions, self.vocabulary, self.tolerance = model.max_positions, model.vocabulary, model.tolerance

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """As the model's, moved."""
        return [self._moved(logits) for logits in self._model.forward(feeds)]

    def _moved(self, logits: torch.Tensor) -> torch.Tensor:
        if self._random is None:
            self._random = torch.Generator(logits.device).manual_seed(self._seed)
        by = torch.rand(logits.shape, generator=self._random, device=logits.device)
        return logits.float() + (2 * by - 1) * self.tolerance

    def prefill(self, feeds: Sequence[Feed]) -> None:
        """As the model's."""
        self._model.prefill(feeds)

    def move(self, row: int, sources: list[int], start: int) -> None:
        """As the model's."""
        self._model.move(row, sources, start)

    def copy(self, source: int, row: int) -> None:
        """As the model's."""
        self._model.copy(source, row)

    def reserve(self, positions: int) -> None:
        """As the model's."""
        self._model.reserve(positions)

    def synchronise(self) -> None:
        """As the model's."""
        self._model.synchronise()

    def mark(self) -> Mark:
        """As the model's."""
        return self._model.mark()


def varies(decide: Callable[[Model, Model], T], target: Model, draft: Model, trials: int = TRIALS) -> bool:
    """Whether `decide`, given the two models shaken, does not always come to the same; stops as soon as that shows."""
    first: T | None = None
    for trial in range(trials):
        found = decide(Shaken(target, 2 * trial), Shaken(draft, 2 * trial + 1))
        if trial and found != first:
            return True
        first = found
    return False


def decided(
    decoder: Decoder,
    prompt: Sequence[int],
    written: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    luck: Luck,
    detokenise: Detokenise,
    first: int,
) -> Callable[[Model, Model], tuple[int, ...]]:
    """For `varies`: the `first` tokens of the round that follows `written`; of a decoder of whole texts of the text."""

    def decide(target: Model, draft: Model) -> tuple[int, ...]:
        sessions = Session(target), Session(draft)
        if not isinstance(decoder, RoundDecoder):
            return generate(decoder, *sessions, prompt, limits, sampling, luck, detokenise).tokens[:first]
        return next_round(decoder, *sessions, prompt, written, limits, sampling, luck, detokenise)[:first]

    return decide

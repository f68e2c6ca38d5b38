"""Every outcome of a decoder's rounds on table models, each with its exact probability: laws without statistics.

A round is followed along every outcome of its draws and tests. So the law of what it emits (`first_tokens`,
`whole_law`) and what it accepts (`mean_accepted`) are exact. For decoders that compare each acceptance uniform alone
and draw by `mtad.law.inverse_cdf`, as `Law.draw` does; a uniform that is used for two decisions is an error.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np

from experiments.conformance.laws import START, Lookup, P, Q, Table, answer, asking, exact, one_text
from experiments.conformance.texts import PURE
from mtad.decoder import Decoder, Round, Text
from mtad.law import Sampling, inverse_cdf

T = TypeVar("T")
Choose = Callable[[Sequence[float]], int]  # an index, with probability in proportion to its weight


class UnfollowedError(AssertionError):
    """A decoder uses its uniforms in another way, or has more outcomes than are wanted."""


def one_round(
    decoder: Decoder, sampling: Sampling = PURE, target: Table = P, draft: Table = Q, room: int = 99
) -> list[tuple[float, Round]]:
    """Every outcome of the first round after the prompt (START,), with its probability. Raises UnfollowedError."""
    ask = asking(decoder, target, draft, sampling)

    def run(choose: Choose) -> Round:
        luck: Any = ForkedLuck(choose)
        (only,) = answer(ask(Text([START], room, frozenset(), luck, sampling.greedy, lambda new: False)), START)
        return only

    with _forked_draws():
        return list(outcomes(run))


def whole_law(
    decoder: Decoder, length: int, sampling: Sampling, target: Table, draft: Table, most: int
) -> dict[tuple[int, ...], float]:
    """Exact law of texts of `length` tokens, however many rounds they take.

    Raises:
        UnfollowedError: there are more than `most` outcomes, or they cannot be followed.
    """
    ask = asking(decoder, target, draft, sampling)

    def run(choose: Choose) -> tuple[int, ...]:
        luck: Any = ForkedLuck(choose)
        return one_text(ask, luck, length, 0, sampling.greedy)

    law: dict[tuple[int, ...], float] = {}
    with _forked_draws():
        for count, (probability, tokens) in enumerate(outcomes(run)):
            if count == most:
                raise UnfollowedError(f"more than {most} outcomes")
            law[tokens] = law.get(tokens, 0.0) + probability
    return law


@contextmanager
def _forked_draws() -> Iterator[None]:
    """Within, every module's `inverse_cdf` takes a forked uniform."""

    def draw(weights: Sequence[float] | np.ndarray, uniform: Uniform) -> int:
        return uniform.use(weights)

    usual = inverse_cdf  # for this module's own name is patched too
    with ExitStack() as patches:
        for module in list(sys.modules.values()):
            if vars(module).get("inverse_cdf") is usual:
                patches.enter_context(patch.object(module, "inverse_cdf", draw))
        yield


def first_tokens(
    decoder: Decoder, length: int, sampling: Sampling = PURE, target: Table = P, draft: Table = Q
) -> dict[tuple[int, ...], float]:
    """Exact law of `length` tokens, if after the first round the target goes on alone."""
    rows = np.exp(Lookup(target, sampling.warp(decoder.joint)).dense)
    law: dict[tuple[int, ...], float] = {}
    for probability, step in one_round(decoder, sampling, target, draft):
        missing = max(0, length - len(step.tokens))
        for more in itertools.product(range(len(target)), repeat=missing):
            tokens = (*step.tokens, *more)
            pairs = list(itertools.pairwise(tokens))[len(step.tokens) - 1 :]
            key = tokens[:length]
            law[key] = law.get(key, 0.0) + probability * float(np.prod([rows[a, b] for a, b in pairs]))
    return law


def mean_accepted(decoder: Decoder, sampling: Sampling = PURE, target: Table = P, draft: Table = Q) -> float:
    """Exact expectation of the drafted tokens that the first round accepts."""
    return sum(probability * step.accepted for probability, step in one_round(decoder, sampling, target, draft))


def error(decoder: Decoder, length: int, sampling: Sampling = PURE, target: Table = P, draft: Table = Q) -> float:
    """Largest difference between the exact law of the first tokens and that of the target; see `first_tokens`."""
    law = first_tokens(decoder, length, sampling, target, draft)
    right = exact(target, sampling.warp(decoder.joint), length)
    return max(abs(law.get(tokens, 0.0) - right.get(tokens, 0.0)) for tokens in {*law, *right})


def outcomes(run: Callable[[Choose], T]) -> Iterator[tuple[float, T]]:
    """`run` along every path of its choices, with the probability of the path."""
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        path = Path(waiting.pop())
        result = run(path.choose)
        waiting += path.others
        yield path.probability, result


@dataclass
class Path:
    """Follows the choices of `start`, then takes the first one each time and notes the others."""

    start: tuple[int, ...]
    taken: tuple[int, ...] = ()
    probability: float = 1.0
    others: list[tuple[int, ...]] = field(default_factory=list)

    def choose(self, weights: Sequence[float]) -> int:
        possible = [index for index, weight in enumerate(weights) if weight > 0]
        if len(self.taken) < len(self.start):
            pick = self.start[len(self.taken)]
        else:
            pick, *rest = possible
            self.others += [(*self.taken, other) for other in rest]
        self.taken += (pick,)
        self.probability *= float(weights[pick] / sum(weights))
        return pick


@dataclass(frozen=True)
class ForkedLuck:
    """Uniforms that have every value."""

    choose: Choose
    used: set[tuple[object, ...]] = field(default_factory=set)

    def last(self, position: int) -> Uniform:
        return self._uniform("last", position)

    def draft(self, position: int, start: int, index: int = 0) -> Uniform:
        return self._uniform("draft", position, start, index)

    def accept(self, position: int, start: int, index: int = 0) -> Uniform:
        return self._uniform("accept", position, start, index)

    def _uniform(self, *address: object) -> Uniform:
        if address in self.used:
            raise UnfollowedError(f"the uniform {address} is used for two decisions")
        self.used.add(address)
        return Uniform(self.choose)


class Uniform:
    """A uniform in [0, 1) that is good for one decision: a draw, or a comparison with a number."""

    def __init__(self, choose: Choose) -> None:
        self.choose: Choose | None = choose

    def use(self, weights: Sequence[float] | np.ndarray) -> int:
        if self.choose is None:
            raise UnfollowedError("a uniform is used for two decisions")
        choose, self.choose = self.choose, None
        return choose(list(weights))

    def __lt__(self, bound: float) -> bool:
        chance = min(1.0, max(0.0, float(bound)))
        return self.use([chance, 1.0 - chance]) == 0

    def __ge__(self, bound: float) -> bool:
        return not self < bound

    __le__, __gt__ = __lt__, __ge__  # a bound itself has probability 0

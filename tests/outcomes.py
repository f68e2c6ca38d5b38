"""Every outcome of one round with its exact probability: uniforms that are not drawn but split.

A uniform here is an interval. Each question that code asks of it (is it below a ratio, which token does the cumulative
law reach) splits the interval, and `outcomes` runs the round again for every part. So it is real code that is
enumerated, a uniform that decides twice does so as one uniform, and a law is exact up to float noise.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

import baselines.specinfer
import baselines.speculative
import mtad.drafting
import mtad.law
from mtad.decoder import Decoder, Round, Text
from mtad.law import Sampling
from tests.helpers import PURE
from tests.laws import START, Lookup, Table, answer, rounds

DRAWING = (mtad.law, mtad.drafting, baselines.speculative, baselines.specinfer)  # the modules that draw tokens


@dataclass
class Branching:
    """One way through the round: the parts to take of the first splits, and the first possible one of all others."""

    script: list[int]
    taken: list[tuple[int, np.ndarray]] = field(default_factory=list)
    probability: float = 1.0

    def choose(self, shares: np.ndarray) -> int:
        at = len(self.taken)
        part = self.script[at] if at < len(self.script) else int(np.flatnonzero(shares)[0])
        self.taken.append((part, shares))
        self.probability *= shares[part]
        return part

    def following(self) -> list[int] | None:
        """The script of the next way, if there is one."""
        while self.taken:
            part, shares = self.taken.pop()
            others = np.flatnonzero(shares[part + 1 :])
            if len(others):
                return [earlier for earlier, _ in self.taken] + [part + 1 + int(others[0])]
        return None


@dataclass
class Uniform:
    """What is still known of a uniform: that it is in [low, high)."""

    way: Branching
    low: float = 0.0
    high: float = 1.0

    def split(self, edges: np.ndarray) -> int:
        """The cell of [0, 1) that it falls into, cut at `edges`."""
        cuts = np.clip([0.0, *edges, 1.0], self.low, self.high)
        cell = self.way.choose(np.diff(cuts) / (self.high - self.low))
        self.low, self.high = cuts[cell], cuts[cell + 1]
        return cell

    def __lt__(self, ratio: float) -> bool:
        return self.split(np.array([ratio])) == 0


class SplitLuck:
    """`mtad.luck.Luck` with such uniforms; `address` may make several decisions share one."""

    def __init__(self, way: Branching, address: Callable[..., object]) -> None:
        self.way, self.address = way, address
        self.met: dict[object, Uniform] = {}

    def last(self, position: int) -> Uniform:
        return self._at("last", position, -1, 0)

    def draft(self, position: int, start: int, index: int = 0) -> Uniform:
        return self._at("draft", position, start, index)

    def accept(self, position: int, start: int, index: int = 0) -> Uniform:
        return self._at("accept", position, start, index)

    def _at(self, *address: object) -> Uniform:
        return self.met.setdefault(self.address(*address), Uniform(self.way))


@contextmanager
def split_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in DRAWING:
            patch.setattr(module, "inverse_cdf", lambda weights, u: u.split(weights.cumsum()[:-1] / weights.sum()))
        yield


def outcomes(
    decoder: Decoder,
    target: Table,
    draft: Table,
    room: int,
    sampling: Sampling = PURE,
    prompt: tuple[int, ...] = (START,),
    eos: frozenset[int] = frozenset(),
    address: Callable[..., object] = lambda *address: address,
) -> list[tuple[Round, float]]:
    """All rounds that `decoder` may make after `prompt` with `room` tokens to go, and their probabilities."""
    warp = sampling.warp(decoder.joint)
    readers = Lookup(target, warp), Lookup(draft, warp)
    found, script = [], list[int]()
    with split_draws():
        while script is not None:
            way = Branching(script)
            luck = SplitLuck(way, address)
            text = Text(prompt, room, eos, luck, sampling.greedy, lambda new: False)  # type: ignore[arg-type]
            found += [(step, way.probability) for step in answer(rounds(decoder, text, *readers), prompt[-1])]
            script = way.following()  # type: ignore[assignment]
    assert abs(sum(probability for _, probability in found) - 1) < 1e-9
    return found


def law_error(found: list[tuple[Round, float]], target: Table, room: int, sampling: Sampling = PURE) -> float:
    """How far the law of `room` tokens is from the target's; what a shorter round leaves open is drawn from p."""
    p = np.exp(Lookup(target, sampling.warp(False)).dense)
    rounds_law = Counter[tuple[int, ...]]()
    for step, probability in found:
        rounds_law[step.tokens] += probability
    worst = 0.0
    for tokens in itertools.product(range(len(target)), repeat=room):
        edges = [p[pair] for pair in itertools.pairwise((START, *tokens))]
        got = sum(rounds_law[tokens[:end]] * float(np.prod(edges[end:])) for end in range(1, room + 1))
        worst = max(worst, abs(got - float(np.prod(edges))))
    return worst


def mean_accepted(found: list[tuple[Round, float]]) -> float:
    """Expected number of accepted draft tokens."""
    return sum(step.accepted * probability for step, probability in found)

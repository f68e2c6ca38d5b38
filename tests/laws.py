"""Does a decoder sample the target's law? Texts on table models, whose law is known exactly, against that law.

`p_value` tests whole texts of several rounds by chi-square. Its texts come from `write_all`, a small loop over rounds
that looks laws up in a table; it writes what `mtad.generate` writes, token for token, and is several times faster.

`one_round` needs no statistics: it follows a round along every outcome of its draws and tests, each with its exact
probability, so that the law of what the round emits (`first_tokens`) and what it accepts (`mean_accepted`) are exact.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import chi2

from mtad.decoder import Decoder, Engine, Round, RoundDecoder, Text
from mtad.law import RAW, Law, Sampling, Warp, inverse_cdf
from mtad.luck import Luck
from mtad.tree import Tree
from tests.fakes import TableModel
from tests.helpers import PURE

Table = Sequence[Sequence[float]]  # row i: weights of the next token after token i

P: Table = [[1, 2, 5], [6, 1, 1], [2, 4, 2]]
Q: Table = [[4, 3, 1], [2, 2, 4], [1, 1, 6]]
PAIRS: dict[str, tuple[Table, Table]] = {
    "three tokens": (P, Q),
    "two tokens": ([[3, 1], [2, 3]], [[1, 2], [4, 1]]),  # fewer than the width of most trees
    "far draft": (
        [[8, 4, 2, 1, 1], [1, 8, 4, 2, 1], [1, 1, 8, 4, 2], [2, 1, 1, 8, 4], [4, 2, 1, 1, 8]],
        [[1, 1, 1, 6, 9], [9, 1, 1, 1, 6], [6, 9, 1, 1, 1], [1, 6, 9, 1, 1], [1, 1, 6, 9, 1]],
    ),
    "peaked draft": (P, [[1, 1, 18], [18, 1, 1], [1, 18, 1]]),  # draws with replacement repeat themselves
}
WARPS = [Sampling(0.7, 2, 1.0), Sampling(1.5, 0, 0.8), Sampling(1.0, 10, 0.8)]

LENGTH, TEXTS = 4, 2000
REFUTED = 1e-6  # a right rule meets this once in a million seeds, and the seeds are fixed
FEWEST = 5.0  # expected texts of a cell, below which chi-square is not its law
START = 0  # the prompt's only token


def p_value(
    decoder: Decoder,
    sampling: Sampling = PURE,
    texts: int = TEXTS,
    target: Table = P,
    draft: Table = Q,
    length: int = LENGTH,
) -> float:
    """How well `texts` outputs of `length` tokens agree with the exact law of the target; below REFUTED they do not.

    The least p-value of chi-square tests of the whole texts, of the tokens at each position, and of each pair of
    neighbours, times their number (Bonferroni). The whole text sees every fault, a marginal sees small ones sooner.
    """
    seen = Counter(write_all(decoder, target, draft, sampling, texts, length))
    law = exact(target, sampling.warp(decoder.joint), length)
    spans = [(0, length), *((at, at + size) for size in (1, 2) for at in range(length - size + 1) if size < length)]
    values = [chi_square(marginal(seen, span), marginal(law, span)) for span in spans]
    return min(1.0, min(values) * len(values))


def marginal(weights: Any, span: tuple[int, int]) -> dict[tuple[int, ...], float]:
    """The weights of texts summed over all tokens outside `span`."""
    sums: dict[tuple[int, ...], float] = {}
    for tokens, weight in weights.items():
        part = tokens[slice(*span)]
        sums[part] = sums.get(part, 0.0) + weight
    return sums


def chi_square(seen: dict[tuple[int, ...], float], law: dict[tuple[int, ...], float]) -> float:
    """p-value of counts under a law; cells that expect little are pooled, and an impossible one refutes."""
    texts = sum(seen.values())
    if any(texts * law.get(tokens, 0.0) < REFUTED for tokens in seen):
        return 0.0
    cells = sorted((texts * p, seen.get(tokens, 0)) for tokens, p in law.items())
    expected, counted = (np.array(column, dtype=np.float64) for column in zip(*cells, strict=True))
    pooled = int(np.searchsorted(expected, FEWEST))
    while 0 < pooled < len(cells) and expected[:pooled].sum() < FEWEST:
        pooled += 1
    if pooled:
        expected = np.append(expected[pooled:], expected[:pooled].sum())
        counted = np.append(counted[pooled:], counted[:pooled].sum())
    if len(expected) < 2:
        return 1.0
    return float(chi2.sf(((counted - expected) ** 2 / expected).sum(), len(expected) - 1))


def exact(target: Table, warp: Warp, length: int = LENGTH) -> dict[tuple[int, ...], float]:
    """Probability of every text of `length` tokens after the prompt (START,)."""
    size = len(target)
    rows = np.exp(Lookup(target, warp).dense)
    law = {}
    for tokens in itertools.product(range(size), repeat=length):
        pairs = itertools.pairwise((START, *tokens))
        law[tokens] = float(np.prod([rows[a, b] for a, b in pairs]))
    assert abs(sum(law.values()) - 1) < 1e-9
    return law


# -- the quick loop --------------------------------------------------------------------------------------------------

Steps = Generator[Any, Law, Sequence[Round]]


@dataclass(frozen=True)
class Lookup:
    """What a round uses of `mtad.session.Reader`, on a table."""

    table: Table
    warp: Warp
    grows = False

    @cached_property
    def law(self) -> Law:
        """Row i is the law after token i."""
        model = TableModel(self.table)
        rows = [self.warp(model.logits([last])[None]) for last in range(model.vocabulary)]
        width = max(row.logp.shape[1] for row in rows)
        logp, ids = np.full((len(rows), width), -np.inf), np.full((len(rows), width), np.iinfo(np.int64).max)
        for i, row in enumerate(rows):
            logp[i, : row.logp.shape[1]] = row.logp[0]
            ids[i, : row.logp.shape[1]] = range(width) if row.ids is None else row.ids[0]
        return Law(None if rows[0].ids is None else ids, logp)

    @cached_property
    def dense(self) -> np.ndarray:
        """Log-probabilities after every token (row) of every token (column)."""
        size = len(self.table)
        return np.array([self.law.of(last, np.arange(size)) for last in range(size)])

    @cached_property
    def raw(self) -> Lookup:
        return Lookup(self.table, RAW)

    def read(self, tree: Tree) -> tuple[Lookup, Tree]:
        return self, tree


def write_all(
    decoder: Decoder, target: Table, draft: Table, sampling: Sampling, texts: int, length: int
) -> Iterator[tuple[int, ...]]:
    """Texts of `length` tokens after the prompt (START,), with seeds 0, 1, 2, ..."""
    warp = sampling.warp(decoder.joint)
    readers, write = (Lookup(target, warp), Lookup(draft, warp)), rounds(decoder)
    for seed in range(texts):
        luck, tokens = Luck(seed, "prompt"), [START]
        while len(tokens) <= length:
            room = length + 1 - len(tokens)
            text = Text(list(tokens), room, frozenset(), luck, sampling.greedy, lambda new: False)
            for step in answer(write(text, *readers), tokens[-1]):
                tokens += step.tokens
        yield tuple(tokens[1 : length + 1])


def rounds(decoder: Any) -> Callable[..., Steps]:
    """The rounds that a decoder of rounds (one) or of whole texts (all) writes next."""
    assert not isinstance(decoder, Engine), "an engine runs models of its own"
    if not isinstance(decoder, RoundDecoder):
        return decoder.write  # type: ignore[no-any-return]

    def write(text: Text, target: Any, draft: Any) -> Steps:
        return [(yield from decoder.round(text, target, draft))]

    return write


def answer(steps: Steps, last: int) -> Sequence[Round]:
    """Serve every read from its table: the law after a node is that after its token, after the root that of `last`."""
    try:
        lookup, tree = next(steps)
        while True:
            lookup, tree = steps.send(lookup.law.take([last, *tree.tokens[1:]]))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


# -- every outcome of one round --------------------------------------------------------------------------------------

Choose = Callable[[Sequence[float]], int]  # an index, with probability in proportion to its weight


def one_round(
    decoder: Decoder, sampling: Sampling = PURE, target: Table = P, draft: Table = Q, room: int = 99
) -> list[tuple[float, Round]]:
    """Every outcome of the first round after the prompt (START,), with its probability.

    For decoders that compare each acceptance uniform alone and draw by `mtad.law.inverse_cdf`. A uniform that is used
    for two decisions fails.
    """
    warp = sampling.warp(decoder.joint)
    readers, write = (Lookup(target, warp), Lookup(draft, warp)), rounds(decoder)

    def run(choose: Choose) -> Round:
        luck: Any = ForkedLuck(choose)
        text = Text([START], room, frozenset(), luck, sampling.greedy, lambda new: False)
        (only,) = answer(write(text, *readers), START)
        return only

    def draw(weights: np.ndarray, uniform: Uniform) -> int:
        return uniform.use(weights)

    with ExitStack() as patches:
        for module in list(sys.modules.values()):
            if vars(module).get("inverse_cdf") is inverse_cdf:
                patches.enter_context(patch.object(module, "inverse_cdf", draw))
        return list(outcomes(run))


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


def outcomes(run: Callable[[Choose], Round]) -> Iterator[tuple[float, Round]]:
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
        assert address not in self.used, f"the uniform {address} is used for two decisions"
        self.used.add(address)
        return Uniform(self.choose)


class Uniform:
    """A uniform in [0, 1) that is good for one decision: a draw, or a comparison with a number."""

    def __init__(self, choose: Choose) -> None:
        self.choose: Choose | None = choose

    def use(self, weights: Sequence[float] | np.ndarray) -> int:
        assert self.choose is not None, "a uniform is used for two decisions"
        choose, self.choose = self.choose, None
        return choose(list(weights))

    def __lt__(self, bound: float) -> bool:
        chance = min(1.0, max(0.0, float(bound)))
        return self.use([chance, 1.0 - chance]) == 0

    def __ge__(self, bound: float) -> bool:
        return not self < bound

    __le__, __gt__ = __lt__, __ge__  # a bound itself has probability 0

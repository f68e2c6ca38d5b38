"""Does a decoder sample the target's law? Texts on table models, whose law is known exactly, against that law.

`p_value` tests whole texts of several rounds by chi-square. Its texts come from `write_all`, a small loop over rounds
that looks laws up in a table; it writes what `mtad.generate` writes, token for token, and is several times faster.
What needs no statistics is in `experiments.conformance.outcomes`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import chi2

from experiments.conformance.models import TableModel
from experiments.conformance.texts import PURE
from mtad.decoder import Decoder, Engine, Round, RoundDecoder, Text
from mtad.law import RAW, Law, Sampling, Warp
from mtad.luck import Luck
from mtad.session import Read, Session
from mtad.tree import Tree

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
REFUTED = 1e-6  # a right rule meets this about once in a million seeds; docs/conformance.md has the rate
FEWEST = 5.0  # expected texts of a cell, below which chi-square is not its law
START = 0  # the prompt's only token


def p_value(
    decoder: Decoder,
    sampling: Sampling = PURE,
    texts: int = TEXTS,
    target: Table = P,
    draft: Table = Q,
    length: int = LENGTH,
    spare: int = 0,
    seed: int = 0,
) -> float:
    """How well `texts` outputs of `length` tokens agree with the exact law of the target; below REFUTED they do not.

    The least p-value of chi-square tests of the whole texts, of the tokens at each position, and of each pair of
    neighbours, times their number (Bonferroni). The whole text sees every fault, a marginal sees small ones sooner.
    """
    seen = Counter(write_all(decoder, target, draft, sampling, texts, length, spare, seed))
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

    @cached_property
    def session(self) -> Session:
        """For rounds that ask what model they read; it has no text."""
        return Session(TableModel(self.table))

    def read(self, tree: Tree) -> Read:
        reader: Any = self
        return Read(reader, tree)


def write_all(
    decoder: Decoder,
    target: Table,
    draft: Table,
    sampling: Sampling,
    texts: int,
    length: int,
    spare: int = 0,
    seed: int = 0,
) -> Iterator[tuple[int, ...]]:
    """Texts of `length` tokens after the prompt (START,), with seeds from `seed` on; see `one_text`."""
    ask = asking(decoder, target, draft, sampling)
    for one in range(seed, seed + texts):
        yield one_text(ask, Luck(one, "prompt"), length, spare, sampling.greedy)


Ask = Callable[[Text], "Steps"]  # the next rounds of a text


def asking(decoder: Decoder, target: Table, draft: Table, sampling: Sampling) -> Ask:
    """The decoder on a pair of tables."""
    warp = sampling.warp(decoder.joint)
    readers, write = (Lookup(target, warp), Lookup(draft, warp)), rounds(decoder)
    return lambda text: write(text, *readers)


def one_text(ask: Ask, luck: Luck, length: int, spare: int = 0, greedy: bool = False) -> tuple[int, ...]:
    """The first `length` tokens after the prompt (START,) of a text of up to `spare` tokens more."""
    tokens = [START]
    while len(tokens) <= length:
        room = length + spare + 1 - len(tokens)
        for step in answer(ask(Text(list(tokens), room, frozenset(), luck, greedy, lambda new: False)), tokens[-1]):
            if not step.tokens:
                raise RuntimeError("a decoder returned a round without tokens")
            tokens += step.tokens
    return tuple(tokens[1 : length + 1])


def rounds(decoder: Any) -> Callable[..., Steps]:
    """The rounds that a decoder of rounds (one) or of whole texts (all) writes next."""
    assert not isinstance(decoder, Engine), "an engine runs models of its own"
    if not isinstance(decoder, RoundDecoder):
        return decoder.write

    def write(text: Text, target: Any, draft: Any) -> Steps:
        return [(yield from decoder.round(text, target, draft))]

    return write


def answer(steps: Steps, last: int) -> Sequence[Round]:
    """Serve every read from its table: the law after a node is that after its token, after the root that of `last`."""
    try:
        read = next(steps)
        while True:
            read = steps.send(read.reader.law.take([last, *read.tree.tokens[1:]]))
    except StopIteration as end:
        return end.value

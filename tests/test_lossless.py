"""Lossless decoders sample the target's law over several tokens and rounds, and the same test catches wrong rules."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative, residual_draw
from mtad.decoder import Decoder, Round, Rounds, Source, Text
from mtad.drafting import OneEach, grow
from mtad.law import Law, Sampling, Warp
from mtad.mtad import Mmtad, Mtad
from mtad.session import Reader
from mtad.tree import ROOT, Tree
from tests.fakes import TableModel, llama, noisy, opt
from tests.helpers import PURE, write

P = [[1, 2, 5], [6, 1, 1], [2, 4, 2]]
Q = [[4, 3, 1], [2, 2, 4], [1, 1, 6]]
LENGTH, TEXTS = 4, 2000
REFUTED = 1e-6  # a right rule meets this once in a million seeds, and the seeds are fixed


def p_value(decoder: Decoder, sampling: Sampling = PURE, texts: int = TEXTS) -> float:
    """Chi-square test of `texts` outputs of LENGTH tokens against the exact law of the target."""
    target, draft = TableModel(P), TableModel(Q)
    seen = Counter(write(decoder, target, draft, limit=LENGTH, sampling=sampling, seed=s).tokens for s in range(texts))
    law = exact(sampling.warp(decoder.joint))
    possible = {tokens: p for tokens, p in law.items() if p > 0}
    if set(seen) - set(possible):
        return 0.0
    statistic = sum((seen[tokens] - texts * p) ** 2 / (texts * p) for tokens, p in possible.items())
    return float(chi2.sf(statistic, len(possible) - 1))


def exact(warp: Warp) -> dict[tuple[int, ...], float]:
    """Probability of every text of LENGTH tokens after the prompt (0,)."""
    rows = np.exp([warp(TableModel(P).logits([last])[None]).of(0, np.arange(3)) for last in range(3)])
    law = {}
    for tokens in itertools.product(range(3), repeat=LENGTH):
        pairs = itertools.pairwise((0, *tokens))
        law[tokens] = float(np.prod([rows[a, b] for a, b in pairs]))
    assert abs(sum(law.values()) - 1) < 1e-9
    return law


LOSSLESS: dict[str, Callable[[], Decoder]] = {
    "autoregressive": Autoregressive,
    "speculative, gamma 1": lambda: Speculative(gamma=1),
    "speculative, gamma 2": lambda: Speculative(gamma=2),
    "speculative, gamma 3": lambda: Speculative(gamma=3),
    "mtad that accepts nothing": lambda: Mtad(gamma=2, width=2, tau=1),
    "mmtad that accepts nothing": lambda: Mmtad(gamma=2, width=2, tau=1),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_decoders_sample_the_targets_law_over_rounds(name: str) -> None:
    assert p_value(LOSSLESS[name]()) > REFUTED


@pytest.mark.parametrize("sampling", [Sampling(0.7, 2, 1.0), Sampling(1.5, 0, 0.8), Sampling(1.0, 10, 0.9)])
def test_speculative_samples_warped_laws(sampling: Sampling) -> None:
    assert p_value(Speculative(gamma=2), sampling) > REFUTED


class Wrong(Speculative):
    """A speculative decoder with one fault; `accept`, `correct` and `last` are what a fault changes."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return float(np.exp(p.of(node, np.array([token])) - q.of(node, np.array([token])))[0])

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return residual_draw(p, q, node, uniform)

    def last(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return p.draw(node, uniform)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, OneEach(), min(self.gamma, text.room - 1), text)
        chain, q = drafted.tree, drafted.law
        p = yield target.read(chain)
        node, depth = ROOT, len(chain) - 1
        while node < depth:
            if text.luck.accept(text.start + node, text.start) >= self.accept(p, q, node, chain.tokens[node + 1]):
                break
            node += 1
        uniform = text.luck.last(text.start + node)
        last = (self.correct if node < depth else self.last)(p, q, node, uniform)
        return Round((*chain.path(node), last), (Source.DRAFT,) * node + (Source.TARGET,), depth, node, depth)


class DraftForTarget(Wrong):
    """q for p after a refusal."""

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return q.draw(node, uniform)


class NoResidual(Wrong):
    """p in place of the residual after a refusal."""

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return p.draw(node, uniform)


class OffByOne(Wrong):
    """The ratio is taken from the row after the token, not from the row before it."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return super().accept(p.take([*range(1, len(p)), 0]), q, node, token)


class AcceptsAll(Wrong):
    """Every draft is accepted."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return 2.0


class ReusedLuck(Wrong):
    """The last token is drawn with the uniform that refused the draft."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        class Same:
            accept, draft = text.luck.accept, text.luck.draft

            def last(self, position: int) -> float:
                return text.luck.accept(position, text.start)

        same = Text(text.tokens, text.room, text.eos, Same(), text.greedy, text.ends)  # type: ignore[arg-type]
        return (yield from super().round(same, target, draft))


class LastFromDraft(Mtad):
    """q for p: the draft model verifies itself."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return super().round(text, draft, draft)


class LastOffByOne(Mmtad):
    """The last token is drawn from the row of another node."""

    def _accepted(self, text: Text, tree: Tree, p: Law, node: int) -> Round:
        return super()._accepted(text, tree, p.take([*range(1, len(p)), 0]), node)


@pytest.mark.parametrize("fault", [LastFromDraft(gamma=2, width=2, tau=1), LastOffByOne(gamma=2, width=2, tau=1)])
def test_planted_wrong_rules_of_joint_decoders_are_caught(fault: Decoder) -> None:
    assert p_value(fault) < REFUTED


def test_the_wrong_rules_differ_from_the_right_one_by_their_fault_alone() -> None:
    assert p_value(Wrong(gamma=2)) > REFUTED


@pytest.mark.parametrize("fault", [DraftForTarget, NoResidual, OffByOne, AcceptsAll, ReusedLuck])
def test_planted_wrong_rules_are_caught(fault: type[Wrong]) -> None:
    assert p_value(fault(gamma=2)) < REFUTED


@pytest.mark.parametrize("decoder", [Mtad(gamma=2, width=3, tau=0.5), Mmtad(gamma=2, width=3, tau=0.5)])
def test_a_lossy_decoder_is_caught_too(decoder: Decoder) -> None:
    assert p_value(decoder) < REFUTED


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("decoder", [Mtad(tau=1), Mtad(tau=2.5, gamma=3), Mmtad(tau=1), Mmtad(tau=1, reference="own")])
def test_joint_decoders_that_accept_nothing_equal_autoregressive_token_for_token(make, decoder: Decoder) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    for seed in range(3):
        alone = write(Autoregressive(), target, draft, limit=24, eos=[7], sampling=Sampling(), seed=seed)
        assert write(decoder, target, draft, limit=24, eos=[7], sampling=Sampling(), seed=seed).tokens == alone.tokens


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("gamma", [1, 4])
def test_greedy_speculative_equals_greedy_autoregressive(make, gamma: int) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    for first in range(3):
        run = {"prompt": [first, 3], "limit": 40, "eos": [7], "sampling": Sampling(greedy=True)}
        alone, assisted = (write(d, target, draft, **run) for d in (Autoregressive(), Speculative(gamma)))
        assert assisted.tokens == alone.tokens
        assert assisted.target.forwards < alone.target.forwards or len(alone.tokens) < 4

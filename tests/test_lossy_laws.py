"""Lenience, mentored decoding and cascades: they emit the stated law, its bounds hold, and its ends are known ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.cascades import Cascades
from baselines.lenience import Lenience, mentored
from baselines.speculative import Speculative
from mtad.decoder import RoundDecoder, Source
from mtad.errors import UserError
from mtad.law import Sampling, inverse_cdf
from mtad.luck import Luck
from mtad.model import CausalModel
from tests.fakes import TableModel, llama, noisy
from tests.helpers import PURE, from_yaml, write
from tests.laws import PAIRS, START, Lookup, error, mean_accepted, one_round

GREEDY = Sampling(temperature=1.0, top_k=0, top_p=1.0, greedy=True)
TRUNCATED = Sampling(1.5, 0, 0.8)  # leaves p and q different supports
TARGET, DRAFT = PAIRS["far draft"]
RULES = ["tokenv3", "tokenv2", "tokenv1", "chow", "diff", "opt"]
Law = np.ndarray

SPECULATIVE = [Lenience(lenience=1), Lenience(lenience=1, residual="scaled"), Lenience(rule="mentored", budget=0)]
SPECULATIVE += [Cascades(rule=rule, alpha=-1e9) for rule in RULES]
KEEPS_ALL = [Lenience(lenience=1e-9), Lenience(rule="mentored", budget=1e3)]
KEEPS_ALL += [Cascades(rule=rule, alpha=1e9 if rule == "opt" else 1) for rule in RULES]


# -- the stated laws, written a second time ---------------------------------------------------------------------------


def lenient(lenience: float, scale: float) -> Callable[[Law, Law], Law]:
    def law(p: Law, q: Law) -> Law:
        accepted = q * np.array([min(1, a / (lenience * b)) if b else 0 for a, b in zip(p, q, strict=True)])
        residual = np.maximum(p - scale * q, 0)
        return accepted + (1 - accepted.sum()) * residual / residual.sum()

    return law


def cascade(rule: str, alpha: float) -> Callable[[Law, Law], Law]:
    def deferred(p: Law, q: Law, v: int) -> bool:
        """Equations 2, 5, 10 and 13 to 15 of the paper."""
        return {
            "chow": max(q) < 1 - alpha,
            "diff": max(q) < max(p) - alpha,
            "opt": max(q) < max(p) - alpha * sum(abs(p - q)) / 2,
            "tokenv1": q[v] < max(p) - alpha,
            "tokenv2": p[v] < max(p) - alpha,
            "tokenv3": p[v] < max(p) * (1 - alpha),
        }[rule]

    def law(p: Law, q: Law) -> Law:
        r = np.array([deferred(p, q, v) for v in range(len(p))], dtype=float)
        return q * (1 - r) + p * (r * q).sum()

    return law


STATED: list[tuple[RoundDecoder, Callable[[Law, Law], Law]]] = [
    (Lenience(gamma=2, lenience=0.5), lenient(0.5, 1)),
    (Lenience(gamma=2, lenience=0.2), lenient(0.2, 1)),
    (Lenience(gamma=2, lenience=0.5, residual="scaled"), lenient(0.5, 0.5)),
    (Lenience(gamma=2, rule="mentored", budget=0.1), lambda p, q: mentored(p, q, 0.1)),
    *[(Cascades(gamma=2, rule=r, alpha=a), cascade(r, a)) for r in RULES for a in (-0.1, 0.1, 0.5, 0.8)],  # type: ignore[arg-type]
]


@pytest.mark.parametrize("pair", ["three tokens", "far draft"])
@pytest.mark.parametrize("sampling", [PURE, TRUNCATED], ids=["pure", "truncated"])
@pytest.mark.parametrize(("decoder", "stated"), STATED, ids=lambda part: str(part) if part in dict(STATED) else "")
def test_drafted_positions_have_exactly_the_stated_law_and_the_token_after_the_draft_has_the_targets(
    decoder: RoundDecoder, stated: Callable[[Law, Law], Law], sampling: Sampling, pair: str
) -> None:
    p, q = (np.exp(Lookup(table, sampling.warp(decoder.joint)).dense) for table in PAIRS[pair])
    seen = np.zeros((3, len(p), len(p)))  # depth, token before, token
    for probability, step in one_round(decoder, sampling, *PAIRS[pair]):
        for depth, (before, token) in enumerate(pairwise((START, *step.tokens))):
            seen[depth, before, token] += probability
    for depth in range(3):
        for before in np.flatnonzero(seen[depth].sum(axis=1)):
            law = stated(p[before], q[before]) if depth < 2 else p[before]
            np.testing.assert_allclose(seen[depth, before] / seen[depth, before].sum(), law, atol=1e-12)


def test_it_is_not_the_targets_law() -> None:
    for name in ("lenience", "cascades"):
        assert error(from_yaml(name), 1) > 0.04


# -- bounds -----------------------------------------------------------------------------------------------------------


def laws(tokens: int, seed: int, zeros: int = 0) -> tuple[Law, Law]:
    """Two random laws over `tokens` tokens, each with `zeros` impossible ones."""
    random = np.random.default_rng(seed)
    weights = random.gamma(0.5, size=(2, tokens)) + 1e-9
    for row in weights:
        row[random.permutation(tokens)[:zeros]] = 0
    p, q = weights / weights.sum(axis=1, keepdims=True)
    return p, q


def divergence(p: Law, pi: Law) -> Law:
    """KL(p || pi) in nats, over the last axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / pi), 0).sum(axis=-1)


@pytest.mark.parametrize("lenience", [1, 0.5, 0.3, 0.1])
@pytest.mark.parametrize("residual", ["plain", "scaled"])
def test_lenience_bounds_what_a_token_gains_and_accepts_what_the_paper_says(lenience: float, residual: str) -> None:
    for seed in range(20):
        p, q = laws(12, seed, zeros=seed % 4)
        decoder = Lenience(1, lenience=lenience, residual=residual)  # type: ignore[arg-type]
        pi = decoder.pi(p, q)
        assert pi.sum() == pytest.approx(1) and (pi >= 0).all() and (pi <= p / lenience + 1e-12).all()
    p, q = (np.exp(Lookup(table, PURE.warp(True)).dense[START]) for table in (TARGET, DRAFT))
    accepted = np.minimum(p / lenience, q).sum()
    assert mean_accepted(decoder, target=TARGET, draft=DRAFT) == pytest.approx(accepted)


@pytest.mark.parametrize("budget", [1e-6, 0.01, 0.1, 0.2, 1])
@pytest.mark.parametrize("zeros", [0, 3])
def test_mentored_decoding_spends_its_budget_and_no_more(budget: float, zeros: int) -> None:
    for seed in range(20):
        p, q = laws(12, seed, zeros)
        pi = mentored(p, q, budget)
        assert pi.sum() == pytest.approx(1) and (pi[p == 0] == 0).all()
        if divergence(p, q) <= budget and not q[p == 0].any():
            np.testing.assert_allclose(pi, q)
        elif zeros == 0:
            assert divergence(p, pi) == pytest.approx(budget, rel=1e-6)
        assert divergence(p, pi) <= budget * (1 + 1e-6)


@pytest.mark.parametrize("budget", [1e-3, 0.1, 2.0, 10.0])
def test_mentored_decoding_keeps_its_budget_between_laws_that_are_almost_sure(budget: float) -> None:
    chance = np.random.default_rng(0)
    for _ in range(200):
        p, q = (np.exp(chance.normal(size=6) * 30) for _ in range(2))
        p[chance.integers(6)], q[chance.integers(6)] = 0.0, 0.0
        pi = mentored(p / p.sum(), q / q.sum(), budget)
        assert pi.sum() == pytest.approx(1) and divergence(p / p.sum(), pi) <= budget * (1 + 1e-6)


@pytest.mark.parametrize("budget", [0.02, 0.2])
def test_no_other_law_within_the_budget_keeps_more_of_the_draft(budget: float) -> None:
    others = np.random.default_rng(0).dirichlet(np.ones(3), 40_000)
    for seed in range(10):
        p, q = laws(3, seed)
        ours = np.minimum(q, mentored(p, q, budget)).sum()
        kept = np.minimum(q, others).sum(axis=1)[divergence(p, others) <= budget]
        assert ours >= kept.max() and ours - kept.max() < 0.05  # near: the search was not idle


def test_a_larger_budget_or_more_lenience_accepts_more() -> None:
    def accepted(**options: object) -> float:
        return mean_accepted(Lenience(gamma=2, **options), target=TARGET, draft=DRAFT)  # type: ignore[arg-type]

    budgets = [accepted(rule="mentored", budget=budget) for budget in (0, 0.01, 0.1, 0.5, 1)]
    leniences = [accepted(lenience=lenience) for lenience in (1, 0.7, 0.3, 0.1)]
    for series in (budgets, leniences):
        assert all(more > less for less, more in pairwise(series))


def test_a_token_rule_may_accept_less_than_speculative_decoding() -> None:
    speculative, some, all_kept = (
        mean_accepted(Cascades(2, alpha=alpha), target=TARGET, draft=DRAFT) for alpha in (-0.1, 0.8, 1)
    )
    assert some < speculative < all_kept == pytest.approx(2)


# -- ends -------------------------------------------------------------------------------------------------------------


@cache
def pair() -> tuple[CausalModel, CausalModel]:
    target = llama(0)
    return target, noisy(target, llama, 0.1)


@pytest.mark.parametrize("decoder", SPECULATIVE, ids=str)
@pytest.mark.parametrize("sampling", [PURE, Sampling(), Sampling(greedy=True)], ids=["pure", "warped", "greedy"])
def test_the_strict_end_is_speculative_decoding_token_for_token(decoder: RoundDecoder, sampling: Sampling) -> None:
    strict, ours = (write(each, *pair(), limit=16, sampling=sampling) for each in (Speculative(), decoder))
    assert ours.tokens == strict.tokens
    assert [step.accepted for step in ours.rounds] == [step.accepted for step in strict.rounds]
    assert 0 < sum(step.accepted for step in strict.rounds) < sum(step.drafted for step in strict.rounds)
    if sampling.greedy:
        assert ours.tokens == write(Autoregressive(), *pair(), limit=16, sampling=sampling).tokens


@pytest.mark.parametrize("decoder", KEEPS_ALL, ids=str)
def test_the_loose_end_is_the_drafts_own_text_and_one_token_of_the_target_a_round(decoder: RoundDecoder) -> None:
    target, draft, limit = TableModel(TARGET), TableModel(DRAFT), 20  # whole rounds
    for seed in range(5):
        luck, text = Luck(seed, "prompt"), [START]
        while len(text) <= limit:
            start = len(text)
            for at in range(start, start + 4):
                text.append(inverse_cdf(draft.table[text[-1]], luck.draft(at, start, 0)))
            text.append(inverse_cdf(target.table[text[-1]], luck.last(start + 4)))
        output = write(decoder, target, draft, prompt=(START,), limit=limit, seed=seed)
        assert list(output.tokens) == text[1:]
        assert output.rounds[0].sources == (Source.DRAFT,) * 4 + (Source.TARGET,)


def test_tokenv3_at_zero_still_keeps_the_targets_best_token() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.1, 0.3])
    np.testing.assert_allclose(Cascades(alpha=0).pi(p, q), [0.6 + 0.4 * 0.5, 0.4 * 0.3, 0.4 * 0.2])


# -- greedy sampling --------------------------------------------------------------------------------------------------


def greedy(decoder: RoundDecoder, p: list[float], q: list[float]) -> int:
    """The first of two tokens (the second is the target's own) where p and q are the laws after every token."""
    output = write(decoder, TableModel([p] * 3), TableModel([q] * 3), limit=2, sampling=GREEDY)
    assert output.rounds[0].accepted == (output.tokens[0] == int(np.argmax(q)))
    return output.tokens[0]


def test_greedy_rules_compare_probabilities_at_temperature_one() -> None:
    p, q = [0.5, 0.3, 0.2], [0.2, 0.7, 0.1]
    assert [greedy(Lenience(lenience=lenience), p, q) for lenience in (1, 0.61, 0.59)] == [0, 0, 1]
    assert [greedy(Lenience(rule="mentored", budget=budget), p, q) for budget in (0, 0.01, 0.3)] == [0, 0, 1]
    turns = {"tokenv3": 0.4, "tokenv2": 0.2, "tokenv1": -0.2, "chow": 0.3, "diff": -0.2, "opt": -0.5}
    for rule, alpha in turns.items():
        around = [Cascades(rule=rule, alpha=alpha + step) for step in (-0.01, 0.01)]  # type: ignore[arg-type]
        assert [greedy(decoder, p, q) for decoder in around] == [0, 1]


def test_greedy_texts_do_not_depend_on_luck() -> None:
    for name in ("lenience", "cascades"):
        texts = {write(from_yaml(name), *pair(), limit=16, sampling=GREEDY, seed=seed).tokens for seed in range(2)}
        assert len(texts) == 1


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Lenience(lenience=0), "lenience must be in (0, 1], not 0"),
        (lambda: Lenience(lenience=1.5), "lenience must be in (0, 1], not 1.5"),
        (lambda: Lenience(budget=-1), "budget must be a number >= 0, not -1"),
        (lambda: Lenience(rule="strict"), "rule must be one of lenience, mentored, not 'strict'"),  # type: ignore[arg-type]
        (lambda: Cascades(rule="token"), "rule must be one of tokenv3, tokenv2, tokenv1, chow, diff, opt, not 'token'"),  # type: ignore[arg-type]
        (lambda: Cascades(gamma=0), "gamma must be a number >= 1, not 0"),
    ],
)
def test_a_wrong_option_ends_in_one_clear_line(make: Callable[[], object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == line

"""SpecInfer, multi-candidate speculative sampling, SpecTr: exact laws, equal siblings, planted faults, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.mcss import Mcss
from baselines.specinfer import SpecInfer, walk, without
from baselines.spectr import Divisor, SpecTr, accepted_once, optimal_divisor, residual
from baselines.speculative import Speculative
from mtad.decoder import Decoder, Source, Text
from mtad.drafting import BranchLargest
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.tree import ROOT, Tree
from tests.fakes import StubModel, TableModel, llama, noisy, opt
from tests.helpers import PURE, from_yaml, write
from tests.laws import PAIRS, REFUTED, WARPS, Table, error, mean_accepted, p_value

EXACT, WRONG = 1e-9, 1e-3  # a right law is as close as that to the target's, a wrong one further away than this
TREES: dict[str, tuple[Decoder, str]] = {
    "specinfer, pairs of equal siblings": (SpecInfer(gamma=2, branching=(2, 2)), "two tokens"),
    "specinfer, a chain that branches late": (SpecInfer(gamma=2, branching=(1, 2)), "three tokens"),
    "specinfer, mostly equal siblings": (SpecInfer(gamma=2, branching=(2,)), "peaked draft"),
    "specinfer, more siblings than tokens": (SpecInfer(gamma=1, branching=(4,)), "two tokens"),
    "specinfer, gamma 1": (SpecInfer(gamma=1, branching=(3,)), "three tokens"),
    "mcss": (Mcss(gamma=2, branching=(2, 2)), "two tokens"),
    "mcss, two levels of three tokens": (Mcss(gamma=2, branching=(2,)), "three tokens"),
    "mcss, far draft": (Mcss(gamma=1, branching=(3,)), "far draft"),
    "mcss, the whole vocabulary": (Mcss(gamma=1, branching=(3,)), "peaked draft"),
    "mcss, width beyond the vocabulary": (Mcss(gamma=2, branching=(4,)), "two tokens"),
    "mcss, with replacement": (Mcss(gamma=2, branching=(2,), replacement=True), "three tokens"),
    "spectr": (SpecTr(gamma=2, width=2), "three tokens"),
    "spectr, chains that agree for long": (SpecTr(gamma=2, width=2), "peaked draft"),
    "spectr, width beyond the vocabulary": (SpecTr(gamma=2, width=3), "two tokens"),
    "spectr, gamma 1": (SpecTr(gamma=1, width=4), "three tokens"),
    "spectr, one chain": (SpecTr(gamma=2, width=1), "three tokens"),
    "spectr, rho the number of candidates": (SpecTr(gamma=2, width=2, divisor="candidates"), "three tokens"),
}


# After a refusal of the first token some ratios are above 1, some below it and one is 0, so that every rule shows.
SKEW = ([[0.1, 0.2, 0.4, 0.3]] * 4, [[0.5, 0.1, 0.35, 0.05]] * 4)


@pytest.mark.parametrize("name", TREES)
def test_a_round_has_the_targets_law_to_the_ninth_digit(name: str) -> None:
    decoder, pair = TREES[name]
    assert error(decoder, decoder.gamma + 1, PURE, *PAIRS[pair]) < EXACT  # type: ignore[union-attr]


@pytest.mark.parametrize("sampling", WARPS)
@pytest.mark.parametrize("decoder", [SpecInfer(2, (3,)), Mcss(2, (3,)), SpecTr(2, 2)])
def test_a_round_has_the_law_of_a_truncated_target(decoder: Decoder, sampling: Sampling) -> None:
    assert error(decoder, 3, sampling) < EXACT


@pytest.mark.parametrize("decoder", [SpecInfer(3, (2, 2)), Mcss(3, (3, 2)), SpecTr(3, 3), SpecTr(3, 3, "candidates")])
def test_whole_texts_over_rounds_have_the_targets_law(decoder: Decoder) -> None:
    assert p_value(decoder, texts=1000) > REFUTED


# -- planted wrong rules ---------------------------------------------------------------------------------------------


def lost(q: np.ndarray, place: int) -> np.ndarray:
    """q without the token, but not normalised."""
    return np.where(np.arange(len(q)) == place, 0.0, q)


FAULTS: dict[str, tuple[Decoder, str, Callable[..., object]]] = {
    "p stays as it was after a refusal": (SpecInfer(1, (2,)), "specinfer.residual", lambda p, q: p),
    "p is not normalised after a refusal": (SpecInfer(1, (2,)), "specinfer.residual", lambda p, q: (p - q).clip(0)),
    "q is not normalised without replacement": (Mcss(1, (2,)), "specinfer.without", lost),
    "q keeps the token without replacement": (Mcss(1, (2,)), "specinfer.without", lambda q, place: q),
    "rho is 1 for several chains": (SpecTr(1, 2), "spectr.optimal_divisor", lambda p, q, k: 1.0),
    "the residual of one candidate": (SpecTr(1, 2), "spectr.residual", lambda p, q, k, rho: (p - q).clip(0)),
    "the residual of another k": (SpecTr(1, 3), "spectr.residual", lambda p, q, k, rho: residual(p, q, k - 1, rho)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_wrong_rules_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, function, fault = FAULTS[name]
    assert error(decoder, 2, PURE, *SKEW) < EXACT
    monkeypatch.setattr(f"baselines.{function}", fault)
    assert error(decoder, 2, PURE, *SKEW) > WRONG


@pytest.mark.parametrize("decoder", [SpecInfer(1, (3,)), Mcss(1, (2,)), SpecTr(1, 2)])
def test_siblings_that_share_a_uniform_are_caught(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    # What refuses the first token also refuses the second one, which has p / q of 0.45 and then 0.42.
    pair = {"target": [[0.25, 0.45, 0.3]] * 3, "draft": [[0.55, 0.4, 0.05]] * 3, "length": 2, "texts": 5000}
    assert p_value(decoder, **pair) > REFUTED
    accept = Luck.accept
    monkeypatch.setattr(Luck, "accept", lambda luck, position, start, index=0: accept(luck, position, start))
    assert p_value(decoder, **pair) < REFUTED


# -- equal siblings --------------------------------------------------------------------------------------------------


class Fixed:
    """Luck whose acceptance tests are given by (position, index)."""

    def __init__(self, accept: dict[tuple[int, int], float]) -> None:
        self.uniforms = accept

    def accept(self, position: int, start: int, index: int = 0) -> float:
        return self.uniforms[position, index]

    def last(self, position: int) -> float:
        return 0.0


def walked(tree: Tree, p: list[float], q: list[float], **uniforms: float) -> tuple[int, ...]:
    """The tokens that the walk emits where every row of a law is the same; `r0i1` is the test of child 1 at depth 0."""
    luck = Fixed({(1 + int(name[1]), int(name[3])): uniform for name, uniform in uniforms.items()})
    text = Text([0], 99, frozenset(), luck, False, lambda new: False)  # type: ignore[arg-type]
    with np.errstate(divide="ignore"):
        laws = [Law(None, np.log(np.tile(row, (len(tree), 1)))) for row in (p, q)]
    return walk(text, tree, *laws, replacement=True).tokens


def twins() -> Tree:
    """root -> {a -> b, a -> c}: equal siblings, each with a child of its own."""
    tree = Tree()
    first, second = tree.add(ROOT, 0), tree.add(ROOT, 0)
    tree.add(first, 1), tree.add(second, 2)
    return tree


def test_the_accepted_one_of_equal_siblings_leads_on_to_its_own_children() -> None:
    assert walked(twins(), [0.2, 0.4, 0.4], [0.4, 0.3, 0.3], r0i0=0.4, r1i0=0.9)[:2] == (0, 1)


def test_a_token_that_was_refused_is_refused_again() -> None:
    # p(a) / q(a) is a half: refused by 0.6, and then nothing of p is left at a, however small the next uniform.
    assert walked(twins(), [0.2, 0.4, 0.4], [0.4, 0.3, 0.3], r0i0=0.6, r0i1=0.0) == (1,)


def test_an_equal_sibling_may_be_walked_on_after_another_token_was_refused() -> None:
    tree = Tree()
    for token, child in ((1, 1), (0, 2), (0, 1)):
        tree.add(tree.add(ROOT, token), child)
    # p - q leaves all of p at a, so the first a is accepted, and its child c tried.
    assert walked(tree, [0.6, 0.2, 0.2], [0.2, 0.4, 0.4], r0i0=0.9, r0i1=0.99, r1i0=0.4)[:2] == (0, 2)


# -- limiting cases --------------------------------------------------------------------------------------------------

SINGLE = [SpecInfer(branching=()), SpecInfer(branching=(1,)), Mcss(branching=(1, 1)), SpecTr(width=1)]


@pytest.mark.parametrize("decoder", SINGLE)
def test_one_candidate_is_speculative_decoding_token_for_token(decoder: Decoder) -> None:
    target = llama()
    draft = noisy(target, llama)
    for seed in range(3):
        run = {"limit": 24, "eos": [7], "sampling": Sampling(), "seed": seed}
        assert write(decoder, target, draft, **run).tokens == write(Speculative(), target, draft, **run).tokens


MANY = [SpecInfer(branching=(3, 2)), Mcss(), Mcss(replacement=True), SpecTr(width=3), SpecTr(divisor="candidates")]


@pytest.mark.parametrize("decoder", MANY)
def test_a_draft_that_is_never_right_leaves_autoregressive_sampling_token_for_token(decoder: Decoder) -> None:
    target, draft = TableModel([[2, 1, 0, 0], [1, 3, 0, 0]] * 2), TableModel([[0, 0, 1, 2]] * 4)
    for seed in range(20):
        alone = write(Autoregressive(), target, draft, limit=9, seed=seed, sampling=Sampling(top_k=2))
        output = write(decoder, target, draft, limit=9, seed=seed, sampling=Sampling(top_k=2))
        assert output.tokens == alone.tokens and output.target.forwards == 9


@pytest.mark.parametrize("decoder", [SpecInfer(branching=(3, 2)), Mcss(), SpecTr()])
def test_a_draft_that_equals_the_target_is_accepted_whole(decoder: Decoder) -> None:
    model, again = TableModel([[3, 2, 1]] * 3), TableModel([[3, 2, 1]] * 3)
    output = write(decoder, model, again, limit=20)
    assert all(step.accepted == step.drafted == 4 for step in output.rounds) and output.target.forwards == 4


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("decoder", MANY)
def test_greedy_writes_what_greedy_autoregressive_decoding_writes(make, decoder: Decoder) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    for first in range(2):
        run = {"prompt": [first, 3], "limit": 20, "eos": [7], "sampling": Sampling(greedy=True)}
        assert write(decoder, target, draft, **run).tokens == write(Autoregressive(), target, draft, **run).tokens


def test_greedy_trees_hold_the_most_probable_tokens_and_so_catch_a_second_best() -> None:
    draft = StubModel(4, lambda context: [0.2, 0.5, 0.3, 0.0])
    target = StubModel(4, lambda context: [0.1, 0.1, 0.8, 0.0])
    for decoder, accepted in ((Speculative(gamma=2), 0), (SpecInfer(2, (2, 2)), 2), (Mcss(2, (2, 2)), 2)):
        output = write(decoder, target, draft, limit=9, sampling=Sampling(greedy=True))
        assert set(output.tokens) == {2} and output.rounds[0].accepted == accepted
    tree, law = Tree(), Law(None, np.log([[0.2, 0.3, 0.3, 0.2]]))
    assert [tree.tokens[node] for node in BranchLargest((3,))(tree, law, [ROOT], lambda index: 0.0)] == [1, 2, 0]


@pytest.mark.parametrize("decoder", [SpecInfer(), Mcss(), SpecTr()])
def test_an_accepted_end_token_ends_the_round_without_another_token(decoder: Decoder) -> None:
    model, again = (StubModel(2, lambda context: [0.0, 1.0]) for _ in range(2))
    output = write(decoder, model, again, limit=9, eos=[1])
    assert output.tokens == (1,) and output.rounds[0].sources == (Source.DRAFT,) and output.rounds[0].drafted == 1


@pytest.mark.parametrize("decoder", [SpecInfer(), Mcss(), SpecTr()])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_nothing_is_drafted_that_the_limit_would_cut(decoder: Decoder, limit: int) -> None:
    model, again = TableModel([[3, 2, 1]] * 3), TableModel([[3, 2, 1]] * 3)
    output = write(decoder, model, again, limit=limit)
    assert len(output.rounds) == 1 and output.rounds[0].drafted == limit - 1 == output.draft.forwards


# -- how much is accepted --------------------------------------------------------------------------------------------


RULES = {"specinfer": SpecInfer, "mcss": Mcss, "spectr": SpecTr}
MEANS = {  # exact, for one, two and three candidates of a round of gamma 1 on the first pair
    "specinfer": [0.5, 0.5625, 0.617],
    "mcss": [0.5, 0.619, 1.0],  # all three tokens are drafted, so that one is accepted
    "spectr": [0.5, 0.581, 0.65],
}


def means(pair: str, name: str) -> list[float]:
    rule = RULES[name]
    candidates = [k if rule is SpecTr else (k,) for k in (1, 2, 3)]
    return [mean_accepted(rule(1, k), PURE, *PAIRS[pair]) for k in candidates]  # type: ignore[operator]


@pytest.mark.parametrize("pair", PAIRS)
def test_more_candidates_never_accept_less_and_draws_without_replacement_accept_more(pair: str) -> None:
    found = {name: means(pair, name) for name in RULES}
    for mean in found.values():
        assert np.diff(mean).min() > -1e-12 and mean[1] > mean[0]
        assert mean[0] == pytest.approx(found["specinfer"][0])
    assert np.subtract(found["mcss"], found["specinfer"]).min() > -1e-12


@pytest.mark.parametrize("name", RULES)
def test_the_gain_of_a_second_and_a_third_candidate(name: str) -> None:
    assert means("three tokens", name) == pytest.approx(MEANS[name], abs=5e-4)


def test_chains_that_agree_on_a_token_are_all_candidates_for_the_next_one() -> None:
    sure = [0, 1, 0]
    target, draft = ([sure, table[0], table[0]] for table in PAIRS["three tokens"])
    assert mean_accepted(SpecTr(2, 2), PURE, target, draft) == pytest.approx(1 + MEANS["spectr"][1], abs=5e-4)


@pytest.mark.parametrize("pair", PAIRS.values())
def test_the_paper_s_divisor_accepts_more_than_the_number_of_candidates(pair: tuple[Table, Table]) -> None:
    best, plain = (mean_accepted(SpecTr(1, 3, rho), PURE, *pair) for rho in get_args(Divisor))
    assert best > plain


# -- the divisor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 8, 50])
def test_the_divisor_solves_the_paper_s_equation_and_accepts_no_token_too_often(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(50):
        p, q = (weights / weights.sum() for weights in rng.random((2, 7)) ** rng.choice([1, 8]))
        rho = optimal_divisor(p, q, k)
        once = accepted_once(p, q, rho)
        beta = once.sum()
        assert 1 <= rho <= k and 1 - (1 - beta) ** k == pytest.approx(rho * beta, abs=1e-9)
        accepted = once * sum((1 - beta) ** i for i in range(k))
        assert (accepted <= p + 1e-12).all()
        if (1 - beta) ** k > 1e-9:  # else nothing is left
            np.testing.assert_allclose(accepted + residual(p, q, k, rho), p, atol=1e-12)


def test_the_divisor_at_its_ends() -> None:
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])
    assert optimal_divisor(p, p, 8) == 1 and accepted_once(p, p, 1.0).sum() == pytest.approx(1)  # equal laws: beta 1
    assert optimal_divisor(p, q, 8) == 1 and accepted_once(p, q, 1.0).sum() == 0  # nothing in common: beta 0
    np.testing.assert_array_equal(residual(p, q, 8, 1.0), p)
    np.testing.assert_array_equal(residual(p, p, 8, 1.0), p)  # never drawn from, yet a law
    assert optimal_divisor(np.array([0.9, 0.1]), np.array([0.1, 0.9]), 1) == 1


def test_a_token_taken_from_q_leaves_a_law() -> None:
    np.testing.assert_allclose(without(np.array([0.5, 0.3, 0.2]), 0), [0, 0.6, 0.4])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: SpecInfer(gamma=0), "gamma must be a number >= 1"),
        (lambda: SpecInfer(branching=(2, 0)), "every entry of branching must be a number >= 1, not 0"),
        (lambda: Mcss(branching=(2.5,)), "every entry of branching must be a whole number"),  # type: ignore[arg-type]
        (lambda: from_yaml("mcss", branching=3), "branching must be a list"),
        (lambda: SpecTr(width=0), "width must be"),
        (lambda: SpecTr(divisor="best"), "divisor must be one of optimal, candidates"),  # type: ignore[arg-type]
    ],
)
def test_illegal_options_are_named(make, line: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=line):
        make()

"""BiLD and typical acceptance: what their thresholds keep, and what they are at both ends of their scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.bild import Bild
from baselines.typical import Typical, entropy
from mtad.decoder import Decoder, Source, Text
from mtad.drafting import BranchLargest, grow
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.session import Reader, Session
from mtad.tree import Tree
from tests.fakes import StubModel, TableModel, llama, noisy, opt
from tests.helpers import PURE, from_yaml, write
from tests.laws import P, Q, one_round

GREEDY = Sampling(greedy=True)
NOTHING = [
    Bild(fallback=1.1),
    Bild(fallback=0, rollback=0),
    Typical(epsilon=1, delta=1e9),
    Typical(branching=(3, 2), epsilon=1, delta=1e9),
]
ALL = [
    Bild(gamma=3, fallback=0, rollback=1e9),
    Bild(gamma=3, fallback=0, rollback=1e9, rollback_law="raw"),
    Typical(gamma=3, epsilon=0),
    Typical(gamma=3, delta=0),
]


def texts(decoder: Decoder, make: Any, sampling: Sampling, **run: Any) -> list[tuple[int, ...]]:
    target = make(0)
    draft = noisy(target, make)
    return [write(decoder, target, draft, limit=20, eos=[7], sampling=sampling, seed=s, **run).tokens for s in range(3)]


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("decoder", NOTHING)
def test_thresholds_that_accept_nothing_are_autoregressive_sampling_token_for_token(
    decoder: Decoder, make: Any
) -> None:
    assert texts(decoder, make, Sampling()) == texts(Autoregressive(), make, Sampling())


@pytest.mark.parametrize("decoder", NOTHING)
def test_thresholds_that_accept_nothing_are_greedy_decoding_under_greedy_sampling(decoder: Decoder) -> None:
    assert texts(decoder, llama, GREEDY) == texts(Autoregressive(), llama, GREEDY)


@pytest.mark.parametrize("decoder", ALL)
def test_thresholds_that_accept_all_write_the_drafts_own_text_and_one_token_of_the_target(decoder: Decoder) -> None:
    target, draft, luck, text = TableModel(P), TableModel(Q), Luck(0, "prompt"), [0]
    output = write(decoder, target, draft, prompt=text, limit=24)
    for step in output.rounds:
        start = len(text)
        for place in range(3):
            text.append(PURE.warp(True)(draft.logits(text)[None]).draw(0, luck.draft(start + place, start)))
        text.append(PURE.warp(True)(target.logits(text)[None]).draw(0, luck.last(start + 3)))
        assert step.accepted == step.drafted == 3 and step.sources == (Source.DRAFT,) * 3 + (Source.TARGET,)
    assert output.tokens == tuple(text[1:]) and output.target.forwards == 6


# -- BiLD ------------------------------------------------------------------------------------------------------------


def sure(*largest: float) -> StubModel:
    """After n tokens, its most probable one is n % 3, with the n-th of `largest` (from a prompt of one on)."""

    def law(context: list[int]) -> list[float]:
        p = largest[(len(context) - 1) % len(largest)]
        return [p if token == len(context) % 3 else (1 - p) / 2 for token in range(3)]

    return StubModel(3, law)


def first(decoder: Decoder, target: StubModel, draft: StubModel, sampling: Sampling = PURE, seed: int = 0) -> Any:
    return write(decoder, target, draft, limit=8, sampling=sampling, seed=seed).rounds[0]


@pytest.mark.parametrize(("fallback", "drafted"), [(0.0, 4), (0.59, 4), (0.61, 2), (0.85, 1), (0.95, 0)])
def test_the_draft_ends_before_the_first_token_that_the_small_model_is_unsure_of(fallback: float, drafted: int) -> None:
    step = first(Bild(gamma=4, fallback=fallback, rollback=1e9), sure(0.5), sure(0.9, 0.8, 0.6, 0.7))
    assert step.drafted == step.accepted == step.nodes == drafted and len(step.tokens) == drafted + 1
    assert step.sources[-1] == Source.TARGET


@pytest.mark.parametrize(("p", "accepted"), [(math.exp(-1.99), 4), (math.exp(-2.01), 2)])
def test_the_first_token_that_costs_more_than_the_rollback_is_replaced_by_the_targets_own(
    p: float, accepted: int
) -> None:
    target = sure(0.9, 0.9, p, 0.9)
    step = first(Bild(gamma=4, rollback=2, draft_token="greedy"), target, sure(0.9))
    assert step.accepted == accepted and len(step.tokens) == accepted + 1
    assert step.sources[-1] == (Source.TARGET if accepted == 4 else Source.CORRECTED)


def test_the_token_in_place_of_a_refused_one_has_the_targets_law_not_the_residuals() -> None:
    law = np.zeros(3)
    for probability, step in one_round(Bild(gamma=1, fallback=0, rollback=0)):
        assert step.sources == (Source.CORRECTED,)
        law[step.tokens[0]] += probability
    np.testing.assert_allclose(law, np.array(P[0]) / sum(P[0]))


def test_the_rollback_looks_at_the_law_it_is_told() -> None:
    """Top-k 1 removes the drafted token from p; the raw law still has it."""
    target, draft = StubModel(2, lambda _: [0.6, 0.4]), StubModel(2, lambda _: [0.1, 0.9])
    sampling = Sampling(1.0, 1, 1.0)
    warped, raw = (Bild(gamma=2, rollback=2, rollback_law=law) for law in ("warped", "raw"))  # type: ignore[arg-type]
    assert first(warped, target, draft, sampling).accepted == 0
    assert first(raw, target, draft, sampling).accepted == 2
    assert write(raw, target, draft, limit=9, sampling=sampling).target.forwards == 3


def test_under_greedy_sampling_bild_is_the_papers() -> None:
    """Argmax on both sides, thresholds on the probabilities themselves."""
    pure = Sampling(1.0, 0, 1.0, greedy=True)
    for seed in range(6):
        step = first(Bild(gamma=4, fallback=0.65), sure(0.5), sure(0.9, 0.8, 0.6, 0.7), pure, seed)
        assert step.tokens == (1, 2, 0) and step.accepted == 2
        step = first(Bild(gamma=4, rollback=1), sure(0.9, 0.1), sure(0.9), pure, seed)
        assert step.tokens == (1, 0) and step.sources == (Source.DRAFT, Source.CORRECTED)


# -- typical acceptance ----------------------------------------------------------------------------------------------


def judged(decoder: Typical, tree: Tree, p: list[list[float]]) -> list[int]:
    return decoder._passing(tree, Law(None, np.log(np.array(p))))


def test_the_threshold_is_the_smaller_of_epsilon_and_delta_times_exp_minus_entropy() -> None:
    row = [0.05, 0.15, 0.8]
    h = -sum(x * math.log(x) for x in row)
    assert entropy(Law(None, np.log(np.array([row]))), 0) == pytest.approx(h)
    leaves = Tree.of_paths([(0,), (1,), (2,)])
    flat = [[1 / 3] * 3] * 3

    def kept(epsilon: float, delta: float) -> list[int]:
        return judged(Typical(epsilon=epsilon, delta=delta), leaves, [row, *flat])[1:]

    assert kept(0.149, 1e9) == [2, 3] and kept(0.151, 1e9) == [3]
    assert kept(1, 0.149 * math.exp(h)) == [2, 3] and kept(1, 0.151 * math.exp(h)) == [3]
    assert kept(0.149, 0.151 * math.exp(h)) == [2, 3] == kept(0.151, 0.149 * math.exp(h))
    assert kept(0.15 + 1e-9, 1e9) == [3] and kept(1, 1e9) == []


def test_an_unsure_target_keeps_what_a_sure_one_refuses() -> None:
    chain = Tree.chain([0])
    decoder = Typical(epsilon=0.3, delta=0.5)
    assert judged(decoder, chain, [[0.15, 0.17, 0.17, 0.17, 0.17, 0.17], [1 / 6] * 6]) == [0, 1]
    assert judged(decoder, chain, [[0.15, 0.81, 0.01, 0.01, 0.01, 0.01], [1 / 6] * 6]) == [0]


def test_each_token_is_judged_by_the_entropy_before_it() -> None:
    sure, unsure, decoder = [0.15, 0.81, 0.01, 0.03], [0.15, 0.25, 0.3, 0.3], Typical(epsilon=0.3, delta=0.5)
    assert judged(decoder, Tree.chain([1, 0]), [sure, unsure, [0.25] * 4]) == [0, 1, 2]
    assert judged(decoder, Tree.chain([1, 0]), [unsure, sure, [0.25] * 4]) == [0, 1]


def test_a_node_below_a_refused_one_does_not_pass() -> None:
    p = [[0.01, 0.99], [0.99, 0.01], [0.5, 0.5], [0.99, 0.01], [0.5, 0.5]]
    tree = Tree.of_paths([(0, 0), (1, 0)])
    assert judged(Typical(), tree, p) == [0, 3, 4]


def test_the_deepest_passing_node_wins_and_among_equals_the_more_probable_path() -> None:
    def target(context: list[int]) -> list[float]:
        return {1: [0.44, 0.55, 0.01], 2: [0.3, 0.6, 0.1] if context[-1] else [0.5, 0.4, 0.1]}.get(
            len(context), [1 / 3] * 3
        )

    drafter = StubModel(3, lambda _: [0.5, 0.4, 0.1])
    step = first(Typical(gamma=2, branching=(2, 2), draft_rule="largest"), StubModel(3, target), drafter)
    assert step.tokens[:2] == (1, 1) and step.accepted == 2 and step.nodes == 6  # 0.33 against 0.22 of (0, 0)
    cut = StubModel(3, lambda context: [0.98, 0.01, 0.01] if context[-1] == 1 else [0.01, 0.495, 0.495])
    deep = StubModel(3, lambda context: [0.6, 0.39, 0.01] if len(context) == 1 else cut.law(context))
    step = first(
        Typical(gamma=2, branching=(2, 1), draft_rule="largest"), deep, StubModel(3, lambda _: [0.7, 0.2, 0.1])
    )
    assert step.tokens[:2] == (1, 0) and step.accepted == 2  # though (0,) alone is more probable than (1,)


def test_medusas_draft_and_token_are_the_most_probable_ones() -> None:
    decoder = Typical(gamma=2, branching=(2, 1), draft_rule="largest", last_token="greedy")
    outputs = {write(decoder, TableModel(P), TableModel(Q), limit=12, seed=seed).tokens for seed in range(4)}
    assert len(outputs) == 1


def test_the_largest_children_come_in_order_of_probability_and_ties_by_token() -> None:
    law = StubModel(4, lambda context: [0.2, 0.3, 0.2, 0.3])
    reader = Reader(Session(law), PURE.warp(True))
    reader.session.open([0])
    drafting = grow(reader, BranchLargest((3, 2)), 2, Text([0], 9, frozenset(), Luck(0, "p"), False, lambda new: False))
    try:
        read = next(drafting)
        while True:
            read = drafting.send(Law(None, np.log(np.array([law.law([])] * len(read.tree)))))
    except StopIteration as end:
        assert end.value.tree.tokens == [-1, 1, 3, 0, 1, 3, 1, 3, 1, 3]


@pytest.mark.parametrize("name", ["bild", "typical"])
def test_greedy_sampling_leaves_nothing_to_chance(name: str) -> None:
    decoder = from_yaml(name)
    assert len(set(texts(decoder, llama, GREEDY))) == 1 < len(set(texts(decoder, llama, Sampling())))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Bild(gamma=0), "gamma must be a number >= 1"),
        (lambda: Bild(fallback=-1), "fallback must be a number >= 0"),
        (lambda: Bild(rollback=float("inf")), "rollback must be a number >= 0"),
        (lambda: Bild(draft_token="best"), "draft_token must be one of sampled, greedy"),  # type: ignore[arg-type]
        (lambda: Bild(rollback_law="true"), "rollback_law must be one of warped, raw"),  # type: ignore[arg-type]
        (lambda: Typical(branching=(2, 0)), "branching must be a number >= 1"),
        (lambda: Typical(epsilon=-0.1), "epsilon must be a number >= 0"),
        (lambda: Typical(delta=float("nan")), "delta must be a number >= 0"),
        (lambda: Typical(draft_rule="top"), "draft_rule must be one of sampled, largest"),  # type: ignore[arg-type]
        (lambda: Typical(last_token="typical"), "last_token must be one of sampled, greedy"),  # type: ignore[arg-type]
    ],
)
def test_illegal_options_are_named(make: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        make()

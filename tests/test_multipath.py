"""Traversal verification: the exact law over all trees and tests, block verification on chains, wrong rules caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import baselines.multipath as module
from baselines.block import Block
from baselines.mcss import Mcss
from baselines.multipath import Multipath, traverse
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.tree import ROOT, Tree
from tests.fakes import TableModel, llama, noisy
from tests.helpers import PURE, spell, write
from tests.laws import PAIRS, REFUTED, WARPS, P, Q, error, mean_accepted, p_value

TWO = PAIRS["two tokens"]


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("branching", [(2, 2), (3, 1), (1, 3)])
def test_the_first_tokens_have_exactly_the_targets_law_over_all_trees_and_tests(
    branching: tuple[int, ...], replacement: bool
) -> None:
    decoder = Multipath(2, branching, replacement)
    assert error(decoder, 3, PURE, *TWO) < 1e-12
    for sampling in WARPS:
        assert error(decoder, 3, sampling) < 1e-12


@pytest.mark.parametrize("pair", ["three tokens", "peaked draft"])
def test_the_law_is_exact_on_three_tokens(pair: str) -> None:
    assert error(Multipath(2, (2, 2)), 3, PURE, *PAIRS[pair]) < 1e-12
    assert error(Multipath(2, (2,), True), 3, PURE, *PAIRS[pair]) < 1e-12


@pytest.mark.parametrize("sampling", [PURE, *WARPS, Sampling(greedy=True)], ids=str)
def test_on_a_chain_it_writes_what_block_verification_writes_token_for_token(sampling: Sampling) -> None:
    for target, draft in PAIRS.values():
        models = TableModel(target), TableModel(draft)
        for seed in range(15):
            tree, chain = (
                write(decoder, *models, limit=12, sampling=sampling, seed=seed)
                for decoder in (Multipath(3, (1,)), Block(3))
            )
            assert tree.tokens == chain.tokens and tree.rounds == chain.rounds


# -- what is accepted -----------------------------------------------------------------------------------------------

SHAPES = [((2, 2), False), ((2, 2), True), ((3, 1), True), ((2, 1), False)]


@pytest.mark.parametrize(("branching", "replacement"), SHAPES)
def test_it_accepts_on_average_at_least_what_the_walk_from_the_root_accepts(
    branching: tuple[int, ...], replacement: bool
) -> None:
    """On these tables, with the same trees; the paper proves it of chains alone."""
    for pair, sampling in ((TWO, PURE), ((P, Q), WARPS[1])):
        walk = mean_accepted(Mcss(2, branching, replacement), sampling, *pair)
        traversal = mean_accepted(Multipath(2, branching, replacement), sampling, *pair)
        assert traversal > walk - 1e-9, f"traversal {traversal:.4f}, walk {walk:.4f}"


def test_the_gain_over_the_walk_is_strict() -> None:
    walk, traversal = mean_accepted(Mcss(2, (2, 2))), mean_accepted(Multipath(2, (2, 2)))
    assert traversal > walk + 0.02, f"traversal {traversal:.4f}, walk {walk:.4f}"


def test_more_children_accept_more() -> None:
    means = [mean_accepted(Multipath(2, (children, 1))) for children in (1, 2, 3)]
    assert means[0] + 0.05 < means[1] and means[1] + 0.05 < means[2], means


# -- the rule by hand -----------------------------------------------------------------------------------------------


def settle(uniforms: dict[str, float], replacement: bool = False) -> module.End:
    """Traversal of root -> {a -> {b}, c}, drawn in this order, with the uniforms of nodes by their paths."""
    tree = Tree()
    for parent, token in ((ROOT, 0), (ROOT, 2), (1, 1)):
        tree.add(parent, token)
    p = Law(None, np.log([[0.2, 0.45, 0.35], [0.1, 0.15, 0.75], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]]))
    q = Law(None, np.log([[0.4, 0.3, 0.3], [0.5, 0.3, 0.2]]))
    return traverse(tree, p, q, lambda node: uniforms[spell(tree.path(node))], replacement)


def test_a_leaf_is_tested_before_its_parent_and_the_first_childs_tree_before_the_second_child() -> None:
    # a has weight 0.2 / 0.4, ab 0.5 * 0.15 / 0.3 = 0.25; with ab refused S is 0.375 - 0.2 after a, and a has
    # weight 0.175 / (0.175 + 0.5) = 0.2593. A node that needs no test has no uniform here.
    assert settle({"ab": 0.24}).node == 3
    assert settle({"ab": 0.26, "a": 0.259}).node == 1
    # With a refused the root is left with (0, 0.15, 0.05) / 0.2, and q without a is (0, 0.5, 0.5): c has weight 0.5.
    refused = {"ab": 0.26, "a": 0.26}
    assert settle({**refused, "c": 0.49}).node == 2
    assert settle({**refused, "c": 0.51}).node == ROOT


def test_a_refused_token_stays_possible_where_draws_are_with_replacement() -> None:
    refused = {"ab": 0.26, "a": 0.26}  # c has weight 0.25 / 0.3
    assert settle({**refused, "c": 0.83}, replacement=True).node == 2
    assert settle({**refused, "c": 0.84}, replacement=True).node == ROOT


def test_the_last_token_comes_from_what_is_left_of_p_at_the_accepted_node() -> None:
    np.testing.assert_allclose(settle({"ab": 0.24}).p, [0.2, 0.2, 0.6])  # a leaf: the target's own law
    np.testing.assert_allclose(settle({"ab": 0.26, "a": 0.0}).p, [0, 0, 1])  # max(p / 2 - q, 0)
    np.testing.assert_allclose(settle({"ab": 0.26, "a": 0.26, "c": 0.51}).p, [0, 1, 0])


def test_options_are_checked() -> None:
    for options, line in (({"gamma": 0}, "gamma must be"), ({"branching": (2, 0)}, "branching must be a number >= 1")):
        with pytest.raises(UserError, match=line):
            Multipath(**options)  # type: ignore[arg-type]


def test_equal_models_accept_the_first_path_whole() -> None:
    target = llama()
    output = write(Multipath(), target, noisy(target, llama, 0.0), limit=30, sampling=Sampling())
    assert all(step.accepted == step.drafted for step in output.rounds[:-1])


def test_an_end_token_is_a_leaf_and_gets_no_extra_token() -> None:
    target = TableModel([[1, 1, 2], [1, 1, 2], [1, 1, 1]])
    for seed in range(30):
        output = write(Multipath(3, (2, 2)), target, TableModel(Q), limit=20, eos=[2], seed=seed)
        assert output.tokens.index(2) == len(output.tokens) - 1


# -- planted wrong rules ---------------------------------------------------------------------------------------------


def other_draws(tree: Tree, p: Law, q: Law, uniform: Callable[[int], float], replacement: bool) -> module.End:
    return traverse(tree, p, q, uniform, not replacement)


def shared_tests(tree: Tree, p: Law, q: Law, uniform: Callable[[int], float], replacement: bool) -> module.End:
    return traverse(tree, p, q, lambda node: uniform(tree.depths.index(tree.depths[node])), replacement)


class Backwards(Tree):
    def children(self, node: int) -> list[int]:
        return super().children(node)[::-1]


def last_child_first(tree: Tree, p: Law, q: Law, uniform: Callable[[int], float], replacement: bool) -> module.End:
    backwards = Backwards()
    backwards.tokens, backwards.parents, backwards.depths = tree.tokens, tree.parents, tree.depths
    return traverse(backwards, p, q, uniform, replacement)


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "a refused token stays in q": ("traverse", other_draws),
    "the last child comes first": ("traverse", last_child_first),
    "the weight of a node stays what it was": ("restart", lambda w, s: w),
    "the weight of a node is all that is left": ("restart", lambda w, s: s),
    "the weight of a node starts again at 1": ("restart", lambda w, s: 1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_wrong_rules_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Multipath(2, (2, 2))
    monkeypatch.setattr(module, *FAULTS[fault])
    assert error(decoder, 3) > 1e-3
    assert p_value(decoder, texts=3000) < REFUTED


@pytest.mark.filterwarnings("ignore:invalid value")  # a repeated token's ratio is 0 / 0 under this fault
def test_draws_with_replacement_need_the_q_that_keeps_refused_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "traverse", other_draws)
    assert error(Multipath(2, (2, 2), True), 3, PURE, *TWO) > 1e-3


def test_a_uniform_shared_by_siblings_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "traverse", shared_tests)
    assert p_value(Multipath(2, (3, 2))) < REFUTED
    with pytest.raises(AssertionError, match="used for two decisions"):
        error(Multipath(2, (3, 2)), 3)

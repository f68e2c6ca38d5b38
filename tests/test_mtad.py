"""MTAD and MMTAD: what is drafted, what passes, which node wins."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from mtad.decoder import Text
from mtad.drafting import BeamSample, BeamSearch, Draft
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.mtad import Mmtad, Mtad
from mtad.session import Reader, Session
from mtad.tree import Tree
from tests.fakes import StubModel, TableModel
from tests.helpers import PURE, write

PROMPT = [0]


def choose(decoder, tree, q, p, eos=frozenset(), room=99):  # type: ignore[no-untyped-def]
    """Run a round's decision on a given tree and given laws (rows by node), and return it."""
    laws = {"q": Law(None, logs(q)), "p": Law(None, logs(p))}
    text = Text(PROMPT, room, eos, Luck(0, "p"), True, lambda output: False)
    session = Session(TableModel([[1, 1]]))
    round_ = decoder.round(text, Reader(session, PURE.warp(True)), Reader(session, PURE.warp(True)))
    import mtad.mtad as module

    def given(*_):  # type: ignore[no-untyped-def]
        ends = [node for node in tree.leaves() if tree.depths[node] == max(tree.depths) or tree.tokens[node] in eos]
        return Draft(tree, laws["q"], ends)
        yield

    grow, module.grow = module.grow, given  # type: ignore[assignment]
    try:
        read = next(round_)
        try:
            round_.send(laws["p"].take(rows_of(tree, read.tree)))
        except StopIteration as end:
            return end.value
    finally:
        module.grow = grow
    raise AssertionError("a round reads once")


def rows_of(tree: Tree, read: Tree) -> list[int]:
    """Rows of `tree` for the nodes of `read`, by path."""
    places = {tuple(tree.path(node)): node for node in reversed(range(len(tree)))}
    return [places[tuple(read.path(node))] for node in range(len(read))]


def logs(rows: list[list[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows))


# p, q over tokens a, b, c; a chain a-b-c, whose joint ratios are set by the rows.
CHAIN = Tree.chain([0, 1, 2])


def test_the_longest_passing_prefix_is_accepted_although_a_shorter_one_failed() -> None:
    q = [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2], [1 / 3] * 3]
    p = [[0.2, 0.4, 0.4], [0.01, 0.98, 0.01], [0.05, 0.05, 0.9], [0.1, 0.8, 0.1]]
    ratios = np.cumprod([0.2 / 0.8, 0.98 / 0.3, 0.9 / 0.2])
    assert ratios[0] < 0.5 < ratios[1]
    chosen = choose(Mtad(gamma=3, tau=0.5), CHAIN, q, p)
    assert chosen.tokens == (0, 1, 2, 1) and chosen.accepted == 3


def test_a_prefix_at_the_threshold_is_refused_and_just_above_it_accepted() -> None:
    tree = Tree.chain([0])
    q = [[0.8, 0.2], [0.5, 0.5]]
    assert choose(Mtad(gamma=1, tau=0.5), tree, q, [[0.4, 0.6], [0.9, 0.1]]).accepted == 0
    assert choose(Mtad(gamma=1, tau=0.5), tree, q, [[0.4001, 0.5999], [0.9, 0.1]]).accepted == 1


def test_tau_zero_accepts_all_that_is_possible_and_nothing_impossible() -> None:
    q = [[0.5, 0.25, 0.25]] * 4
    tiny = [[1e-9, 0.5, 0.5], [0.5, 1e-9, 0.5], [0.5, 0.5, 1e-9], [0.1, 0.8, 0.1]]
    assert choose(Mtad(gamma=3, tau=0), CHAIN, q, tiny).accepted == 3
    impossible = [tiny[0], [0.5, 0.0, 0.5], tiny[2], tiny[3]]
    assert choose(Mtad(gamma=3, tau=0), CHAIN, q, impossible).accepted == 1


def two_leaves() -> Tree:
    """root -> a -> {a, b}: two candidates of one depth."""
    tree = Tree()
    parent = tree.add(0, 0)
    tree.add(parent, 0)
    tree.add(parent, 1)
    return tree


@pytest.mark.parametrize("favoured", [0, 1])
def test_mmtad_picks_by_a_log_joint_difference_of_a_thousandth(favoured: int) -> None:
    half = 1 / (1 + np.exp(1e-3))
    row = [half, 1 - half] if favoured else [1 - half, half]
    p = [[0.9, 0.1], row, [0.5, 0.5], [0.5, 0.5]]
    q = [[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    assert choose(Mmtad(gamma=2), two_leaves(), q, p).tokens[:2] == (0, favoured)


def test_mmtad_takes_depth_before_probability() -> None:
    tree = Tree()
    tree.add(0, 0)
    deep = tree.add(tree.add(0, 1), 0)
    q = [[0.3, 0.3, 0.4]] * 4
    p = [[0.7, 0.2, 0.1], [1 / 3] * 3, [0.2, 0.4, 0.4], [0.1, 0.8, 0.1]]
    assert choose(Mmtad(gamma=2, tau=0.1), tree, q, p).tokens[:2] == tuple(tree.path(deep))


def test_references_differ_as_stated() -> None:
    # Depth 1: nodes a (q 0.2), b (q 0.5), drawn in this order; depth 2: ba (q 0.25), bb (q 0.25), aa (0.1).
    tree = Tree()
    a, b = tree.add(0, 0), tree.add(0, 1)
    tree.add(a, 0), tree.add(b, 0)
    q = Law(None, logs([[0.2, 0.5, 0.3], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
    joint = tree.joint(q)
    of = {name: np.exp(Mmtad(reference=name)._references(tree, joint)) for name in ("max", "own", "final")}  # type: ignore[arg-type]
    np.testing.assert_allclose(of["own"], np.exp(joint))
    np.testing.assert_allclose(of["max"], [1, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(of["final"], [1, 0.5, 0.5, 0.25, 0.25])  # the best last node was drawn second
    wide = Tree()
    for token in (1, 0):
        wide.add(0, token)
    for parent, token in ((2, 2), (2, 1), (1, 0)):
        wide.add(parent, token)
    joint = wide.joint(q)
    assert int(joint[3:].argmax()) == 2  # the best last node was drawn third, of two nodes at depth 1: the last counts
    np.testing.assert_allclose(np.exp(Mmtad(reference="final")._references(wide, joint))[1:3], 0.2)


def test_own_accepts_where_max_is_stricter() -> None:
    q = [[0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5]]
    p = [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5]]
    tree = two_leaves()
    assert choose(Mmtad(gamma=2, tau=0.5, reference="own"), tree, q, p).accepted == 2
    assert choose(Mmtad(gamma=2, tau=0.5, reference="max"), tree, q, p).tokens[:2] == (0, 1)
    q = [[0.9, 0.1], [0.98, 0.02], [0.5, 0.5], [0.5, 0.5]]
    p = [[0.9, 0.1], [0.4, 0.03], [0.5, 0.5], [0.5, 0.5]]
    assert choose(Mmtad(gamma=2, tau=0.5, reference="own"), tree, q, p).accepted == 2
    assert choose(Mmtad(gamma=2, tau=0.5, reference="max"), tree, q, p).accepted == 1


def test_a_node_that_ends_the_text_counts_as_full_depth_and_gets_no_extra_token() -> None:
    tree = Tree()
    end = tree.add(0, 2)
    tree.add(tree.add(0, 0), 1)
    q = [[0.4, 0.2, 0.4], [1 / 3] * 3, [1 / 3] * 3, [1 / 3] * 3]
    p = [[0.3, 0.1, 0.6], [1 / 3] * 3, [0.2, 0.7, 0.1], [1 / 3] * 3]
    chosen = choose(Mmtad(gamma=2, tau=0.1), tree, q, p, eos=frozenset({2}))
    assert chosen.tokens == (2,) and chosen.accepted == 1 and end == 1


def test_near_the_limit_full_depth_is_what_the_limit_leaves() -> None:
    tree = Tree()
    tree.add(0, 2)  # ends the text, joint p 0.2
    tree.add(tree.add(0, 0), 1)  # joint p 0.63 at depth 2, the deepest that room 3 leaves
    q = [[0.7, 0.1, 0.2], [0.05, 0.9, 0.05], [1 / 3] * 3, [1 / 3] * 3]
    for gamma in (2, 4):
        chosen = choose(Mmtad(gamma=gamma, tau=0.2), tree, q, q, eos=frozenset({2}), room=3)  # all nodes pass
        assert chosen.tokens[:2] == (0, 1)


def test_mtad_keeps_the_beam_with_the_highest_joint_q_ended_ones_included() -> None:
    draft = TableModel([[1, 8, 1], [1, 1, 8], [1, 1, 1]])  # a -> b -> c, and c ends the text
    target = TableModel([[1, 8, 1], [1, 1, 8], [1, 1, 1]])
    output = write(Mtad(gamma=4, width=3, draft_rule="beam_search"), target, draft, eos=[2], limit=20)
    assert output.tokens == (1, 2) and output.rounds[0].drafted == 2


# -- beams ----------------------------------------------------------------------------------------------------------


def draws(rule: BeamSample | BeamSearch, tries: int = 1) -> list[list[int]]:
    """Children of the root under the law 0.6, 0.3, 0.1, 0."""
    law = Law(None, logs([[0.6, 0.3, 0.1, 0.0]]))
    found = []
    for attempt in range(tries):
        tree, luck = Tree(), Luck(attempt, "p")
        found.append([tree.tokens[n] for n in rule(tree, law, [0], lambda index, luck=luck: luck.draft(0, 0, index))])  # type: ignore[misc]
    return found


def test_draws_without_replacement_differ_and_stop_at_the_support() -> None:
    assert all(sorted(tokens) == [0, 1, 2] for tokens in draws(BeamSample(8), 50))


def test_draws_with_replacement_repeat() -> None:
    found = draws(BeamSample(8, replacement=True), 20)
    assert all(len(tokens) == 8 for tokens in found) and 3 not in {token for tokens in found for token in tokens}


def test_draws_without_replacement_follow_the_renormalised_law() -> None:
    found = draws(BeamSample(2), 4000)
    pairs = {(i, j): found.count([i, j]) / 4000 for i in range(3) for j in range(3) if i != j}
    law = [0.6, 0.3, 0.1]
    for (i, j), share in pairs.items():
        assert abs(share - law[i] * law[j] / (1 - law[i])) < 0.035


def test_beam_search_takes_the_largest() -> None:
    assert draws(BeamSearch(2)) == [[0, 1]]


def test_beams_grow_by_joint_weight() -> None:
    # After a everything is flat, after b certain: bb (0.4) is the heaviest pair though a (0.6) is the heavier token.
    tree = Tree()
    a, b = tree.add(0, 0), tree.add(0, 1)
    law = Law(None, logs([[0.6, 0.4, 0.0], [1 / 3] * 3, [0.0, 1.0, 0.0]]))
    nodes = BeamSearch(1)(tree, law, [a, b], lambda index: 0.0)
    assert [tree.path(node) for node in nodes] == [[1, 1]]


def test_greedy_sampling_drafts_by_beam_search_and_takes_the_best_last_token() -> None:
    model, again = (StubModel(3, lambda context: [0.2, 0.5, 0.3]) for _ in range(2))
    for seed in range(4):
        output = write(Mmtad(gamma=2, width=2), model, again, limit=9, sampling=Sampling(greedy=True), seed=seed)
        assert set(output.tokens) == {1}


def test_acceptance_guarantees_the_joint_ratio() -> None:
    rng = np.random.default_rng(0)
    target, draft = TableModel(rng.random((6, 6)) ** 3), TableModel(rng.random((6, 6)) ** 3)
    for decoder in (Mtad(tau=0.4), Mmtad(tau=0.4, reference="own")):
        for seed in range(20):
            output = write(decoder, target, draft, limit=20, seed=seed)
            last = 0
            for step in output.rounds:
                pairs = list(zip((last, *step.tokens), step.tokens[: step.accepted], strict=False))
                ratio = np.prod([target.table[i, j] / draft.table[i, j] for i, j in pairs])
                # A cut last round may keep a refused prefix of an accepted block.
                assert ratio > 0.4 or step is output.rounds[-1]
                last = step.tokens[-1]


def test_last_token_greedy_is_argmax_after_the_accepted_prefix() -> None:
    target = StubModel(3, lambda context: [0.2, 0.5, 0.3])
    never = StubModel(3, lambda context: [0.0, 0.0, 1.0])
    outputs = {write(Mtad(tau=0.9, last_token="greedy"), target, never, limit=6, seed=seed).tokens for seed in range(5)}
    assert outputs == {(1,) * 6}
    assert write(Autoregressive(), target, never, limit=6).tokens != (1,) * 6

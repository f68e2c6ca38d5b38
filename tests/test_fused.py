"""Drafts grown on the device are those of the loop `grow`, level by level, for every rule that the device knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mtad.decoder import Text
from mtad.drafting import BeamSample, BeamSearch, Branch, Draft, OneEach, Rule, grow
from mtad.growth import Drafted
from mtad.law import Warp
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.serving import serve
from mtad.session import Reader, Session
from mtad.tree import Tree
from tests.fakes import VOCABULARY, llama, opt
from tests.replayed import ReplayedModel

RULES: dict[str, Rule] = {
    "one_each": OneEach(),
    "beam_sample": BeamSample(4),
    "beam_sample with replacement": BeamSample(5, replacement=True),
    "beam_search": BeamSearch(3),
}
WARP = Warp(0.9, 6, 0.8)
MODELS = {"llama": llama(rows=3), "opt": opt(rows=3)}


@dataclass(frozen=True)
class Case:
    """A text whose last `pending` tokens have not been read, to be drafted upon for `depth` levels."""

    prompt: Sequence[int]
    pending: Sequence[int]
    depth: int
    seed: int = 0


CASES = (Case([3], [], 4), Case([5, 6, 7], [8], 2), Case(range(30), [1, 2, 3], 5, 1))


def models(family: str) -> tuple[CausalModel, ReplayedModel]:
    """The same weights: drafted upon level by level, and on the device."""
    lm = MODELS[family].lm
    return CausalModel(lm, VOCABULARY, 3, "eager"), ReplayedModel(lm, VOCABULARY, 3)


def drafts(
    model: CausalModel, cases: Sequence[Case], rule: Rule, warp: Warp = WARP, eos: Sequence[int] = ()
) -> tuple[list[Draft], list[Session]]:
    """The drafts upon all cases, grown together, in neighbouring rows of the cache."""
    sessions, loops, waiting = [], [], {}
    for row, case in enumerate(cases):
        session = Session(model, row)
        session.open(list(case.prompt))
        serve([session.read(Tree())])
        session.commit(list(case.pending))
        sessions.append(session)
        luck = Luck(case.seed, "prompt")
        text = Text(session.text, 99, frozenset(eos), luck, isinstance(rule, BeamSearch), ends=lambda new: False)
        loops.append(grow(Reader(session, warp), rule, case.depth, text))
        waiting[row] = next(loops[row])
    found: dict[int, Draft] = {}
    while waiting:
        laws = serve(list(waiting.values()))
        for row, law in zip(list(waiting), laws, strict=True):
            try:
                waiting[row] = loops[row].send(law)
            except StopIteration as stop:
                found[row] = stop.value
                del waiting[row]
    return [found[row] for row in range(len(cases))], sessions


def same(ours: Draft, theirs: Draft) -> None:
    """The same nodes in the same order, the same candidates, the same joints."""
    assert (ours.tree.tokens, ours.tree.parents) == (theirs.tree.tokens, theirs.tree.parents)
    assert ours.ends == theirs.ends
    np.testing.assert_allclose(ours.tree.joint(ours.law), theirs.tree.joint(theirs.law), atol=1e-4)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_texts_of_different_lengths_and_depths_get_the_drafts_of_the_loop(rule: str, family: str) -> None:
    loop, device = models(family)
    for eos in ((), tuple(range(0, VOCABULARY, 4))):
        theirs, _ = drafts(loop, CASES, RULES[rule], eos=eos)
        ours, _ = drafts(device, CASES, RULES[rule], eos=eos)
        for mine, other in zip(ours, theirs, strict=True):
            assert isinstance(mine.law, Drafted) and not isinstance(other.law, Drafted)
            same(mine, other)


@pytest.mark.parametrize("rule", [BeamSample(8), BeamSearch(8), BeamSample(8, replacement=True)])
def test_where_fewer_can_be_drawn_than_asked_for_the_rest_is_left_out(rule: Rule) -> None:
    loop, device = models("llama")
    narrow = Warp(1.0, 2, 1.0)
    (theirs,), _ = drafts(loop, CASES[:1], rule, narrow)
    (ours,), _ = drafts(device, CASES[:1], rule, narrow)
    same(ours, theirs)
    if rule != BeamSample(8, replacement=True):
        assert [ours.tree.depths.count(depth) for depth in (1, 2, 3, 4)] == [2, 4, 8, 8]


def test_a_draft_that_ends_at_once_has_one_level() -> None:
    loop, device = models("llama")
    (theirs,), _ = drafts(loop, CASES[:1], BeamSample(4), eos=range(VOCABULARY))
    (ours,), _ = drafts(device, CASES[:1], BeamSample(4), eos=range(VOCABULARY))
    same(ours, theirs)
    assert max(ours.tree.depths) == 1 and len(ours.ends) == 4


def test_more_ties_than_the_device_can_settle_are_settled_by_the_loop() -> None:
    lm = llama().lm
    with torch.no_grad():
        lm.lm_head.weight.zero_()
    found = []
    for kind in (CausalModel, ReplayedModel):
        (draft,), _ = drafts(kind(lm, VOCABULARY), CASES[:1], BeamSearch(3))
        assert not isinstance(draft.law, Drafted)
        found.append(draft)
    same(*found)
    assert found[0].tree.tokens[1:4] == [0, 1, 2]


def test_a_text_at_its_longest_is_drafted_upon_beside_one_that_goes_on() -> None:
    loop, device = models("opt")  # its positions are a table, beyond which there is nothing
    cases = (Case([7] * (loop.max_positions - 2), [], 1), Case([3], [], 6))
    theirs, _ = drafts(loop, cases, BeamSample(4))
    ours, _ = drafts(device, cases, BeamSample(4))
    for mine, other in zip(ours, theirs, strict=True):
        same(mine, other)


@pytest.mark.parametrize("rule", ["one_each", "beam_sample", "beam_search"])
def test_what_was_drafted_has_been_read_and_is_kept_when_it_is_committed(rule: str) -> None:
    laws = []
    for model in models("llama"):
        found, sessions = drafts(model, CASES, RULES[rule])
        for draft, session in zip(found, sessions, strict=True):
            last = min(draft.ends)  # read are all levels but the last
            path = draft.tree.path(draft.tree.parents[last])
            before = session.counts.forwards
            session.commit(path)
            laws.append(serve([session.read(Tree())])[0].logp)
            assert session.counts.forwards == before, "committed, though never read"
            laws.append(serve([session.read(Tree.chain([1, 2]))])[0].logp)
    half = len(laws) // 2
    for ours, theirs in zip(laws[half:], laws[:half], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_every_level_counts_as_a_forward_of_its_text() -> None:
    _, device = models("llama")
    _, sessions = drafts(device, CASES, BeamSample(4))
    for case, session in zip(CASES, sessions, strict=True):
        assert session.counts.forwards == 1 + case.depth  # one before anything was drafted
        assert session.counts.reads[4] == case.depth - 1


@pytest.mark.parametrize(("rule", "warp"), [(Branch((2, 2)), WARP), (BeamSample(3), Warp(1.0, 0, 0.9))])
def test_what_the_device_cannot_do_is_done_by_the_loop(rule: Rule, warp: Warp) -> None:
    loop, device = models("llama")
    (theirs,), _ = drafts(loop, CASES[1:2], rule, warp)
    (ours,), _ = drafts(device, CASES[1:2], rule, warp)
    assert not isinstance(ours.law, Drafted)
    same(ours, theirs)

"""Exact MJGD is exact: against brute force, alone and assisted, with ends, ties and exhausted budgets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.autoregressive import Autoregressive
from mtad.feeds import Model
from mtad.law import Sampling, Warp
from mtad.mjgd import Mjgd
from tests.fakes import ContextModel, StubModel, TableModel, llama, noisy
from tests.helpers import write

SAMPLING = Sampling(temperature=0.8, top_k=3, top_p=0.9)


def brute_force(model: ContextModel, text: list[int], gamma: int, warp: Warp, eos: set[int]) -> tuple[int, ...]:
    """The most probable block by listing all of them; equal ones by token ids."""
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    tokens = range(model.vocabulary)
    for length in range(1, gamma + 1):
        for block in itertools.product(tokens, repeat=length):
            if set(block[:-1]) & eos or (length < gamma and block[-1] not in eos):
                continue
            joint = 0.0
            for i, token in enumerate(block):
                joint += warp(model.logits([*text, *block[:i]])[None]).of(0, np.array([token]))[0]
            best = min(best, (-joint, block))
    return best[1]


class Hashed(ContextModel):
    """A random law after every context, some of them with exact ties."""

    def __init__(self, vocabulary: int, seed: int, ties: bool = False) -> None:
        super().__init__(vocabulary)
        self.seed, self.ties = seed, ties

    def logits(self, context: list[int]) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, *context])
        logits = rng.normal(0, 1.5, self.vocabulary)
        return torch.from_numpy(np.round(logits) if self.ties else logits)


@settings(max_examples=40, deadline=None)
@given(
    first_children=st.sampled_from([1, 2, 64]),  # how many children are sorted before more are asked for
    seed=st.integers(0, 10**6),
    gamma=st.integers(1, 3),
    law=st.sampled_from(["raw", "warped"]),
    assist=st.sampled_from(["none", "draft"]),
    ends=st.sampled_from([set(), {1}, {0, 4}]),
    ties=st.booleans(),
)
def test_exact_search_equals_brute_force(
    first_children: int, seed: int, gamma: int, law: str, assist: str, ends: set[int], ties: bool
) -> None:
    target, draft = Hashed(5, seed, ties), Hashed(5, seed // 2)
    decoder = Mjgd(gamma=gamma, law=law, assist=assist, width=3, batch=2)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtad.best_first.FIRST_CHILDREN", first_children)
        output = write(decoder, target, draft, limit=5, eos=sorted(ends), sampling=SAMPLING)
    warp, text = Warp() if law == "raw" else SAMPLING.warp(True), [0]
    for step in output.rounds:
        block = brute_force(target, text, min(gamma, 5 - len(text) + 1), warp, ends)
        assert step.tokens == block
        assert step.proof is not None and step.proof.proven and step.proof.shortfall == 0
        text += block


@pytest.mark.parametrize("law", ["raw", "warped"])
def test_the_lead_is_a_lower_bound_on_the_distance_to_the_second_best_block(law: str) -> None:
    warp, positive = Warp() if law == "raw" else SAMPLING.warp(True), 0
    for seed in range(12):
        target = Hashed(4, seed)
        decoder = Mjgd(gamma=2, law=law, assist="none")  # type: ignore[arg-type]
        proof = write(decoder, target, target, limit=2, sampling=SAMPLING).rounds[0].proof
        joints = sorted(
            (
                warp(target.logits([0])[None]).of(0, np.array([i]))[0]
                + warp(target.logits([0, i])[None]).of(0, np.array([j]))[0]
                for i in range(4)
                for j in range(4)
            ),
            reverse=True,
        )
        assert proof is not None
        if proof.lead is None:  # no other block is possible
            assert joints[1] == -np.inf
        else:
            assert 0 <= proof.lead <= joints[0] - joints[1] + 1e-9
            positive += proof.lead > 0
    assert positive >= 6


def test_a_certain_target_leaves_no_runner_up() -> None:
    certain = StubModel(3, lambda context: [0.0, 1.0, 0.0])
    proof = write(Mjgd(gamma=2, assist="none"), certain, certain, limit=2).rounds[0].proof
    assert proof is not None and proof.proven and proof.decisive and proof.lead is None


@pytest.mark.parametrize("assist", ["none", "draft"])
def test_an_exhausted_budget_gives_a_valid_block_that_is_not_called_proven(assist: str) -> None:
    flat = TableModel(np.random.default_rng(0).random((8, 8)) + 5)
    other = TableModel(np.random.default_rng(1).random((8, 8)) + 5)
    output = write(Mjgd(gamma=4, law="raw", assist=assist, width=2, budget=3), flat, other, limit=8)  # type: ignore[arg-type]
    assert len(output.tokens) == 8
    for step in output.rounds:
        assert len(step.tokens) == 4 and step.proof is not None
        assert not step.proof.proven and not step.proof.decisive and step.proof.lead is None
        assert step.proof.shortfall > 0


def test_a_binding_budget_gives_assisted_and_unassisted_search_the_same_answer() -> None:
    for seed in range(20):
        target, draft = Hashed(8, seed), Hashed(8, seed + 100)
        answers = [
            write(Mjgd(gamma=3, law="raw", assist=assist, width=3, budget=12), target, draft, limit=3).rounds[0]  # type: ignore[arg-type]
            for assist in ("none", "draft")
        ]
        proofs = [answer.proof for answer in answers]
        assert proofs[0] is not None and proofs[1] is not None
        if proofs[0].proven:
            # A better incumbent may settle the assisted search sooner, never later.
            assert proofs[1].proven and answers[1].tokens == answers[0].tokens


def test_an_end_token_that_the_draft_proposed_counts_as_accepted() -> None:
    model, draft = (StubModel(3, lambda context: [0.05, 0.05, 0.9]) for _ in range(2))
    step = write(Mjgd(gamma=4), model, draft, limit=8, eos=[2]).rounds[0]
    assert step.tokens == (2,) and step.accepted == 1


def test_an_impossible_draft_costs_reads_but_not_the_answer() -> None:
    target = TableModel([[0, 1, 2], [0, 3, 1], [0, 1, 1]])
    draft = StubModel(3, lambda context: [1.0, 0.0, 0.0])
    alone = write(Mjgd(gamma=3, assist="none"), target, draft, limit=9)
    assert write(Mjgd(gamma=3, assist="draft"), target, draft, limit=9).tokens == alone.tokens


@pytest.mark.parametrize("law", ["raw", "warped"])
def test_assisted_writes_what_unassisted_writes_with_fewer_target_forwards(law: str) -> None:
    target: Model = llama()
    draft = noisy(target, llama)  # type: ignore[arg-type]
    run = {"prompt": [5, 9], "limit": 24, "sampling": Sampling(temperature=0.5)}
    alone, assisted = (
        write(Mjgd(gamma=3, law=law, assist=assist), target, draft, **run)  # type: ignore[arg-type]
        for assist in ("none", "draft")
    )
    assert assisted.tokens == alone.tokens and assisted.target.forwards < alone.target.forwards


def test_gamma_one_is_greedy_decoding() -> None:
    target = llama()
    draft = noisy(target, llama)
    greedy = write(Autoregressive(), target, draft, limit=20, eos=[7], sampling=Sampling(greedy=True))
    for assist in ("none", "draft"):
        block = write(Mjgd(gamma=1, law="raw", assist=assist), target, draft, limit=20, eos=[7])  # type: ignore[arg-type]
        assert block.tokens == greedy.tokens and block.target.forwards == greedy.target.forwards


def test_the_beam_stand_in_never_beats_the_exact_block() -> None:
    for seed in range(20):
        target = Hashed(6, seed)
        exact = write(Mjgd(gamma=3, law="raw", assist="none"), target, target, limit=3).tokens
        beam = write(Mjgd(gamma=3, law="raw", search="beam", width=2), target, target, limit=3).tokens
        assert joint(target, exact) >= joint(target, beam)


def joint(model: ContextModel, block: tuple[int, ...]) -> float:
    rows = [Warp()(model.logits([0, *block[:i]])[None]).of(0, np.array([token]))[0] for i, token in enumerate(block)]
    return float(sum(rows))


def test_the_last_block_is_as_long_as_the_limit_leaves() -> None:
    target, draft = Hashed(4, 3), Hashed(4, 4)
    assert [len(step.tokens) for step in write(Mjgd(gamma=4), target, draft, limit=10).rounds] == [4, 4, 2]

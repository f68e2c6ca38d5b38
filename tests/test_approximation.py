"""Blocks beside the best ones: no gap is negative, none reaches its bound, mjgd has none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import pytest
import torch

from experiments.approximation import (
    ALL_CHOSEN,
    NO_PROMISE_REFERENCE,
    NO_PROMISE_TAU,
    NOTHING_ACCEPTED,
    Compared,
    Decided,
    Measured,
    Yardstick,
    spread,
    was_cut,
)
from experiments.approximation_pass import decided as rounds_of
from mtad.feeds import Model
from mtad.generate import Output
from mtad.law import Sampling
from mtad.mjgd import Mjgd
from mtad.mtad import Mmtad, Mtad
from mtad.session import Session
from tests.fakes import TableModel, llama, noisy
from tests.helpers import write

WARPED = Sampling(temperature=0.9, top_k=5, top_p=0.95)
ALIKE = 1e-9  # of table models, whose laws are the same in whatever shape they are read
JOINT = [
    Mtad(gamma=3, width=3, tau=0.1),
    Mtad(gamma=2, width=2, tau=0.5),
    Mmtad(gamma=3, width=4, tau=0.3),
    Mmtad(gamma=3, width=4, tau=0.3, reference="own"),
]


def tables(seed: int) -> tuple[TableModel, TableModel]:
    """A target and a draft that resembles it."""
    chance = np.random.default_rng(seed)
    target = chance.random((7, 7)) ** 3
    return TableModel(target), TableModel(target + 0.2 * chance.random((7, 7)))


def decided(output: Output, limit: int = 99) -> list[Decided]:
    """The rounds of an output as a row has them."""
    rounds = [{"tokens": len(step.tokens), "accepted": step.accepted} for step in output.rounds]
    return list(rounds_of({"token_ids": list(output.tokens), "rounds": rounds}, limit))


def measure(
    decoder: Mtad | Mjgd,
    target: Model,
    draft: Model,
    output: Output,
    eos: Sequence[int] = (),
    budget: int = 4096,
    limit: int = 99,
) -> list[Measured]:
    """All rounds of an output that was written after the prompt [0]."""
    yardstick = Yardstick(decoder, WARPED, Session(target), Session(draft), frozenset(eos), budget)
    return list(yardstick.text([0], decided(output, limit), range(len(output.rounds))))


def blocks(measured: Sequence[Measured]) -> list[Compared]:
    return [block for step in measured for block in (step.emitted, step.accepted) if block]


def warped(model: TableModel) -> np.ndarray:
    """The warped law, log-probabilities [last token, token]."""
    law = WARPED.warp(True)(torch.stack([model.logits([last]) for last in range(model.vocabulary)]))
    return np.stack([law.of(last, np.arange(model.vocabulary)) for last in range(model.vocabulary)])


def joint_by_hand(law: np.ndarray, last: int, block: Sequence[int]) -> float:
    return float(sum(law[before, token] for before, token in itertools.pairwise((last, *block))))


def best_by_hand(law: np.ndarray, last: int, length: int, eos: Sequence[int]) -> float:
    """The best block of that length, or shorter at an end token, by listing all of them."""
    return max(
        joint_by_hand(law, last, block)
        for size in range(1, length + 1)
        for block in itertools.product(range(len(law)), repeat=size)
        if not set(block[:-1]) & set(eos) and (size == length or block[-1] in eos)
    )


@pytest.mark.parametrize("decoder", JOINT, ids=str)
@pytest.mark.parametrize("eos", [[], [3]])
def test_the_gap_is_that_to_the_best_block_of_all(decoder: Mtad, eos: list[int]) -> None:
    compared = 0
    for seed in range(5):
        target, draft = tables(seed)
        output = write(decoder, target, draft, limit=10, eos=eos, sampling=WARPED, seed=seed)
        text, law = [0, *output.tokens], warped(target)
        for step, found in zip(decided(output), measure(decoder, target, draft, output, eos), strict=True):
            last = text[step.start]
            for block, tokens in ((found.emitted, step.tokens), (found.accepted, step.tokens[: step.accepted])):
                if block is None:
                    assert not tokens and found.accepted_reason == NOTHING_ACCEPTED
                    continue
                assert block.proven and block.length == len(tokens)
                assert block.log_p == pytest.approx(joint_by_hand(law, last, tokens))
                assert block.best_log_p == pytest.approx(best_by_hand(law, last, len(tokens), eos))
                assert block.gap == pytest.approx(block.best_log_p - block.log_p)
                compared += block.gap > 0.01
    assert compared >= 5


@pytest.mark.parametrize("decoder", JOINT, ids=str)
def test_no_gap_is_negative_and_none_reaches_its_bound(decoder: Mtad) -> None:
    bounded = 0
    for seed in range(12):
        target, draft = tables(seed)
        output = write(decoder, target, draft, limit=16, eos=[3], sampling=WARPED, seed=seed)
        measured = measure(decoder, target, draft, output, [3])
        assert all(block.gap is not None and block.gap >= -ALIKE for block in blocks(measured))
        for step in measured:
            if step.accepted and step.bound is not None:
                assert step.accepted.gap is not None and step.accepted.gap < step.bound + ALIKE
                assert step.bound == pytest.approx(step.accepted.best_log_p - (step.log_q or 0.0) - log(decoder.tau))
                bounded += 1
    assert bounded >= 10


@pytest.mark.parametrize("decoder", [*JOINT, Mjgd(gamma=3, law="raw"), Mjgd(gamma=3, search="beam", width=2)], ids=str)
def test_on_a_random_pair_it_holds_up_to_the_logits_tolerance(decoder: Mtad | Mjgd) -> None:
    target = llama()
    draft = noisy(target, llama)
    output = write(decoder, target, draft, limit=24, sampling=WARPED)
    measured = measure(decoder, target, draft, output)
    for block in blocks(measured):
        assert block.proven and block.gap is not None
        tolerance = 4 * block.length * target.tolerance / WARPED.temperature
        assert block.gap >= -tolerance
    for step in measured:
        if step.bound is not None and step.accepted and step.accepted.gap is not None:
            assert step.accepted.gap < step.bound + 4 * step.accepted.length * target.tolerance / WARPED.temperature


@pytest.mark.parametrize("assist", ["none", "draft"])
@pytest.mark.parametrize("law", ["raw", "warped"])
def test_exact_mjgd_has_no_gap_and_costs_what_it_did(assist: Any, law: Any) -> None:
    decoder = Mjgd(gamma=3, law=law, assist=assist, width=3)
    for seed in range(6):
        target, draft = tables(seed)
        output = write(decoder, target, draft, limit=10, eos=[3], sampling=WARPED)
        measured = measure(decoder, target, draft, output, [3], limit=10)
        assert all(step.emitted.gap == pytest.approx(0, abs=ALIKE) for step in measured)
        assert sum(step.emitted.forwards for step in measured) == output.target.forwards
        assert all(step.accepted is None and step.accepted_reason == ALL_CHOSEN for step in measured)


def test_beam_mjgd_may_have_a_gap() -> None:
    decoder = Mjgd(gamma=4, search="beam", width=1)
    gaps = []
    for seed in range(8):
        target, draft = tables(seed)
        output = write(decoder, target, draft, limit=8, sampling=WARPED)
        gaps += [step.emitted.gap for step in measure(decoder, target, draft, output)]
    assert max(gap for gap in gaps if gap is not None) > 0.01


def test_the_entropy_is_that_of_the_first_token() -> None:
    target, draft = tables(1)
    decoder = JOINT[0]
    output = write(decoder, target, draft, limit=6, sampling=WARPED)
    for step, found in zip(decided(output), measure(decoder, target, draft, output), strict=True):
        _, logp = WARPED.warp(True)(target.logits([0, *output.tokens[: step.start]])[None]).row(0)
        assert found.entropy == pytest.approx(-(np.exp(logp) * logp).sum())


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [(Mtad(gamma=3, tau=0), NO_PROMISE_TAU), (Mmtad(gamma=3, tau=0.3, reference="final"), NO_PROMISE_REFERENCE)],
)
def test_where_acceptance_promises_nothing_there_is_no_bound_and_a_reason(decoder: Mtad, reason: str) -> None:
    target, draft = tables(2)
    output = write(decoder, target, draft, limit=12, sampling=WARPED)
    accepted = [step for step in measure(decoder, target, draft, output) if step.accepted]
    assert accepted and all(step.bound is None and step.bound_reason == reason for step in accepted)


def test_a_search_out_of_budget_is_not_called_proven_and_says_what_it_may_have_missed() -> None:
    flat = TableModel(np.random.default_rng(0).random((7, 7)) + 5)
    decoder = Mtad(gamma=4, tau=0.1)
    output = write(decoder, flat, tables(0)[1], limit=10, sampling=WARPED)
    short, full = (measure(decoder, flat, tables(0)[1], output, budget=budget)[0].emitted for budget in (1, 4096))
    assert not short.proven and full.proven and full.shortfall == 0
    assert short.gap is not None and full.gap is not None
    assert short.gap <= full.gap + ALIKE <= short.gap + short.shortfall + 2 * ALIKE


def test_a_block_that_a_stop_string_cut_is_told_from_one_that_ended_there() -> None:
    def step(length: int, accepted: int, last: int = 5, room: int = 9) -> Decided:
        return Decided(0, 0, (*range(10, 9 + length), last), accepted, room)

    mtad, mjgd, eos = Mtad(gamma=4), Mjgd(gamma=4), frozenset({1})
    assert was_cut(mtad, step(2, 2), eos) and not was_cut(mtad, step(2, 1), eos)
    assert was_cut(mjgd, step(3, 0), eos) and not was_cut(mjgd, step(4, 0), eos)
    assert not was_cut(mtad, step(2, 2, last=1), eos) and not was_cut(mjgd, step(3, 0, last=1), eos)
    assert not was_cut(mjgd, step(3, 0, room=3), eos)  # the limit left room for three


def test_rounds_are_spread_evenly() -> None:
    assert spread(5, None) == spread(5, 5) == [0, 1, 2, 3, 4]
    assert spread(9, 3) == [1, 4, 7] and spread(100, 1) == [50]

"""The cost model's predictions by hand, and which decoders have the one draft length that some of them need."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from experiments.cost.predict import (
    ENDS_EARLY,
    NO_DRAFT_READS,
    Costs,
    Tally,
    acceptance_for,
    best_gamma,
    break_even,
    chain_tokens,
    expected_tokens,
    seconds_per_token,
    speedup,
    speedup_at,
    tally,
)
from experiments.cost.reads import Curve, Pace


def flat(seconds: float, *more: float) -> Curve:
    """A curve at 1, 2, ... nodes."""
    values = (seconds, *more)
    return Curve(tuple(range(1, len(values) + 1)), values, values, values)


def costs(target: Curve, draft: Curve, host: float = 0.0, baseline: float = 0.0) -> Costs:
    """Costs of reads that cost the same whatever came before."""
    return Costs(Pace(target, target), Pace(draft, draft), host, target.seconds(1) + baseline)


def chain(gamma: int, *conditional: float) -> Tally:
    """What a run of a chain decoder counts in 10 rounds without an end."""
    target, draft = {gamma + 1: 10}, {1: 10 * gamma}
    return Tally(30, 10, target, draft, 10 * gamma, 10 * gamma, gamma, conditional)


def row(accepted: Sequence[int], gamma: int = 4, cut: bool = False) -> dict[str, object]:
    """The row of a chain decoder whose rounds accepted so many; `cut` ends it with an accepted token."""
    tokens = [n + 1 for n in accepted]
    tokens[-1] -= cut
    rounds = [
        {"tokens": t, "drafted": gamma, "accepted": n, "nodes": gamma, "proof": None}
        for t, n in zip(tokens, accepted, strict=True)
    ]
    reads = {"target": {str(gamma + 1): len(rounds)}, "draft": {"1": gamma * len(rounds)}}
    return {"rounds": rounds, "token_ids": [0] * sum(tokens), "reads": reads, "options": {"gamma": gamma}}


def test_a_prediction_is_the_priced_reads_over_the_tokens() -> None:
    counted = tally([row([4, 1]), row([0, 3], cut=True)])
    assert (counted.target, counted.draft, counted.tokens, counted.gamma) == ({5: 4}, {1: 16}, 11, 4)
    price = costs(flat(10, 11, 12, 13, 14), flat(2), host=0.5, baseline=1)
    assert seconds_per_token(counted, price) == (4 * 14 + 16 * 2 + 20 * 0.5) / 11
    assert speedup(counted, price) == pytest.approx((10 + 1) * 11 / 98)


def test_a_prediction_tells_reads_after_the_other_model_from_the_rest() -> None:
    counted = Tally(30, 10, {5: 10}, {1: 10, 4: 20}, 120, 30, 3, (0.9,))
    price = Costs(Pace(flat(10), flat(15)), Pace(flat(2), flat(3)), 0.0, 10.0)
    assert seconds_per_token(counted, price) * 30 == pytest.approx(10 * 15 + 10 * 3 + 20 * 2)
    assert speedup_at(3, counted, price) == pytest.approx(expected_tokens(3, (0.9,)) * 10 / (15 + 3 + 2 * 2))
    undrafted = Tally(10, 0, {1: 10}, {}, 0, 0, None, ())
    assert seconds_per_token(undrafted, price) == 10


def test_acceptance_by_position_leaves_out_what_a_cut_hides() -> None:
    counted = tally([row([4, 1]), row([0, 3], cut=True)])
    # Of four rounds three accept the first token, of these two the second and third; at the fourth one is cut.
    assert counted.conditional == (3 / 4, 2 / 3, 1.0, 1.0)


def test_per_position_acceptance_of_a_simulated_chain_is_found_and_gives_its_mean_tokens() -> None:
    truth, rng = (0.9, 0.7, 0.5, 0.8), random.Random(1)
    accepted = []
    for _ in range(20_000):
        survived = [rng.random() < rate for rate in truth]
        accepted.append(survived.index(False) if False in survived else 4)
    counted = tally([row(accepted)])
    assert counted.conditional == pytest.approx(truth, abs=0.02)
    mean = sum(accepted) / len(accepted) + 1
    assert expected_tokens(4, counted.conditional) == pytest.approx(mean)
    assert expected_tokens(6, (0.5, 0.25)) == 1 + 0.5 + 0.5 * 0.25 + sum(0.5 * 0.25**i for i in range(2, 6))


@pytest.mark.parametrize(("gamma", "alpha", "ratio"), [(1, 0.3, 0.1), (4, 0.8, 0.05), (7, 0.6, 0.2)])
def test_the_speedup_of_an_independent_chain_is_the_published_formula(gamma: int, alpha: float, ratio: float) -> None:
    # Leviathan et al., arXiv 2211.17192, theorem 3.8: (1 - alpha^(gamma+1)) / ((1 - alpha) (gamma c + 1)).
    price = costs(flat(1), flat(ratio))
    expected = (1 - alpha ** (gamma + 1)) / ((1 - alpha) * (gamma * ratio + 1))
    assert speedup_at(gamma, chain(4, alpha), price) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [1, 4, 9])
def test_at_the_break_even_acceptance_the_predicted_speedup_is_one(gamma: int) -> None:
    price = costs(flat(1, 1.05, 1.1), flat(0.1, 0.11), host=0.02, baseline=0.01)
    needed, alpha = break_even(gamma, chain(gamma, 0.9), price)
    assert alpha is not None and 0 < alpha < 1
    assert chain_tokens(alpha, gamma) == pytest.approx(needed)
    assert speedup_at(gamma, chain(gamma, alpha), price) == pytest.approx(1)


def test_break_even_has_an_end_on_either_side() -> None:
    assert break_even(4, chain(4, 0.9), costs(flat(1), flat(2)))[1] is None  # a draft dearer than the target
    assert acceptance_for(0.9, 4) == 0.0
    assert acceptance_for(5.0, 4) == pytest.approx(1)


def test_the_best_gamma_maximises_the_predicted_speedup() -> None:
    price, counted = costs(flat(1, 1.02), flat(0.08)), chain(4, 0.8)
    speedups = {gamma: speedup_at(gamma, counted, price) for gamma in range(1, 17)}
    best = best_gamma(counted, price, 16)
    assert 1 < best < 16
    assert speedups[best] == max(speedups.values())
    assert best_gamma(counted, price, best - 1) == best - 1  # a bound that binds
    assert best_gamma(chain(4, 0.01), price, 16) == 1


def test_a_round_of_a_tree_reads_more_nodes_for_each_level() -> None:
    # Ten rounds of three levels, of 4 nodes each on average; the draft reads one node, then twice 4.
    counted = Tally(30, 10, {13: 10}, {1: 10, 4: 20}, 120, 30, 3, (0.9,))
    price = costs(Curve((1, 101), (10.0, 110.0), (), ()), Curve((1, 5), (1.0, 5.0), (), ()), host=0.5)
    # At gamma 6: 1 + 6 x 4 nodes of the target, six reads of the draft, and the host's work for seven reads.
    expected = (10 + 24) + 1 + 5 * 4 + 7 * 0.5
    assert speedup_at(6, counted, price) == pytest.approx(expected_tokens(6, (0.9,)) * 10 / expected)


def test_a_decoder_that_verifies_no_draft_by_one_read_has_no_gamma() -> None:
    searched = row([4])
    searched["rounds"][0]["proof"] = {"proven": True}  # type: ignore[index]
    twice = row([4])
    twice["reads"]["target"] = {"5": 1, "2": 1}  # type: ignore[index]
    alone = row([0], gamma=0)
    for found in (searched, twice, alone):
        counted = tally([found])
        assert (counted.gamma, counted.conditional) == (None, ())


def drafted(lengths: Sequence[int], accepted: Sequence[int], gamma: int = 4) -> dict[str, object]:
    """A row whose drafts have these lengths, each level from one read; every round adds a token of the target."""
    found = row(accepted, gamma)
    for step, length in zip(found["rounds"], lengths, strict=True):  # type: ignore[call-overload]
        step.update(drafted=length, nodes=length)
    found["reads"]["draft"] = {"1": sum(lengths)}  # type: ignore[index]
    return found


@pytest.mark.parametrize(
    ("lengths", "accepted"),
    [
        ([4, 2, 4], [4, 2, 4]),  # accepted as a whole, and the text went on
        ([4, 0, 4], [1, 0, 4]),  # nothing drafted in the middle
        ([4, 2, 2, 4], [1, 0, 1, 4]),  # more refused short ones than end tokens explain
    ],
)
def test_a_decoder_that_ends_drafts_early_has_no_gamma_but_a_prediction(
    lengths: Sequence[int], accepted: Sequence[int]
) -> None:
    counted = tally([drafted(lengths, accepted)])
    assert (counted.gamma, counted.gamma_reason) == (None, ENDS_EARLY)
    assert speedup(counted, costs(flat(10), flat(1))) > 0


def test_the_end_of_a_text_and_a_refused_end_token_may_shorten_drafts() -> None:
    limit = drafted([4, 4, 2, 0], [1, 1, 1, 0])  # 3 and 1 tokens of room for the last two
    refused = drafted([4] * 10 + [2] + [4], [1] * 12)
    for found in (limit, refused):
        counted = tally([found])
        assert (counted.gamma, counted.gamma_reason) == (4, None)


@pytest.mark.parametrize("reads", [{}, {"1": 4}])
def test_drafts_that_no_draft_model_read_have_no_gamma(reads: dict[str, int]) -> None:
    copied = row([4, 1])
    copied["reads"]["draft"] = reads  # type: ignore[index]
    counted = tally([copied])
    assert (counted.gamma, counted.gamma_reason) == (None, NO_DRAFT_READS)

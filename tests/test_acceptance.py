"""Acceptance figures, against rounds counted by hand and chains whose acceptance at every position is known."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from experiments.acceptance import acceptance, steps
from experiments.journal import Row
from mtad.decoder import Round as Decided
from mtad.law import Sampling
from tests.fakes import VOCABULARY, llama, noisy
from tests.helpers import DECODERS, from_yaml, write

Round = dict[str, Any]


def done(tokens: int, drafted: int = 0, accepted: int = 0, nodes: int | None = None) -> Round:
    """A round as rows hold it, of a chain unless `nodes` says otherwise."""
    return {"tokens": tokens, "drafted": drafted, "accepted": accepted, "nodes": drafted if nodes is None else nodes}


def as_row(step: Decided) -> Round:
    return done(len(step.tokens), step.drafted, step.accepted, step.nodes)


def row(*rounds: Round) -> Row:
    return {"rounds": list(rounds)}


def figures(*rows: Row) -> dict[str, Any]:
    found = acceptance(rows)
    assert found is not None
    json.dumps(found, allow_nan=False)
    return found


def position(found: dict[str, Any], number: int) -> dict[str, Any]:
    (entry,) = (entry for entry in found["per_position"] if entry["position"] == number)
    return dict(entry)


# Two texts. The first ends with a token of the target's, the second with an end token that was the second of four
# drafted and accepted ones.
BY_HAND = (
    row(done(5, 4, 4), done(1, 4, 0), done(3, 4, 2), done(3, 2, 2), done(1)),
    row(done(2, 4, 1), done(2, 4, 2)),
)


def test_the_sums_are_those_counted_by_hand() -> None:
    found = figures(*BY_HAND)
    assert (found["num_spec_steps"], found["num_draft_tokens"], found["num_accepted_draft_tokens"]) == (6, 22, 11)
    assert found["draft_acceptance_rate"] == 0.5
    assert found["acceptance_histogram"] == [1, 1, 3, 0, 1]
    assert found["acceptance_histogram_by_draft_length"] == {"2": [0, 0, 1], "4": [1, 1, 2, 0, 1]}
    assert sum(found["acceptance_histogram"]) == found["num_spec_steps"]


def test_the_mean_length_counts_what_was_emitted_and_not_a_token_that_the_end_forbade() -> None:
    found = figures(*BY_HAND)
    assert found["mean_acceptance_length"] == 16 / 6
    assert found["mean_acceptance_length_vllm"] == 1 + 11 / 6


def test_a_text_that_ends_with_an_accepted_token_says_nothing_of_the_next_one() -> None:
    third = position(figures(*BY_HAND), 3)
    # Five drafts reached position 3. Accepted two before it: 4 of 4, 2 of 4, and 2 of 4 cut there.
    assert (third["steps"], third["tested"], third["accepted"], third["conditional"]) == (5, 2, 1, 0.5)
    # Of these five 4/5 accepted the first, 3/4 then the second, 1/2 of the two that went on the third.
    assert third["joint"] == pytest.approx(4 / 5 * 3 / 4 * 1 / 2)


def test_without_a_cut_the_joint_is_the_plain_share_of_the_drafts_that_reached_the_position() -> None:
    found = figures(row(done(5, 4, 4), done(1, 4, 0), done(3, 4, 2), done(3, 2, 2), done(3, 3, 2)))
    joints = [(entry["steps"], entry["joint"]) for entry in found["per_position"]]
    assert joints == [(5, 4 / 5), (5, 4 / 5), (4, pytest.approx(1 / 4)), (3, pytest.approx(1 / 3))]
    assert [entry["conditional"] for entry in found["per_position"]] == [4 / 5, 1, 1 / 3, 1]


def test_a_text_that_ends_with_a_token_of_the_targets_is_not_cut() -> None:
    second = position(figures(row(done(2, 4, 1))), 2)
    assert (second["tested"], second["accepted"], second["conditional"], second["joint"]) == (1, 0, 0, 0)


def test_a_round_that_emits_only_accepted_tokens_is_cut_only_at_the_end_of_its_text() -> None:
    found = figures(row(done(2, 4, 2), done(1, 4, 0)), row(done(2, 4, 2)))
    third = position(found, 3)
    assert (third["tested"], third["accepted"]) == (1, 0)
    assert [step.cut for step in steps(row(done(2, 4, 2), done(2, 4, 2)))] == [False, True]


def test_rounds_that_drafted_nothing_are_no_steps() -> None:
    assert figures(row(done(3, 2, 2), done(1))) == figures(row(done(3, 2, 2)))
    assert [step.accepted for step in steps(row(done(1), done(3, 2, 2), done(1)))] == [2]


def test_decoders_that_draft_nothing_have_no_acceptance() -> None:
    assert acceptance([row(done(1), done(1)), row(done(1))]) is None


def test_positions_that_nothing_came_to_are_null_with_a_reason() -> None:
    cut = position(figures(row(done(1, 3, 1))), 2)
    assert (cut["steps"], cut["tested"], cut["conditional"], cut["joint"]) == (1, 0, None, None)
    assert cut["conditional_reason"] and cut["joint_reason"]
    refused = position(figures(row(done(1, 3, 0))), 2)
    assert (refused["conditional"], refused["joint"], refused["joint_reason"]) == (None, 0, None)


def test_trees_have_nodes_and_depth() -> None:
    found = figures(row(done(4, 4, 3, nodes=20), done(1, 3, 0, nodes=12)), row(done(2, 4, 1, nodes=22)))
    assert (found["drafted_nodes_per_step"], found["draft_depth_per_step"]) == (18, 11 / 3)


def simulated(chance: random.Random, acceptances: list[float], ending: float) -> Row:
    """A text of a chain drafter: token i is accepted with ``acceptances[i]``, each accepted one may end the text."""
    rounds = []
    while True:
        drafted = chance.randint(1, len(acceptances))
        accepted = 0
        while accepted < drafted and chance.random() < acceptances[accepted]:
            accepted += 1
            if chance.random() < ending:
                return row(*rounds, done(accepted, drafted, accepted))
        rounds.append(done(accepted + 1, drafted, accepted))


def test_a_simulated_chain_shows_the_acceptance_that_it_was_given() -> None:
    # A tenth of all accepted tokens end their text; taken for refusals, these ends would pull every figure down.
    truth, chance = [0.9, 0.8, 0.5, 0.7], random.Random(1)
    found = figures(*(simulated(chance, truth, 0.1) for _ in range(4000)))
    joint = 1.0
    for i, p in enumerate(truth, start=1):
        joint *= p
        entry = position(found, i)
        assert entry["conditional"] == pytest.approx(p, abs=0.02)
        assert entry["joint"] == pytest.approx(joint, abs=0.02)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_writes_rounds_that_the_figures_take(name: str) -> None:
    target = llama()
    draft, decoder = noisy(target, llama), from_yaml(name)
    outputs = [
        write(
            decoder, target, draft, [i, 1], limit=11, eos=range(VOCABULARY - 9, VOCABULARY), sampling=Sampling(), seed=i
        )
        for i in range(4)
    ]
    rows = [row(*map(as_row, output.rounds)) for output in outputs]
    found = acceptance(rows)
    if found is None:
        assert not any(step.drafted for output in outputs for step in output.rounds)
        return
    assert found["num_accepted_draft_tokens"] == sum(step.accepted for output in outputs for step in output.rounds)
    assert all(step.accepted <= min(step.drafted, step.tokens) for one in rows for step in steps(one))
    joints = [entry["joint"] for entry in found["per_position"] if entry["joint"] is not None]
    assert all(0 <= joint <= 1 for joint in joints)

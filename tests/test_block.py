"""Block verification: the law, the gain over token-wise verification, and wrong rules that are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import baselines.block as module
from baselines import speculative
from baselines.block import Block
from baselines.speculative import Speculative
from mtad.decoder import Rounds, Text
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.session import Reader
from mtad.tree import Tree
from tests.fakes import StubModel, TableModel, llama, noisy
from tests.helpers import PURE, write
from tests.laws import PAIRS, REFUTED, START, WARPS, P, Q, error, mean_accepted, one_round, p_value


@pytest.mark.parametrize("sampling", [PURE, *WARPS], ids=str)
@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_the_first_tokens_have_exactly_the_targets_law(gamma: int, sampling: Sampling) -> None:
    for target, draft in PAIRS.values():
        assert error(Block(gamma), min(gamma + 1, 3), sampling, target, draft) < 1e-12


# -- against token-wise verification ---------------------------------------------------------------------------------


def test_the_example_of_two_tokens_accepts_eleven_ninths_where_token_wise_accepts_ten_ninths() -> None:
    target, draft = [[1, 2]] * 2, [[2, 1]] * 2  # the paper's: independent tokens, p(a) = 1/3, q(a) = 2/3
    token_wise, block = (mean_accepted(rule(2), target=target, draft=draft) for rule in (Speculative, Block))
    assert (token_wise, block) == (pytest.approx(10 / 9), pytest.approx(11 / 9))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("sampling", [PURE, *WARPS], ids=str)
def test_block_accepts_on_average_at_least_what_token_wise_accepts(pair: str, sampling: Sampling) -> None:
    for gamma in (1, 2, 3):
        token_wise, block = (mean_accepted(rule(gamma), sampling, *PAIRS[pair]) for rule in (Speculative, Block))
        assert block > token_wise - 1e-9, f"gamma {gamma}: block {block:.4f}, token-wise {token_wise:.4f}"
        if gamma == 1:
            assert block == pytest.approx(token_wise)  # nothing to make up for


@pytest.mark.parametrize(("gamma", "gain"), [(2, 0.07), (3, 0.16), (4, 0.25)])
def test_the_gain_is_strict_and_grows_with_the_draft(gamma: int, gain: float) -> None:
    token_wise, block = mean_accepted(Speculative(gamma)), mean_accepted(Block(gamma))
    assert block - token_wise > gain, f"gamma {gamma}: block {block:.4f}, token-wise {token_wise:.4f}"


def test_simulated_texts_accept_more_in_fewer_rounds() -> None:
    target, draft = TableModel(P), TableModel(Q)
    accepted, rounds = {}, {}
    for decoder in (Speculative(4), Block(4)):
        steps = [step for seed in range(40) for step in write(decoder, target, draft, limit=60, seed=seed).rounds]
        accepted[type(decoder)], rounds[type(decoder)] = np.mean([step.accepted for step in steps]), len(steps)
    assert accepted[Block] > accepted[Speculative] + 0.1, accepted
    assert rounds[Block] < rounds[Speculative], rounds


# -- the rule by hand ------------------------------------------------------------------------------------------------


def test_a_likely_second_token_rescues_an_unlikely_first_one() -> None:
    target, draft = [[1, 3], [3, 1]], [[1, 1], [1, 1]]
    accepted = dict.fromkeys(range(3), 0.0)
    for probability, step in one_round(Block(2), target=target, draft=draft):
        accepted[step.accepted] += probability
    # Drafts 00, 01, 10, 11 have probability 1/4 each; w_1 is 1/2 after 0, else 1; w_2 is 1/4, 3/4, 1, 1/2.
    assert accepted[2] == pytest.approx((0.25 + 0.75 + 1 + 0.5) / 4)
    # S_1 is 0 after 0 (p/2 is nowhere above q); after 1 w_1 = 1, so the first token is always kept.
    assert accepted[1] == pytest.approx((0 + 0 + 0 + 0.5) / 4)


@dataclass(frozen=True)
class Given:
    """Luck with given acceptance uniforms, by position in the round."""

    accepts: list[float]

    def accept(self, position: int, start: int, index: int = 0) -> float:
        return self.accepts[position - start]

    def last(self, position: int) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("accepts", "kept"), [([0.99, 0.07], 2), ([0.23, 0.08], 1), ([0.24, 0.08], 0), ([0.0, 0.07], 2)]
)
def test_the_longest_prefix_whose_own_uniform_is_below_its_own_h_is_kept(accepts: list[float], kept: int) -> None:
    chain = Tree.chain([0, 0])
    p = Law(None, np.log([[0.4, 0.6], [0.1, 0.9], [0.5, 0.5]]))
    q = Law(None, np.log([[0.8, 0.2], [0.7, 0.3]]))
    # w is 1, 1/2, 1/14; S_1 = 0.9 / 2 - 0.3 = 0.15; h_1 = 0.15 / (0.15 + 0.5) = 0.2308, h_2 = 0.0714.
    text = Text([START], 9, frozenset(), Given(accepts), False, lambda new: False)  # type: ignore[arg-type]
    assert module.verify_block(text, chain, p, q).accepted == kept


def test_a_draft_that_ended_in_an_end_token_is_a_whole_draft_and_gets_no_extra_token() -> None:
    model, same = (
        StubModel(3, lambda context: [0.0, 0.0, 1.0] if len(context) == 3 else [1.0, 0.0, 0.0]) for _ in "pq"
    )
    output = write(Block(4), model, same, limit=9, eos=[2])
    assert output.tokens == (0, 0, 2)
    assert output.rounds[0].accepted == output.rounds[0].drafted == len(output.tokens)


def test_equal_models_accept_everything() -> None:
    target = llama()
    output = write(Block(4), target, noisy(target, llama, 0.0), limit=30, sampling=Sampling())
    assert all(step.accepted == step.drafted for step in output.rounds[:-1])


def test_a_gamma_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="gamma must be a number >= 1"):
        Block(gamma=0)


# -- planted wrong rules ---------------------------------------------------------------------------------------------

right = module.surplus
FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "the residual of token-wise verification": {"surplus": lambda p, q, node, w: right(p, q, node, 1.0)},
    "h of a prefix is its weight": {"restart": lambda w, s: w},
    "h without what is refused": {"restart": lambda w, s: s / (s + 1.0)},
    "h of the position before": {"surplus": lambda p, q, node, w: right(p, q, max(node - 1, 0), w)},
    "the residual is p": {"residual_draw": lambda p, q, node, uniform, w: p.draw(node, uniform)},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_wrong_rules_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(Block(3), 3) < 1e-12
    for name, wrong in FAULTS[fault].items():
        for rule in (module, speculative):  # the residual of both is one function
            monkeypatch.setattr(rule, name, wrong, raising=rule is module)
    assert error(Block(3), 3) > 1e-3
    assert p_value(Block(3)) < REFUTED  # the statistical test sees it as well


@dataclass(frozen=True)
class Startless(Luck):
    """Acceptance uniforms that do not know where their round began, so that the next round meets them again."""

    def accept(self, position: int, start: int, index: int = 0) -> float:
        return super().accept(position, 0, index)


class Reusing(Block):
    """Block verification with such uniforms."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        luck = Startless(text.luck.seed, text.luck.prompt)
        return (yield from super().round(replace(text, luck=luck), target, draft))


def test_an_acceptance_uniform_that_the_next_round_meets_again_is_caught() -> None:
    assert p_value(Block(3), texts=4000) > REFUTED
    assert p_value(Reusing(3), texts=4000) < REFUTED

"""Lossless decoders sample the target's law over several tokens and rounds, and the same test catches wrong rules.

Every lossless decoder with a YAML is found and tested; its options are made small by their names (`variants`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative, residual_draw
from mtad.decoder import Decoder, Round, Rounds, Source, Text
from mtad.drafting import OneEach, grow
from mtad.law import Law, Sampling
from mtad.mtad import Mmtad, Mtad
from mtad.session import Reader
from mtad.tree import ROOT, Tree
from tests.fakes import TableModel, llama, noisy, opt
from tests.helpers import LOSSLESS, PURE, from_yaml, write
from tests.laws import LENGTH, PAIRS, REFUTED, WARPS, P, Q, error, p_value, write_all

SMALL = {"gamma": 2, "width": 2, "branching": (2, 2)}
OTHERS = {"gamma": (1, 3), "width": (1, 4), "branching": ((1,), (3, 2))}


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Small options of a decoder, and each with one of them changed, by label; of a choice every value."""
    kind = type(from_yaml(name))
    types, names = get_type_hints(kind), [option.name for option in dataclasses.fields(kind)]  # type: ignore[arg-type]
    small = {option: SMALL[option] for option in names if option in SMALL}
    found = {name: small}
    for option in names:
        values: tuple[Any, ...] = OTHERS.get(option, ())
        if types[option] is bool:
            values = (False, True)
        if get_origin(types[option]) is Literal:
            values = get_args(types[option])
        found |= {f"{name} {option}={value}": {**small, option: value} for value in values}
    return found


VARIANTS = {label: (name, options) for name in LOSSLESS for label, options in variants(name).items()}


def small(name: str, **options: object) -> Decoder:
    return from_yaml(name, **{**variants(name)[name], **options})


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_decoders_sample_the_targets_law_over_rounds(name: str) -> None:
    assert p_value(small(name)) > REFUTED


@pytest.mark.parametrize("label", VARIANTS)
def test_they_do_whatever_their_options(label: str) -> None:
    name, options = VARIANTS[label]
    assert p_value(from_yaml(name, **options), texts=500) > REFUTED


@pytest.mark.parametrize("sampling", WARPS, ids=str)
@pytest.mark.parametrize("name", LOSSLESS)
def test_they_sample_warped_laws(name: str, sampling: Sampling) -> None:
    assert p_value(small(name), sampling, texts=500) > REFUTED


@pytest.mark.parametrize("pair", ["two tokens", "far draft", "peaked draft"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_they_sample_the_law_of_every_pair_of_tables(name: str, pair: str) -> None:
    target, draft = PAIRS[pair]
    wider = {"branching": (3, 2), "width": 4}  # than a vocabulary of two
    options = {option: value for option, value in wider.items() if option in variants(name)[name]}
    assert p_value(small(name, **options), texts=500, target=target, draft=draft) > REFUTED


REPEATING = [name for name in LOSSLESS if f"{name} replacement=True" in VARIANTS]


@pytest.mark.parametrize("name", REPEATING)
def test_repeated_tokens_in_the_tree_leave_the_law_alone(name: str) -> None:
    target, draft = PAIRS["peaked draft"]
    assert p_value(small(name, replacement=True), target=target, draft=draft) > REFUTED


@pytest.mark.parametrize("label", [label for label in VARIANTS if "gamma=3" not in label])  # few enough outcomes
def test_the_first_tokens_have_exactly_the_targets_law(label: str) -> None:
    name, options = VARIANTS[label]
    decoder = from_yaml(name, **options)
    assert error(decoder, 3, PURE, *PAIRS["two tokens"]) < 1e-9
    assert error(decoder, 3, WARPS[0], *PAIRS["peaked draft"]) < 1e-9


@pytest.mark.parametrize("sampling", [PURE, WARPS[0]], ids=str)
@pytest.mark.parametrize("name", LOSSLESS)
def test_the_quick_loop_of_these_tests_writes_what_generate_writes(name: str, sampling: Sampling) -> None:
    quick = list(write_all(small(name), P, Q, sampling, 20, LENGTH))
    target, draft = TableModel(P), TableModel(Q)
    assert quick == [
        write(small(name), target, draft, limit=LENGTH, sampling=sampling, seed=seed).tokens for seed in range(20)
    ]


@pytest.mark.parametrize("decoder", [Mtad(gamma=2, width=2, tau=1), Mmtad(gamma=2, width=2, tau=1)])
def test_joint_decoders_that_accept_nothing_sample_the_targets_law(decoder: Decoder) -> None:
    assert p_value(decoder, texts=1000) > REFUTED


# -- planted wrong rules --------------------------------------------------------------------------------------------


class Wrong(Speculative):
    """A speculative decoder with one fault; `accept`, `correct` and `last` are what a fault changes."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return float(np.exp(p.of(node, np.array([token])) - q.of(node, np.array([token])))[0])

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return residual_draw(p, q, node, uniform)

    def last(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return p.draw(node, uniform)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, OneEach(), min(self.gamma, text.room - 1), text)
        chain, q = drafted.tree, drafted.law
        p = yield target.read(chain)
        node, depth = ROOT, len(chain) - 1
        while node < depth:
            if text.luck.accept(text.start + node, text.start) >= self.accept(p, q, node, chain.tokens[node + 1]):
                break
            node += 1
        uniform = text.luck.last(text.start + node)
        last = (self.correct if node < depth else self.last)(p, q, node, uniform)
        return Round((*chain.path(node), last), (Source.DRAFT,) * node + (Source.TARGET,), depth, node, depth)


class DraftForTarget(Wrong):
    """q for p after a refusal."""

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return q.draw(node, uniform)


class NoResidual(Wrong):
    """p in place of the residual after a refusal."""

    def correct(self, p: Law, q: Law, node: int, uniform: float) -> int:
        return p.draw(node, uniform)


class OffByOne(Wrong):
    """The ratio is taken from the row after the token, not from the row before it."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return super().accept(p.take([*range(1, len(p)), 0]), q, node, token)


class AcceptsAll(Wrong):
    """Every draft is accepted."""

    def accept(self, p: Law, q: Law, node: int, token: int) -> float:
        return 2.0


class ReusedLuck(Wrong):
    """The last token is drawn with the uniform that refused the draft."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        class Same:
            accept, draft = text.luck.accept, text.luck.draft

            def last(self, position: int) -> float:
                return text.luck.accept(position, text.start)

        same = Text(text.tokens, text.room, text.eos, Same(), text.greedy, text.ends)  # type: ignore[arg-type]
        return (yield from super().round(same, target, draft))


class LastFromDraft(Mtad):
    """q for p: the draft model verifies itself."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return super().round(text, draft, draft)


class LastOffByOne(Mmtad):
    """The last token is drawn from the row of another node."""

    def _accepted(self, text: Text, tree: Tree, p: Law, node: int) -> Round:
        return super()._accepted(text, tree, p.take([*range(1, len(p)), 0]), node)


@pytest.mark.parametrize("fault", [LastFromDraft(gamma=2, width=2, tau=1), LastOffByOne(gamma=2, width=2, tau=1)])
def test_planted_wrong_rules_of_joint_decoders_are_caught(fault: Decoder) -> None:
    assert p_value(fault) < REFUTED


def test_the_wrong_rules_differ_from_the_right_one_by_their_fault_alone() -> None:
    assert p_value(Wrong(gamma=2)) > REFUTED


@pytest.mark.parametrize("fault", [DraftForTarget, NoResidual, OffByOne, AcceptsAll, ReusedLuck])
def test_planted_wrong_rules_are_caught(fault: type[Wrong]) -> None:
    assert p_value(fault(gamma=2)) < REFUTED


@pytest.mark.parametrize("decoder", [Mtad(gamma=2, width=3, tau=0.5), Mmtad(gamma=2, width=3, tau=0.5)])
def test_a_lossy_decoder_is_caught_too(decoder: Decoder) -> None:
    assert p_value(decoder) < REFUTED


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("decoder", [Mtad(tau=1), Mtad(tau=2.5, gamma=3), Mmtad(tau=1), Mmtad(tau=1, reference="own")])
def test_joint_decoders_that_accept_nothing_equal_autoregressive_token_for_token(make, decoder: Decoder) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    for seed in range(2):
        alone = write(Autoregressive(), target, draft, limit=24, eos=[7], sampling=Sampling(), seed=seed)
        assert write(decoder, target, draft, limit=24, eos=[7], sampling=Sampling(), seed=seed).tokens == alone.tokens


GREEDY = Sampling(greedy=True)


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("name", LOSSLESS)
def test_greedy_lossless_decoders_equal_greedy_autoregressive(make, name: str) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    for first, eos in ((0, [7]), (2, range(0, 60, 4))):  # the second ends soon, often inside a draft
        run: dict[str, Any] = {"prompt": [first, 3], "limit": 24, "eos": eos, "sampling": GREEDY}
        alone, assisted = (write(d, target, draft, **run) for d in (Autoregressive(), from_yaml(name)))
        assert assisted.tokens == alone.tokens and assisted.finish == alone.finish
        if from_yaml(name).drafts and len(alone.tokens) > 4:
            assert assisted.target.forwards < alone.target.forwards


@pytest.mark.parametrize("label", VARIANTS)
def test_greedy_lossless_decoders_do_so_whatever_their_options(label: str) -> None:
    name, options = VARIANTS[label]
    for target, draft in PAIRS.values():
        models = TableModel(target), TableModel(draft)
        for first, end in ((0, []), (1, [0])):
            run: dict[str, Any] = {"prompt": [first], "limit": 7, "eos": end, "sampling": GREEDY}
            alone, assisted = (write(d, *models, **run) for d in (Autoregressive(), from_yaml(name, **options)))
            assert assisted.tokens == alone.tokens and assisted.finish == alone.finish

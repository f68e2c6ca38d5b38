"""Drafting rules at their edges, and how many nodes a draft counts as."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.spectr import SpecTr
from mtad.decoder import Source
from mtad.drafting import Branch
from mtad.law import Law
from mtad.tree import ROOT, Tree
from tests.fakes import TableModel
from tests.helpers import from_yaml, write

TABLE = [[1, 2, 5], [6, 1, 1], [2, 4, 2]]
FAR = [[4, 3, 1], [2, 2, 4], [1, 1, 6]]


def test_equal_siblings_are_counted_once_among_the_nodes() -> None:
    target, draft = TableModel(TABLE), TableModel(FAR)
    output = write(SpecTr(gamma=2, width=16), target, draft, limit=30)
    for step in output.rounds:
        assert step.nodes <= 3 + 9
    fed = sum(step.nodes + 1 for step in output.rounds)  # the text's last token is fed with each draft
    assert output.target.nodes <= fed


@pytest.mark.parametrize("rule", [Branch((3, 2)), Branch((3, 2), replacement=True)])
def test_what_is_too_improbable_for_a_number_is_never_drawn(rule: Branch) -> None:
    tree, law = Tree(), Law(None, np.array([[0.0, -800.0, -900.0]]))
    nodes = rule(tree, law, [ROOT], lambda index: 0.999)
    assert {tree.tokens[node] for node in nodes} == {0} and len(nodes) == (3 if rule.replacement else 1)


@pytest.mark.parametrize("name", ["speculative", "block", "specinfer", "mcss", "spectr", "multipath"])
def test_the_last_token_is_a_correction_exactly_where_drafted_tokens_were_refused(name: str) -> None:
    target, draft = TableModel(TABLE), TableModel(FAR)
    steps = [step for seed in range(10) for step in write(from_yaml(name), target, draft, limit=30, seed=seed).rounds]
    whole = [step for step in steps if len(step.tokens) == step.accepted + 1]  # not cut by the limit
    assert {step.accepted < step.drafted for step in whole} == {True, False}
    for step in whole:
        assert step.sources[-1] == (Source.CORRECTED if step.accepted < step.drafted else Source.TARGET)

"""Laws, warps, trees and counted randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mtad.errors import UserError
from mtad.law import Law, Sampling, Warp, inverse_cdf
from mtad.luck import Luck
from mtad.tree import Tree


def dense(law: Law, vocabulary: int) -> np.ndarray:
    return np.stack([np.exp(law.of(row, np.arange(vocabulary))) for row in range(len(law))])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 10, 100]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_warp_equals_hugging_face(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    theirs = torch.softmax(warpers(torch.zeros(5, 1, dtype=torch.long), logits.clone()).double(), -1).numpy()
    ours = dense(Warp(temperature, top_k, top_p)(logits), 40)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 3, 5])
def test_ties_at_the_edge_of_top_k_go_to_smaller_ids(top_k: int) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 2.0, 0.0]])
    ids, _ = Warp(top_k=top_k)(logits).row(0)
    assert ids.tolist() == ([1, 2, 3, 4, 0][:top_k] if top_k < 5 else [0, 1, 2, 3, 4])


def test_a_law_answers_alike_dense_and_truncated() -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    full, cut = Warp()(logits), Warp(top_k=30)(logits)
    tree = Tree()
    for token in (3, 29, 0):
        tree.add(len(tree) - 1, token)
    np.testing.assert_allclose(full.edges(tree), cut.edges(tree), atol=1e-6)
    assert [full.draw(2, u / 50) for u in range(50)] == [cut.draw(2, u / 50) for u in range(50)]
    assert full.best(1) == cut.best(1) == int(logits[1].argmax())


def test_a_token_outside_the_support_has_probability_zero_and_is_never_drawn() -> None:
    law = Warp(top_k=2)(torch.tensor([[0.0, 5.0, 1.0, 4.0]]))
    assert law.of(0, np.array([0, 2])).tolist() == [-np.inf, -np.inf]
    assert {law.draw(0, u) for u in np.linspace(0, 1, 99, endpoint=False)} == {1, 3}


def test_inverse_cdf_never_picks_a_weight_of_zero() -> None:
    weights = np.array([0.0, 0.2, 0.0, 0.8, 0.0])
    assert inverse_cdf(weights, 0.0) == 1
    assert inverse_cdf(weights, np.nextafter(1.0, 0)) == 3


def test_tree_joint_sums_edges_over_ancestors() -> None:
    law = Law(None, np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]])))
    tree = Tree()
    a, b = tree.add(0, 0), tree.add(0, 1)
    c = tree.add(b, 0)
    np.testing.assert_allclose(np.exp(tree.joint(law)), [1, 0.5, 0.5, 0.5 * 0.1])
    assert tree.path(c) == [1, 0] and tree.leaves() == [a, c] and tree.children(0) == [a, b]


def test_uniforms_depend_on_their_address_alone() -> None:
    luck = Luck(1, "p", 2)
    assert luck.last(5) == Luck(1, "p", 2).last(5)
    others = [Luck(2, "p", 2).last(5), Luck(1, "q", 2).last(5), Luck(1, "p", 3).last(5), luck.last(6)]
    others += [luck.draft(5, 5), luck.accept(5, 5), luck.draft(5, 4), luck.accept(5, 4), luck.draft(5, 5, 1)]
    assert len({luck.last(5), *others}) == len(others) + 1


def test_uniforms_are_uniform() -> None:
    values = np.array([Luck(0, "p").last(i) for i in range(20000)])
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square with 19 degrees of freedom, p about 0.001


def test_greedy_sampling_is_argmax_for_single_tokens_and_temperature_one_for_joints() -> None:
    greedy = Sampling(temperature=0.3, greedy=True)
    assert greedy.warp(joint=False) == Warp(top_k=1)
    assert greedy.warp(joint=True) == Warp(1.0, 10, 0.9)


@pytest.mark.parametrize("bad", [{"temperature": 0}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_illegal_sampling_is_named(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"sampling.{next(iter(bad))}"):
        Sampling(**bad)  # type: ignore[arg-type]


def test_more_ties_than_the_margin_go_to_smaller_ids_too() -> None:
    ids, _ = Warp(top_k=10)(torch.zeros(1, 1000)).row(0)
    assert ids.tolist() == list(range(10))

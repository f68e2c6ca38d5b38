"""Sessions: whatever is read and committed, the laws are those of the whole text computed afresh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtad.model import CausalModel
from mtad.serving import serve
from mtad.session import Session
from mtad.tree import Tree
from tests.fakes import Recomputed, TableModel, llama, opt

MODELS = {"llama": llama(rows=3), "opt": opt(rows=3)}


def random_tree(data: st.DataObject, nodes: int) -> Tree:
    tree = Tree()
    for _ in range(data.draw(st.integers(0, nodes))):
        tree.add(data.draw(st.integers(0, len(tree) - 1)), data.draw(st.integers(0, 2)))
    return tree


def expected(model: CausalModel, session: Session, tree: Tree) -> np.ndarray:
    again = Recomputed(model)
    rows = [again.logits([*session.text, *tree.path(node)]) for node in range(len(tree))]
    return np.stack([row.double().log_softmax(-1).numpy() for row in rows])


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_sequence_of_reads_and_commits_gives_the_laws_of_the_text(family: str, data: st.DataObject) -> None:
    model = MODELS[family]
    session = Session(model, row=1)
    session.open(data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=12)))
    for _ in range(data.draw(st.integers(1, 5))):
        tree = random_tree(data, 9)
        np.testing.assert_allclose(serve([session.read(tree)])[0].logp, expected(model, session, tree), atol=1e-4)
        if data.draw(st.booleans()):
            further = random_tree(data, 6)  # another tree from the same text, partly read already
            law = serve([session.read(further)])[0]
            np.testing.assert_allclose(law.logp, expected(model, session, further), atol=1e-4)
        path = tree.path(data.draw(st.integers(0, len(tree) - 1)))
        session.commit(path + data.draw(st.lists(st.integers(0, 59), max_size=2)))


@pytest.mark.parametrize("make", [llama, opt])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_texts_of_any_shape_share_forwards_while_the_cache_grows(make, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtad.cache.STEP", 16)
        patch.setattr("mtad.session.TREE_ROOM", 0)
        model = make(rows=4)
        sessions = [Session(model, row) for row in range(4)]
        for session in sessions:
            session.open(data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=12)))
        for _ in range(4):
            some = data.draw(st.lists(st.sampled_from(sessions), min_size=1, unique_by=id))
            trees = [random_tree(data, 7) for _ in some]
            laws = serve([session.read(tree) for session, tree in zip(some, trees, strict=True)])
            for session, tree, law in zip(some, trees, laws, strict=True):
                np.testing.assert_allclose(law.logp, expected(model, session, tree), atol=1e-4)
                path = tree.path(data.draw(st.integers(0, len(tree) - 1)))
                session.commit(path + data.draw(st.lists(st.integers(0, 59), max_size=2)))


def test_a_session_waits_for_one_read_at_a_time() -> None:
    session = Session(TableModel([[1, 2], [2, 1]]))
    session.open([0])
    with pytest.raises(ValueError, match="one read at a time"):
        serve([session.read(Tree()), session.read(Tree.chain([1]))])


@pytest.mark.parametrize("family", MODELS)
def test_two_texts_of_different_lengths_and_trees_share_one_forward(family: str) -> None:
    model = MODELS[family]
    texts = [Session(model, row) for row in (0, 2)]
    texts[0].open([5, 4, 3, 2, 1, 0, 1, 2, 3])
    texts[1].open([7])
    trees = [Tree.chain([1]), Tree.of_paths([[1, 2, 3], [1, 2, 4], [9]])]
    forwards = [session.counts.forwards for session in texts]
    for session, tree, law in zip(
        texts, trees, serve([s.read(t) for s, t in zip(texts, trees, strict=True)]), strict=True
    ):
        np.testing.assert_allclose(law.logp, expected(model, session, tree), atol=1e-4)
    assert [session.counts.forwards for session in texts] == [count + 1 for count in forwards]


def test_a_node_is_computed_once_however_often_it_is_read() -> None:
    model = TableModel([[1, 2], [2, 1]])
    session = Session(model)
    session.open([0, 1])
    tree = Tree.chain([0, 1])
    serve([session.read(tree)])
    tree.add(2, 0)
    serve([session.read(tree)])
    serve([session.read(Tree.chain([0]))])
    assert session.counts.forwards == 2
    assert session.counts.nodes == 1 + 2 + 1  # the last prompt token, two nodes, one more


def test_commit_of_nothing_drops_the_tree_but_not_the_text() -> None:
    model = TableModel([[1, 2], [2, 1]])
    session = Session(model)
    session.open([0, 1])
    serve([session.read(Tree.chain([0, 1]))])
    session.commit([])
    assert session.text == [0, 1]
    serve([session.read(Tree.chain([0, 1]))])
    assert session.counts.nodes == 1 + 2 + 2  # the nodes are computed again, the root is not


def test_equal_siblings_share_a_slot_and_survive_a_commit() -> None:
    model = MODELS["llama"]
    session = Session(model)
    session.open([3, 1])
    tree = Tree()
    first, second = tree.add(0, 5), tree.add(0, 5)
    tree.add(first, 6)
    tree.add(second, 7)
    np.testing.assert_allclose(serve([session.read(tree)])[0].logp, expected(model, session, tree), atol=1e-4)
    session.commit([5, 7])
    np.testing.assert_allclose(serve([session.read(Tree())])[0].logp, expected(model, session, Tree()), atol=1e-4)


def test_the_cache_grows_past_its_step() -> None:
    model = llama()
    session = Session(model)
    session.open([i % 50 for i in range(250)])
    tree = Tree.chain([i % 7 for i in range(40)])
    np.testing.assert_allclose(serve([session.read(tree)])[0].logp, expected(model, session, tree), atol=1e-4)


def test_prefill_is_chunked_and_not_counted() -> None:
    model = TableModel([[1, 2], [2, 1]])
    session = Session(model)
    session.open([0, 1] * 700)
    assert len(model.batches) == 3 and session.counts.forwards == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [llama, opt])
def test_reading_in_another_shape_moves_a_logit_by_less_than_the_tolerance(make, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    model = make()
    model = CausalModel(model.lm.to(dtype), model.vocabulary)
    session = Session(model)
    session.open([3, 1, 4, 1, 5, 9, 2, 6])
    tree = Tree.of_paths([[1, 2, 3], [1, 2, 4], [9, 9], [5]])
    serve([session.read(tree)])
    read = torch.cat(session.chunks(0)).float()
    again = Recomputed(model)
    slots = session.slots(tree)
    fresh = torch.stack([again.logits([*session.text, *tree.path(node)]) for node in range(len(tree))]).float()
    assert (read[slots] - fresh).abs().max() < model.tolerance

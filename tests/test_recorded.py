"""Recorded forwards are the model's, whatever the shape; what cannot be recorded runs eagerly, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from mtad.cache import STEP
from mtad.decoder import Decoder
from mtad.generate import Output
from mtad.graphs import SIZES, Graphs
from mtad.law import Sampling
from mtad.model import CausalModel
from mtad.serving import serve
from mtad.session import Session
from mtad.tree import Tree
from tests.fakes import VOCABULARY, llama, noisy, opt
from tests.helpers import DECODERS, from_yaml, write
from tests.replayed import ReplayedModel

FAMILIES = {"llama": llama, "opt": opt}
GREEDY = Sampling(greedy=True)


@cache
def pair(engine: str) -> tuple[CausalModel, CausalModel]:
    """One pair of weights behind an engine."""
    models = llama(0), noisy(llama(0), llama)
    if engine == "graphs":
        return ReplayedModel.of(models[0]), ReplayedModel.of(models[1])
    target, draft = (CausalModel(one.lm, one.vocabulary, engine=engine) for one in models)  # type: ignore[arg-type]
    return target, draft


ENGINES: tuple[Any, Any] = ("eager", "recorded")


def behind(family: str, rows: int) -> dict[str, CausalModel]:
    """The same weights behind every engine."""
    lm = FAMILIES[family](rows=rows).lm
    recorded = {name: CausalModel(lm, VOCABULARY, rows, name) for name in ENGINES}
    return {**recorded, "graphs": ReplayedModel(lm, VOCABULARY, rows)}


def laws(model: CausalModel, steps: Sequence[Sequence[tuple[int, Tree]]], prompts: Sequence[list[int]]) -> np.ndarray:
    """The laws of several steps of reads by rows of the cache, which commit the first path that they read."""
    sessions = [Session(model, row) for row in range(len(prompts))]
    for session, prompt in zip(sessions, prompts, strict=True):
        session.open(prompt)
    found = []
    for step in steps:
        found += [law.logp for law in serve([sessions[row].read(tree) for row, tree in step])]
        for row, tree in step:
            sessions[row].commit([*tree.path(len(tree) - 1), 5])
    return np.concatenate(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_engine_gives_the_same_laws_over_shapes_and_idle_rows(family: str) -> None:
    wide = Tree.of_paths([[1, 2, 3], [1, 4], [6], [7, 8, 9, 10]])
    steps = [
        [(0, Tree())],
        [(0, wide), (2, Tree.chain([4]))],  # row 1 idles
        [(1, Tree.chain(range(12)))],
        [(0, Tree()), (1, Tree()), (2, Tree())],  # two tokens each, or one
        [(2, Tree.chain(range(50)))],
    ]
    prompts = [[3], list(range(40)), [5, 6, 7]]
    models = behind(family, 3)
    found = {name: laws(model, steps, prompts) for name, model in models.items()}
    assert [model.engine for model in models.values()] == ["eager", "traced", "graphs"]
    assert all(model.fallback is None for model in models.values())
    for name in ("recorded", "graphs"):
        np.testing.assert_allclose(found[name], found["eager"], atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_every_engine_writes_the_same_tokens(name: str) -> None:
    def texts(engine: str) -> list[Output]:
        decoder = from_yaml(name)
        return [
            write(decoder, *pair(engine), [3, 5, 7], limit, [7], sampling=sampling)
            for sampling, limit in ((GREEDY, 6), (Sampling(top_k=5), 9))
        ]

    expected = [output.tokens for output in texts("eager")]
    for engine in ("recorded", "graphs"):
        assert [output.tokens for output in texts(engine)] == expected, engine


def test_the_cache_may_grow_in_the_middle_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtad.cache.STEP", 16)
    monkeypatch.setattr("mtad.graphs.STEP", 16)
    monkeypatch.setattr("mtad.session.TREE_ROOM", 0)
    monkeypatch.setattr("mtad.session.Session.open", opened_without_room)
    models = behind("llama", 1)
    found = {}
    for name, model in models.items():
        draft = ReplayedModel.of(model) if name == "graphs" else CausalModel(model.lm, VOCABULARY, 1, ENGINES[0])
        decoder = from_yaml("mtad", width=4, gamma=3)
        found[name] = write(decoder, model, draft, [3, 5, 7], 40, sampling=Sampling()).tokens
        assert model.cache.capacity > 32
    assert found["recorded"] == found["eager"] and found["graphs"] == found["eager"]


def opened_without_room(session: Session, prompt: Sequence[int], room: int = 0) -> None:
    really_open(session, prompt)


really_open = Session.open


class Branching(LlamaForCausalLM):
    """Computes something else for texts of more than 100 tokens: a branch that a trace takes only one way."""

    def forward(self, *args: Any, **more: Any) -> Any:
        output = super().forward(*args, **more)
        if more["position_ids"].max() > 100:
            output.logits = -output.logits
        return output


class Baked(LlamaForCausalLM):
    """Has the shape of the first input in the trace."""

    def forward(self, *args: Any, **more: Any) -> Any:
        output = super().forward(*args, **more)
        size = int(more["input_ids"].shape[1])
        output.logits = output.logits.reshape(-1, size, output.logits.shape[2])
        return output


class Refusing(LlamaForCausalLM):
    """Cannot be traced at all."""

    def forward(self, *args: Any, **more: Any) -> Any:
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise NotImplementedError
        return super().forward(*args, **more)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Branching, "differs"), (Baked, "RuntimeError"), (Refusing, "NotImplementedError")]
)
def test_a_model_that_cannot_be_traced_runs_eagerly_and_says_why(kind: Any, reason: str) -> None:
    made = llama(0).lm
    lm = kind(made.config)
    lm.load_state_dict(made.state_dict())
    found = []
    for engine in ENGINES:
        model = CausalModel(lm, VOCABULARY, engine=engine)
        found.append(write(from_yaml("autoregressive"), model, model, [3, 5] * 48, 12, sampling=GREEDY).tokens)
    assert model.engine == "eager" and found[0] == found[1]
    assert model.fallback is not None and reason in model.fallback and "\n" not in model.fallback


def test_a_shape_that_cannot_be_captured_runs_eagerly_and_the_others_do_not() -> None:
    target, draft = (ReplayedModel.of(model) for model in pair("eager"))
    target.refused = 5
    outputs = [write(from_yaml("speculative", gamma=4), target, draft, [3], 12, sampling=Sampling())]
    outputs.append(write(from_yaml("speculative", gamma=4), *pair("eager"), [3], 12, sampling=Sampling()))
    assert outputs[0].tokens == outputs[1].tokens
    assert target.fallback == "some forwards run eagerly: refused" and draft.fallback is None
    assert target.replayed.captured


def test_what_is_too_large_for_graphs_is_read_eagerly_and_said() -> None:
    target, _ = pair("eager")
    models = ReplayedModel.of(target), CausalModel(target.lm, VOCABULARY, engine="eager")
    tree = Tree.chain([token % VOCABULARY for token in range(SIZES[-1])])
    ours, theirs = (laws(model, [[(0, Tree())], [(0, tree)]], [[1, 2]]) for model in models)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert models[0].fallback == "forwards of more than 128 tokens of a text run eagerly"


def test_graphs_are_captured_once_for_each_shape_and_at_once_for_all_longer_texts() -> None:
    model = ReplayedModel.of(pair("eager")[0], rows=2)
    model.reserve(2 * STEP + 9)  # 768
    decoder: Decoder = from_yaml("autoregressive")
    write(decoder, model, model, [1, 2, 3], 5)
    assert model.replayed.captured == [((1, 1), end) for end in (256, 512, 768)]
    write(decoder, model, model, [1, 2, 3] * 90, 5)
    assert len(model.replayed.captured) == 3
    model.reserve(3 * STEP + 9)  # other slabs, perhaps where some that are gone have been
    assert not model.replayed._graphs


def test_few_shapes_hold_all_sizes_ends_and_rows() -> None:
    graphs = object.__new__(Graphs)
    for capacity in (256, 768, 4096):
        ends = [graphs.end(positions, capacity) for positions in range(1, capacity + 1)]
        assert all(end >= positions for positions, end in enumerate(ends, 1))
        assert ends[-1] == capacity and len(set(ends)) <= 5
    assert [graphs.size(new) for new in (1, 3, 5, 33, 65, 128, 129)] == [1, 4, 5, 64, 128, 128, 129]
    spans = {graphs.span(range(a, b), 12) for a in range(12) for b in range(a + 1, 13)}
    assert spans == {range(rows) for rows in (1, 2, 4, 8, 12)}
    assert all(graphs.span(range(a, b), 12).stop >= b for a in range(12) for b in range(a + 1, 13))

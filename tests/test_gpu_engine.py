"""CUDA graphs compute what the model computes, captured once; a whole draft is grown without waiting for the device."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mtad.batch import write_batch
from mtad.clock import Span
from mtad.ending import Limits
from mtad.feeds import Feed
from mtad.generate import writing
from mtad.growth import Growth
from mtad.law import Sampling, Warp
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.recorded import Mode
from mtad.session import Session
from tests.fakes import VOCABULARY, llama, noisy, opt
from tests.helpers import DECODERS, from_yaml, spell, write

pytestmark = pytest.mark.gpu
GREEDY = Sampling(greedy=True)
SAMPLED = Sampling(top_k=5)


@cache
def pair(engine: Mode, make: Callable[[int], CausalModel] = llama, rows: int = 1) -> tuple[CausalModel, CausalModel]:
    """A pair in fp32 on the GPU."""
    target = make(0)
    draft = noisy(target, make)
    first, second = (CausalModel(one.lm.to("cuda"), VOCABULARY, rows, engine) for one in (target, draft))
    return first, second


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("name", DECODERS)
def test_graphs_write_the_tokens_of_the_model(name: str, make: Any) -> None:
    for sampling in (GREEDY, SAMPLED):
        ours, theirs = (
            write(from_yaml(name), *pair(engine, make), [3, 5, 7], 20, [7], sampling=sampling).tokens
            for engine in ("recorded", "eager")
        )
        assert ours == theirs
    target, _ = pair("recorded", make)
    assert (target.engine, target.fallback) == ("graphs", None)


@pytest.mark.parametrize("name", ["autoregressive", "speculative", "mtad", "mmtad"])
def test_texts_in_a_batch_are_those_written_alone(name: str) -> None:
    target, draft = pair("recorded", llama, 4)
    prompts = ([1, 2, 3, 4], [9], [5, 6, 7, 8, 9, 10, 11], [3, 3], [12, 4, 1])
    queue = [
        partial(
            lambda t, d, prompt, limit: writing(
                from_yaml(name), t, d, prompt, Limits(limit), SAMPLED, Luck(0, str(prompt)), spell
            ),
            prompt=prompt,
            limit=limit,
        )
        for prompt, limit in zip(prompts, (9, 20, 4, 12, 7), strict=True)
    ]
    outputs = write_batch(queue, [(Session(target, row), Session(draft, row)) for row in range(4)]).outputs
    for prompt, output in zip(prompts, outputs, strict=True):
        alone = write(from_yaml(name), target, draft, prompt, len(output.tokens), sampling=SAMPLED, name=str(prompt))
        assert output.tokens == alone.tokens


def test_graphs_are_captured_again_where_the_cache_grew() -> None:
    made = llama(0).lm.to("cuda")
    texts = []
    for engine in ("recorded", "eager"):
        target, draft = (CausalModel(made, VOCABULARY, 1, engine) for _ in range(2))
        for length in (4, 300, 5):
            texts.append(write(from_yaml("mtad"), target, draft, [3] * length, 12, sampling=SAMPLED).tokens)
    assert texts[:3] == texts[3:]


class Waiting(LlamaForCausalLM):
    """Asks the device for a number in every forward."""

    def forward(self, *args: Any, **more: Any) -> Any:
        output = super().forward(*args, **more)
        output.logits = output.logits + 0 * output.logits.max().item()
        return output


def test_a_model_that_cannot_be_captured_runs_eagerly_says_so_and_leaves_the_device_usable() -> None:
    made = llama(0).lm
    lm = Waiting(made.config)
    lm.load_state_dict(made.state_dict())
    model = CausalModel(lm.to("cuda"), VOCABULARY)
    ours = write(from_yaml("autoregressive"), model, model, [3, 5], 12, sampling=GREEDY).tokens
    assert model.engine == "eager" and model.fallback is not None and "captured" in model.fallback
    target, draft = pair("recorded")
    assert ours == write(from_yaml("autoregressive"), target, draft, [3, 5], 12, sampling=GREEDY).tokens
    assert target.engine == "graphs"


def small_draft() -> tuple[CausalModel, Feed, Growth, list[np.ndarray]]:
    """A model of 68M weights in bf16 with a text to be drafted upon, its graphs captured."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=12,
        max_position_embeddings=2048,
    )
    model = CausalModel(LlamaForCausalLM(config).to("cuda", torch.bfloat16), 32000)
    session = Session(model)
    session.open([1] * 200, 100)
    growth = Growth(8, "without", Warp(1.0, 10, 0.9), frozenset([2]))
    uniforms = [np.random.default_rng(0).random((8, growth.width))]
    feed = session.feed_root()
    assert model.grows()
    for _ in range(3):
        model.grow([feed], growth, uniforms)
    return model, feed, growth, uniforms


def test_a_draft_waits_for_the_device_once() -> None:
    model, feed, growth, uniforms = small_draft()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            model.grow([feed], growth, uniforms)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([one for one in waits if "called a synchronizing" in str(one.message)]) == 1


def test_a_draft_step_of_a_small_model_takes_hundreds_of_microseconds_at_most() -> None:
    model, feed, growth, uniforms = small_draft()
    seconds = []
    for _ in range(20):
        marks = model.grow([feed], growth, uniforms).marks
        torch.cuda.synchronize()
        seconds.append(Span(marks[0], marks[-1]).seconds / (len(marks) - 1))
    assert statistics.median(seconds) < 0.4e-3

"""Checks of engines, which need real models: a random Llama over five tokens, whose law is read without a cache."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.autoregressive import Autoregressive
from experiments.conformance.finding import Figure, Finding, inapplicable, judged
from experiments.conformance.laws import REFUTED, chi_square
from experiments.conformance.texts import GREEDY, PURE, spell, write
from mtad.decoder import Engine
from mtad.law import Sampling, Warp
from mtad.model import CausalModel

VOCABULARY, LENGTH, TEXTS = 5, 3, 200
CASES = (PURE, Sampling(0.7, 4, 0.9))
LIMITS = (1, 2, 3, 8)


def small_llama(seed: int, layers: int = 1) -> CausalModel:
    """A random Llama over five tokens, with two padded rows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCABULARY + 2,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.7,
        )
        return CausalModel(LlamaForCausalLM(config), VOCABULARY)


@cache
def few_tokens() -> tuple[CausalModel, CausalModel]:
    """A target and another draft, made once."""
    return small_llama(3), small_llama(4)


def llama_law(model: CausalModel, warp: Warp, length: int = LENGTH) -> dict[tuple[int, ...], float]:
    """Probability of every text of `length` tokens after the prompt (0,), read without a cache."""
    texts = list(itertools.product(range(VOCABULARY), repeat=length))
    with torch.inference_mode():
        logits = model.lm(torch.tensor([(0, *text) for text in texts]), use_cache=False).logits[:, :-1, :VOCABULARY]
    law = warp(logits.reshape(-1, VOCABULARY))
    columns = np.arange(VOCABULARY)
    logp = np.array([law.of(row, columns) for row in range(len(texts) * length)]).reshape(-1, length, VOCABULARY)
    return {
        text: float(np.exp(sum(rows[i, token] for i, token in enumerate(text))))
        for text, rows in zip(texts, logp, strict=True)
    }


def engine_p_value(engine: Engine, sampling: Sampling, seed: int = 0) -> float:
    """How well TEXTS texts agree with the target's exact law, by chi-square; below REFUTED they do not."""
    target, draft = few_tokens()
    texts = (
        write(engine, target, draft, limit=LENGTH, sampling=sampling, seed=one).tokens
        for one in range(seed, seed + TEXTS)
    )
    return chi_square(dict(Counter(texts)), llama_law(target, sampling.warp(engine.joint)))


def engine_law(engine: Engine, seed: int) -> Finding:
    """Few texts by chi-square: an engine is slow."""
    if not engine.lossless:
        return inapplicable("it says lossless = False")
    least, fault = 1.0, None
    for sampling in CASES:
        found = engine_p_value(engine, sampling, seed * TEXTS)  # two seeds share no text
        least = min(least, found)
        if found < REFUTED:
            fault = fault or f"texts at temperature {sampling.temperature:g} refute the target's law: p = {found:.1e}"
    figures: dict[str, Figure] = {"least_p": least, "texts": TEXTS * len(CASES)}
    return judged(fault, "nothing speaks against the target's law", **figures)


def engine_greedy(engine: Engine, seed: int) -> Finding:
    """Against autoregressive decoding, on texts of the small pair."""
    fault = None
    for first in range(VOCABULARY):
        own, alone = (
            write(one, *few_tokens(), (first,), 12, sampling=GREEDY, seed=seed).tokens
            for one in (engine, Autoregressive())
        )
        if own != alone:
            fault = fault or f"after {first} it writes {list(own)}, autoregressive decoding {list(alone)}"
    return judged(fault, "under greedy sampling it writes what autoregressive decoding writes", texts=VOCABULARY)


def engine_ends(engine: Engine, seed: int) -> Finding:
    """Whatever an engine writes, it ends at the first end token, stop string or the limit, and its counts add up."""
    fault, texts = None, 0
    for limit, token, one in itertools.product(LIMITS, (0, 1, 2), range(seed, seed + 2)):
        for ending in ({}, {"eos": [token]}, {"stop": [spell([token])]}, {"eos": [token], "ignore_eos": True}):
            found = write(engine, *few_tokens(), (0,), limit, seed=one, **ending)
            texts += 1
            met = token in found.tokens and found.finish != "limit"
            wrong = {
                "it wrote beyond the limit": len(found.tokens) > limit,
                "it ended early": found.finish == "limit" and len(found.tokens) < limit,
                "it wrote on behind the end": found.finish != "limit" and token in found.tokens[:-1],
                "it ended without a reason": found.finish != "limit" and not met,
                "rounds do not add up to the output": sum(len(step.tokens) for step in found.rounds)
                != len(found.tokens),
                "it counts no forward": not found.target.forwards and len(found.tokens) > 1,
                "more is accepted than drafted": any(step.accepted > step.drafted for step in found.rounds),
            }
            fault = fault or next((what for what, holds in wrong.items() if holds), None)
    return judged(fault, "it ends where end tokens, stop strings and the limit say", texts=texts)

"""Transformers' own code samples the target's law, assisted generation too; planted wrong rules are caught."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers.generation.utils as generation
from scipy.stats import chi2
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.hf import HfGenerate, HfStatic
from baselines.hf_assisted import HfAssisted
from mtad.decoder import Decoder
from mtad.law import Sampling, Warp
from mtad.model import CausalModel
from tests.helpers import PURE, write

VOCABULARY, LENGTH, TEXTS = 5, 3, 200
REFUTED = 1e-6  # as in tests/test_lossless.py


def small(seed: int, layers: int = 1) -> CausalModel:
    """A random Llama over five tokens, with two padded rows."""
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


def exact(model: CausalModel, warp: Warp) -> dict[tuple[int, ...], float]:
    """Probability of every text of LENGTH tokens after the prompt (0,), read without a cache."""
    texts = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
    with torch.no_grad():
        logits = model.lm(torch.tensor([(0, *text) for text in texts]), use_cache=False).logits[:, :-1, :VOCABULARY]
    law = warp(logits.reshape(-1, VOCABULARY))
    columns = np.arange(VOCABULARY)
    logp = np.array([law.of(row, columns) for row in range(len(texts) * LENGTH)]).reshape(-1, LENGTH, VOCABULARY)
    return {
        text: float(np.exp(sum(rows[i, token] for i, token in enumerate(text))))
        for text, rows in zip(texts, logp, strict=True)
    }


def p_value(decoder: Decoder, sampling: Sampling) -> float:
    """Chi-square test of TEXTS outputs against the exact law; texts expected fewer than five times count as one."""
    target, draft = small(3), small(4)
    law = {text: p for text, p in exact(target, sampling.warp(False)).items() if p > 0}
    seen = Counter(write(decoder, target, draft, limit=LENGTH, sampling=sampling, seed=s).tokens for s in range(TEXTS))
    if set(seen) - set(law):
        return 0.0
    common = [text for text, p in law.items() if p * TEXTS >= 5]
    observed, expected = [seen[text] for text in common], [law[text] * TEXTS for text in common]
    if sum(expected) < TEXTS - 1:
        observed.append(TEXTS - sum(observed))
        expected.append(TEXTS - sum(expected))
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize(
    ("engine", "sampling"),
    [
        (HfGenerate(), Sampling(0.7, 3, 0.9)),
        (HfStatic(capacity=8), PURE),
        (HfAssisted(gamma=2), PURE),
        (HfAssisted(gamma=2), Sampling(1.0, 3, 1.0)),
        (HfAssisted(gamma=2), Sampling(0.7, 4, 0.9)),
    ],
)
def test_engines_sample_the_targets_law(engine: Decoder, sampling: Sampling) -> None:
    assert engine.lossless and p_value(engine, sampling) > REFUTED


def flat_q(ids: Any, q: torch.Tensor, *rest: Any, **more: Any) -> Any:
    """A q that was not sampled from."""
    return original(ids, torch.zeros_like(q), *rest, **more)


def accept_all(ids: torch.Tensor, q: torch.Tensor, length: int, p: torch.Tensor, **more: Any) -> Any:
    """No test at all."""
    last = torch.multinomial(p[:, -1].softmax(-1), 1)
    return torch.cat([ids[:, -length:], last], dim=-1), torch.tensor(length)


original = generation._speculative_sampling


@pytest.mark.parametrize("fault", [flat_q, accept_all])
def test_a_wrong_assisted_rule_is_caught(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    monkeypatch.setattr(generation, "_speculative_sampling", fault)
    assert p_value(HfAssisted(gamma=2), Sampling(1.0, 3, 1.0)) < REFUTED


def test_transformers_warps_the_draft_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drafted: list[torch.Tensor] = []

    def seen(ids: Any, q: torch.Tensor, *rest: Any, **more: Any) -> Any:
        drafted.append(q)
        return original(ids, q, *rest, **more)

    monkeypatch.setattr(generation, "_speculative_sampling", seen)
    target, draft = small(3), small(4)
    write(HfAssisted(2), target, draft, limit=3, sampling=Sampling(0.5, 0, 1.0))
    with torch.no_grad():
        raw = draft.lm(torch.tensor([[0]])).logits[0, -1, :VOCABULARY]
    found = drafted[0][0, 0].softmax(-1)[:VOCABULARY]
    torch.testing.assert_close(found, (raw / 0.5 / 0.5).softmax(-1), rtol=1e-4, atol=1e-5)

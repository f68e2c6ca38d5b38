"""Transformers' own code samples the target's law, assisted generation too; planted wrong rules are caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers.generation.utils as generation

from baselines.hf import HfGenerate, HfStatic
from baselines.hf_assisted import HfAssisted
from experiments.conformance.engines import VOCABULARY, engine_p_value, few_tokens
from experiments.conformance.laws import REFUTED
from mtad.decoder import Engine
from mtad.law import Sampling
from tests.helpers import PURE, write


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
def test_engines_sample_the_targets_law(engine: Engine, sampling: Sampling) -> None:
    assert engine.lossless and engine_p_value(engine, sampling) > REFUTED


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
    assert engine_p_value(HfAssisted(gamma=2), Sampling(1.0, 3, 1.0)) < REFUTED


def test_transformers_warps_the_draft_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drafted: list[torch.Tensor] = []

    def seen(ids: Any, q: torch.Tensor, *rest: Any, **more: Any) -> Any:
        drafted.append(q)
        return original(ids, q, *rest, **more)

    monkeypatch.setattr(generation, "_speculative_sampling", seen)
    target, draft = few_tokens()
    write(HfAssisted(2), target, draft, limit=3, sampling=Sampling(0.5, 0, 1.0))
    with torch.no_grad():
        raw = draft.lm(torch.tensor([[0]])).logits[0, -1, :VOCABULARY]
    found = drafted[0][0, 0].softmax(-1)[:VOCABULARY]
    torch.testing.assert_close(found, (raw / 0.5 / 0.5).softmax(-1), rtol=1e-4, atol=1e-5)

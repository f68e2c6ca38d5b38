"""Variants, settings and made-up rows of tuning, for tests of what is tried and what is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.speculative import Speculative
from experiments.journal import Row
from experiments.knobs import TuneSettings
from experiments.tune import Choice, choose, plan_trials
from experiments.variants import Variant
from mtad.decoder import Decoder
from mtad.law import Sampling
from mtad.mtad import Mtad
from tests.toy import composed


def variant(decoder: Decoder, name: str, label: str = "", **sampling: Any) -> Variant:
    """Under usual sampling, apart from what is given."""
    kind = type(decoder)
    return Variant(label or name, name, f"{kind.__module__}.{kind.__qualname__}", decoder, Sampling(**sampling))


MTAD = variant(Mtad(), "mtad")
SPECULATIVE = variant(Speculative(), "speculative")
TUNE = ("experiment=tune", "tune.trials=3", "tune.prompts=2", "max_new_tokens=6")


def tune(knobs: Mapping[str, Any], trials: int = 4, gamma: int = 4, loss: float = 0.05) -> TuneSettings:
    """Settings with these knobs, checked by the decoders of conf/decoder."""
    with composed():
        return TuneSettings(trials, 2, gamma, loss, knobs)


def made(label: str, seconds: float, logp: float = -1.0, score: float | None = 0.5) -> list[Row]:
    """Two texts of ten tokens that took `seconds` each."""
    return [text(label, prompt, seconds, logp, score) for prompt in range(2)]


def text(label: str, prompt: int, seconds: float, logp: float, score: float | None) -> Row:
    """A text of ten equally likely tokens."""
    row = {"variant": label, "prompt_id": str(prompt), "token_ids": [0] * 10, "log_likelihoods": [logp] * 10}
    return {**row, "score": score, "seconds": {"prefill": 99.0, "decode": seconds}}


def chosen(settings: TuneSettings, of: Variant, **rows: list[Row]) -> Choice:
    """The choice by made-up rows of the baseline and trials 1, 2, ..."""
    (search,) = plan_trials(settings, [of], 0)
    assert len(search.trials) == len(rows) - 1
    return choose([search], [row for some in rows.values() for row in some], settings.loss)[0]


def graded(label: str, scores: list[float], logps: list[float]) -> list[Row]:
    """A text for each score."""
    found = zip(scores, logps, strict=True)
    return [text(label, prompt, 1, logp, score) for prompt, (score, logp) in enumerate(found)]

"""Variants and settings of tuning, for tests of what is tried and what is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.speculative import Speculative
from experiments.knobs import TuneSettings
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


def tune(knobs: Mapping[str, Any], trials: int = 4, gamma: int = 4, loss: float = 0.05) -> TuneSettings:
    """Settings with these knobs, checked by the decoders of conf/decoder."""
    with composed():
        return TuneSettings(trials, 2, gamma, loss, knobs)

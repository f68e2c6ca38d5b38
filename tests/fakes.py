"""Models whose laws are known: those of the conformance kit."""

from __future__ import annotations

from experiments.conformance.models import (
    VOCABULARY,
    ContextModel,
    Recomputed,
    StubModel,
    TableModel,
    llama,
    noisy,
    opt,
)

__all__ = ["VOCABULARY", "ContextModel", "Recomputed", "StubModel", "TableModel", "llama", "noisy", "opt"]

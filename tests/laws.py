"""Does a decoder sample the target's law? The conformance kit's tables and tests."""

from __future__ import annotations

from experiments.conformance.laws import (
    LENGTH,
    PAIRS,
    REFUTED,
    START,
    WARPS,
    Lookup,
    P,
    Q,
    Table,
    chi_square,
    exact,
    marginal,
    p_value,
    write_all,
)
from experiments.conformance.outcomes import error, first_tokens, mean_accepted, one_round

__all__ = [
    "LENGTH",
    "PAIRS",
    "REFUTED",
    "START",
    "WARPS",
    "Lookup",
    "P",
    "Q",
    "Table",
    "chi_square",
    "error",
    "exact",
    "first_tokens",
    "marginal",
    "mean_accepted",
    "one_round",
    "p_value",
    "write_all",
]

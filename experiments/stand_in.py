"""What a run measured instead of published weights: drawn or quantized ones, replayed decisions; from its records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def drawn(weights: Mapping[str, Any] | None) -> str | None:
    """The shapes in which models were drawn, in words; None where all weights were read."""
    origins = (weights or {}).values()
    shapes = [origin["random"] for origin in origins if origin and origin.get("random")]
    return f"random weights in the shape of {' and '.join(dict.fromkeys(shapes))}" if shapes else None


def quantized(weights: Mapping[str, Any] | None) -> list[str]:
    """What models hold in fewer bits than they compute in, a line each."""
    each = (weights or {}).items()
    return [f"{role}: {origin['quantized']}" for role, origin in each if origin and origin.get("quantized")]


def replay_mark(replay: Mapping[str, Any] | None) -> str | None:
    """What the figures of a replay are of, in words; None where decoders wrote by themselves."""
    return f"cost: {replay['cost']}; decisions: {replay['decisions']}" if replay else None

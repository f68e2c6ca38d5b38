"""What variants are compared with, by the names that stand in rows and summaries. Knows names only."""

from __future__ import annotations

from collections.abc import Sequence

BASELINE = "autoregressive"  # compared with whenever it is among the variants, under this label
FRONTIER = "frontier"  # the group of the variants that are measured for the frontier of colder sampling alone


def baseline_of(labels: Sequence[str]) -> str:
    """What every variant is compared with: autoregressive decoding, or else the first reference."""
    return BASELINE if BASELINE in labels else labels[:2][-1]

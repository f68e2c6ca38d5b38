"""The batch curve: what several texts in one forward are worth, by the batch pass of an ordinary run."""

from __future__ import annotations

from typing import Any

from experiments.benchmark.options import BenchOptions
from experiments.settings import Settings


def timed(settings: Settings, options: BenchOptions) -> dict[str, Any]:
    """The curve of every decoder that is asked for. Raises UserError."""
    return {"sizes": [], "reason": "runs have no batch pass yet", "figures": {}}

"""The batch curve: what several texts in one forward are worth, by the batch pass of an ordinary run.

Tokens per second of whole windows, prefill and waiting included. Each window writes the same texts at every size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.benchmark.estimates import known
from experiments.benchmark.options import BenchOptions
from experiments.plan import changed, prepare
from experiments.runner import run
from experiments.settings import Settings
from mtad.errors import UserError

COUNTS = ("texts", "texts_differing", "texts_unexplained", "row_use", "latency_median_seconds")


def timed(settings: Settings, options: BenchOptions) -> dict[str, Any]:
    """The curve of every decoder that is asked for. Raises UserError."""
    kept = tuple(variant for variant in settings.variants if variant.label in options.batch_decoders)
    if not kept:
        raise UserError(f"bench.batch_decoders names no variant: {', '.join(options.batch_decoders)}")
    settings = replace(
        changed(settings, limit=options.batch_limit),
        variants=kept,
        tune=None,
        batch_sizes=tuple(sorted({1, *options.batches})),
        name=f"{settings.name}-batches",
    )
    run(settings)
    plan = prepare(settings)
    summary = plan.folder.read_json("summary.json")["batches"]
    return {
        "run": f"{settings.name}/{plan.id}",
        "prompts": len(plan.prompts),
        "windows": summary["windows"],
        "schedule": summary["schedule"],
        "reason": summary["reason"],
        "left_out": summary["left_out"],
        "isolation": summary["isolation"],
        "sizes": [
            {"variant": label, **_size(one, summary["windows"])}
            for label, sizes in summary["decoders"].items()
            for one in sizes
        ],
        "figures": {},
    }


def _size(one: Mapping[str, Any], windows: int) -> dict[str, Any]:
    """A variant at one size."""
    rate = {end: one[f"tokens_per_second{mark}"] for end, mark in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return {
        "batch_size": one["batch_size"],
        "tokens_per_second": known({**rate, "reason": one["tokens_per_second_low_reason"]}, windows, "windows"),
        "ratio_to_one": known(one["speedup_over_single"], windows, "windows"),
        "ratio_to_autoregressive": known(one["speedup"], windows, "windows"),
        **{key: one[key] for key in COUNTS},
    }

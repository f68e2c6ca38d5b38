"""Results as pandas frames: one line for each variant of each run, one for each comparison. Copies only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.report.results import Results, Run

HEADING = ("run", "run_id", "experiment", "model", "task", "stand_in")
NESTED = ("acceptance", "counts", "seconds", "grades", "energy", "score")  # flattened, as in `seconds.decode`
BLOCKS = ("accepted", "emitted")  # of the approximation, flattened too
KEPT_WHOLE = ("task_figures", "divergence")


def variants_frame(results: Results) -> pd.DataFrame:
    """One line for each variant: `run` ... `stand_in`, `variant`, its figures, `option.<name>` and `sampling.<name>`.

    A figure that was not measured is None, and `<figure>_reason` says why. Intervals are `<figure>_low` and `_high`.
    """
    return pd.DataFrame(variant_lines(results))


def comparisons_frame(results: Results) -> pd.DataFrame:
    """One line for each (variant, reference, metric) of each run: value, low, high, p_holm and so on."""
    return pd.DataFrame(comparison_lines(results))


def variant_lines(results: Results) -> list[dict[str, Any]]:
    """The lines of `variants_frame`, each number as the summary has it."""
    return [
        {**heading(run), "variant": label, **_flat(figures)}
        for run in results.runs
        for label, figures in run.summary["decoders"].items()
    ]


def comparison_lines(results: Results) -> list[dict[str, Any]]:
    """The lines of `comparisons_frame`, each number as the summary has it."""
    return [
        {**heading(run), **{"variant" if key == "decoder" else key: value for key, value in found.items()}}
        for run in results.runs
        for found in run.summary["comparisons"]
    ]


def heading(run: Run) -> dict[str, Any]:
    """What every line says of its run, by HEADING."""
    summary = run.summary
    values = (run.name, summary["run_id"], summary.get("experiment"), summary["model"], summary["task"], run.stand_in)
    return dict(zip(HEADING, values, strict=True))


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in figures.items():
        if key in ("options", "sampling"):
            prefix = key.removesuffix("s")
            flat |= {f"{prefix}.{name}": item for name, item in (value or {}).items()}
        elif key == "intervals":
            ends = {"low": "low", "high": "high", "interval_reason": "reason"}
            flat |= {f"{name}_{end}": of[key] for name, of in value.items() for end, key in ends.items()}
        elif key == "approximation" and value:
            flat |= {f"{key}.{name}": item for name, item in value.items() if name not in (*BLOCKS, "bins")}
            for name in BLOCKS:
                flat |= {f"{key}.{name}.{inner}": item for inner, item in (value[name] or {}).items()}
        elif key in NESTED and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        elif key not in KEPT_WHOLE:
            flat[key] = value
    return flat

"""Computes every comparison of a run again: python tests/reproduce_intervals.py RUN_FOLDER

Written independently of the project, of which it imports nothing: from samples.jsonl alone, with a resampling loop of
its own. Values must agree exactly, interval ends, p-values and detectable effects up to the noise of resampling. Prints
a line for each comparison and ends with code 1 if one disagrees.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

DRAWS = 20_000
NOISE = 0.08  # of an interval's width, for its ends; of the effect, for what is detectable


def figures(metric: str, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """What one variant's rows of one prompt add above and below the line of the metric."""
    tokens = sum(len(row["token_ids"]) for row in rows)
    if metric == "speedup":
        return tokens, sum(row["seconds"]["decode"] for row in rows)
    if metric == "speedup_end_to_end":
        return tokens, sum(row["seconds"]["decode"] + row["seconds"]["prefill"] for row in rows)
    if metric == "perplexity_ratio":
        return sum(sum(row["log_likelihoods"]) for row in rows), tokens
    if metric == "score_difference":
        return sum(row["score"] for row in rows), len(rows)
    raise SystemExit(f"unknown metric {metric}")


def effect(metric: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The comparison of two variants from their sums, [..., 2]."""
    x, y = a[..., 0] / a[..., 1], b[..., 0] / b[..., 1]
    return {"score_difference": x - y, "perplexity_ratio": np.exp(y - x)}.get(metric, x / y)


def again(metric: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Value, interval, p and smallest detectable effect, from sums [prompts, 2]."""
    n = len(a)
    chance = np.random.default_rng(12345)
    picks = chance.integers(0, n, (DRAWS, n))
    drawn = effect(metric, a[picks].sum(axis=1), b[picks].sum(axis=1))
    student = float(t.ppf(0.975, n - 1))
    tail = float(norm.cdf(-sqrt(n / (n - 1)) * student))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    value = float(effect(metric, a.sum(axis=0), b.sum(axis=0)))
    ratio = metric != "score_difference"
    error = float(np.std(np.log(drawn) if ratio else drawn)) * sqrt(n / (n - 1))
    distance = abs(log(value)) if ratio else abs(value)
    least = (student + float(t.ppf(0.8, n - 1))) * error
    p = 2 * float(t.sf(distance / error, n - 1))
    return {
        "value": value,
        "low": float(low),
        "high": float(high),
        "p": p,
        "detectable": exp(least) if ratio else least,
    }


def agrees(found: dict[str, Any], ours: dict[str, float]) -> bool:
    """Whether the run's comparison is ours, up to the noise of resampling."""
    width = ours["high"] - ours["low"]
    ends = all(abs(found[end] - ours[end]) < NOISE * width for end in ("low", "high"))
    scale = log if found["null"] == 1 else float
    least = abs(scale(found["detectable"]) / scale(ours["detectable"]) - 1) < NOISE
    same_p = abs(found["p"] - ours["p"]) < max(0.02, NOISE * ours["p"])
    return bool(abs(found["value"] - ours["value"]) < 1e-9 and ends and least and same_p)


def corrected(found: dict[str, Any], comparisons: list[dict[str, Any]]) -> float:
    """Holm's p-value, by its definition: the largest (m - rank) p among the ranks up to this one's."""
    family = sorted(c["p"] for c in comparisons if c["reference"] == found["reference"] and c["p"] is not None)
    ranks = [rank for rank, p in enumerate(family) if p <= found["p"]]
    return min(1.0, max((len(family) - rank) * family[rank] for rank in ranks))


def main(folder: Path) -> int:
    """The number of comparisons that disagree; those without an interval are only named."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    comparisons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["comparisons"]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["variant"], row["prompt_id"]].append(row)
    prompts = sorted({row["prompt_id"] for row in rows})
    wrong = 0
    for found in comparisons:
        name = f"{found['decoder']} / {found['reference']} {found['metric']}"
        if found["low"] is None:
            print(f"{name}: no interval ({found['reason']})")
            continue
        metric, pair = found["metric"], (found["decoder"], found["reference"])
        a, b = (np.array([figures(metric, cells[label, prompt]) for prompt in prompts], dtype=float) for label in pair)
        ours = again(metric, a, b)
        fine = agrees(found, ours) and abs(found["p_holm"] - corrected(found, comparisons)) < 1e-9
        wrong += not fine
        mark = "agrees" if fine else "DISAGREES"
        print(f"{name}: {found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}] {mark}", end=" ")
        print({key: round(value, 4) for key, value in ours.items()})
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))

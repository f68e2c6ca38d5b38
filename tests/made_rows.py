"""Rows made by hand or by chance, and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.journal import Row
from experiments.summarise import summarise

QUIET = {"others_cpu_cores": 0.0, "stolen_cpu_cores": 0.0, "gpu_processes": 0, "throttle": []}


def timed(prefill: float, decode: float) -> dict[str, float]:
    """Seconds of a row, two thirds of the decoding in the target."""
    phases = {"target": decode * 2 / 3, "draft": decode / 6, "decide": decode / 8, "commit": decode / 24}
    return {"prefill": prefill, "decode": decode, **phases}


def row(variant: str, prompt: str, repeat: int = 0, **changes: Any) -> Row:
    """Four tokens in two rounds and a second; changes replace keys."""
    return {
        "variant": variant,
        "prompt_id": prompt,
        "group": None,
        "turn": 0,
        "repeat": repeat,
        "process_id": "1",
        "code": "c",
        "prompt_token_ids": None,
        "token_ids": [5, 6, 5, 6],
        "decoder": variant,
        "kind": "session",
        "lossless": True,
        "options": {},
        "sampling": sampling(),
        "finish": "limit",
        "rounds": [
            {"tokens": 3, "drafted": 3, "accepted": 2, "nodes": 3},
            {"tokens": 1, "drafted": 3, "accepted": 1, "nodes": 3},
        ],
        "counts": {"target_forwards": 2, "draft_forwards": 4, "drafted": 6, "accepted": 3},
        "seconds": {"prefill": 0.5, "decode": 1.0, "target": 0.6, "draft": 0.2, "decide": 0.15, "commit": 0.05},
        "log_likelihoods": [-1.0, -1.0, -2.0, 0.0],
        "log_likelihoods_reason": None,
        "score": 1.0,
        "grades": {"accuracy": 1.0},
        "gaps": None,
        "proof": None,
        "isolation": QUIET,
        **changes,
    }


def random_rows(prompts: int, repeats: int) -> list[Row]:
    chance = np.random.default_rng(1)
    rows = []
    for variant, pace in (("fast", 2.0), ("slow", 1.0)):
        for prompt in range(prompts):
            for repeat in range(repeats):
                length = int(chance.integers(2, 20))
                changes: dict[str, Any] = {
                    "token_ids": chance.integers(0, 9, length).tolist(),
                    "seconds": timed(0.1, length / pace * chance.uniform(0.8, 1.2)),
                    "log_likelihoods": (-chance.exponential(1.0, length)).tolist(),
                    "score": float(chance.integers(0, 2)),
                }
                rows.append(row(variant, f"p{prompt}", repeat, **changes))
    return rows


def sampling(**changes: Any) -> dict[str, Any]:
    """That of the default run, with changes."""
    return {"temperature": 1.0, "top_k": 10, "top_p": 0.9, "greedy": False, **changes}


def texts_at(
    chance: np.random.Generator, variant: str, ease: np.ndarray, temperatures: Sequence[float], **changes: Any
) -> list[Row]:
    """One text for each prompt: hotter ones are longer, more varied, less probable and worse; easy prompts help all."""
    rows = []
    for prompt, (easy, t) in enumerate(zip(ease, temperatures, strict=True)):
        length = 16 + int(chance.poisson(8 * t))
        own: dict[str, Any] = {
            "token_ids": chance.integers(0, 2 + int(6 * t), length).tolist(),
            "log_likelihoods": (-chance.exponential(easy + t, length)).tolist(),
            "score": float(chance.random() < 1.1 - 0.4 * t - 0.3 * easy),
        }
        rows.append(row(variant, f"p{prompt}", **{**own, **changes}))
    return rows


def swept(temperature: float) -> dict[str, Any]:
    """What rows of autoregressive decoding have at a temperature."""
    changed = {"greedy": True} if temperature == 0 else {"temperature": temperature}
    return {"decoder": "autoregressive", "sampling": sampling(**changed), "lossless": True}


def mixture(chance: np.random.Generator, prompts: int, better: float = 0.0) -> dict[str, list[Row]]:
    """A sweep, and a decoder that is a mixture of two temperatures, but for `better` nats per token."""
    ease = chance.uniform(0.2, 1.4, prompts)
    mixed = texts_at(chance, "main", ease, chance.choice([0.5, 1.0], prompts), lossless=False, sampling=sampling())
    for r in mixed:
        r["log_likelihoods"] = [value + better for value in r["log_likelihoods"]]
    temperatures = {"T=0": 0.0, "T=0.5": 0.5, "autoregressive": 1.0, "T=1.5": 1.5}
    sweep = {label: texts_at(chance, label, ease, [t] * prompts, **swept(t)) for label, t in temperatures.items()}
    return {"main": mixed, **sweep}


def fixed(variant: str, distinct: int, logp: float, score: float, prompts: int = 6, **changes: Any) -> list[Row]:
    """Texts of 12 pairs of tokens, `distinct` of them distinct, on every prompt the same."""
    tokens = [*range(distinct), *[distinct - 1] * (13 - distinct)]
    made = {"token_ids": tokens, "log_likelihoods": [logp] * 13, "score": score, **changes}
    return [row(variant, f"p{i}", **made) for i in range(prompts)]


def summary_of(rows: list[Row], *labels: str) -> dict[str, Any]:
    return summarise(rows, "id", "tiny", "toy", labels)


def with_frontier() -> dict[str, Any]:
    """The summary of a lossy decoder `main` beside a sweep of temperatures."""
    rows = mixture(np.random.default_rng(3), 20)
    for of_label in rows.values():
        for r in of_label:
            r["seconds"] = timed(0.1, 1.0 + 0.01 * len(r["token_ids"]))
    groups = {label: "frontier" for label in rows if label not in ("main", "autoregressive")}
    labels = [*rows]
    return summarise([r for of in rows.values() for r in of], "id", "tiny", "toy", labels, groups=groups)

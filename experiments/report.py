"""From the rows of a run to its summary and its table. Reads rows only; refuses to know models and tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.comparisons import compare_all, judge_together, log_likelihood
from experiments.journal import SCHEMA_VERSION, Row

BASELINE = "autoregressive"  # compared with whenever it is among the variants, under this label


def summarise(
    rows: Sequence[Row], run_id: str, model: str, task: str, labels: Sequence[str], margin: float | None = None
) -> dict[str, Any]:
    """The content of summary.json. The first of `labels` is the decoder under study, the others are its references."""
    by_label = {label: [row for row in rows if row["variant"] == label] for label in labels}
    references = dict.fromkeys([*labels[1:], *(label for label in labels if label == BASELINE)])
    pairs = [(label, reference) for reference in references for label in labels if label != reference]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "model": model,
        "task": task,
        "code_versions": sorted({row["code"] for row in rows}),
        "processes": len({row["process_id"] for row in rows}),
        "decoders": {label: _decoder(by_label[label]) for label in labels},
        "comparisons": judge_together(compare_all(rows, pairs), margin),
    }


def _decoder(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of one variant."""
    tokens = sum(len(row["token_ids"]) for row in rows)
    decode = sum(row["seconds"]["decode"] for row in rows)
    prefill = sum(row["seconds"]["prefill"] for row in rows)
    counts = {key: sum(row["counts"][key] for row in rows) for key in rows[0]["counts"]}
    blocks = sum(row["proof"]["blocks"] for row in rows if row["proof"])
    proven = sum(row["proof"]["proven"] for row in rows if row["proof"])
    rounds = sum(len(row["rounds"]) for row in rows)
    unscored = next((row["log_likelihoods_reason"] for row in rows if row["log_likelihoods_reason"]), None)
    logps = [logp for row in rows if (logp := log_likelihood(row)) is not None]
    means = [logp / len(row["token_ids"]) for logp, row in zip(logps, rows, strict=not unscored)]
    return {
        **_figure("tokens_per_second", _ratio(tokens, decode), "no time was measured"),
        **_figure("tokens_per_second_end_to_end", _ratio(tokens, prefill + decode), "no time was measured"),
        **_figure("perplexity", None if unscored else math.exp(-sum(logps) / tokens), unscored),
        **_figure("perplexity_prompt_mean", None if unscored else math.exp(-_mean(means)), unscored),
        "score": _score(rows),
        "grades": {name: _mean([row["grades"][name] for row in rows]) for name in rows[0]["grades"]},
        **_figure("distinct_2", _distinct_2(rows), "no text has two tokens"),
        **_figure("tokens_per_target_forward", _ratio(tokens, counts["target_forwards"]), "no forward was counted"),
        **_figure("tokens_per_round", _ratio(tokens, rounds), "no round was counted"),
        **_figure("acceptance_rate", _ratio(counts["accepted"], counts["drafted"]), "drafts nothing"),
        "counts": counts,
        "prompts": len({row["prompt_id"] for row in rows}),
        "rows": len(rows),
        "tokens": tokens,
        "mean_tokens": tokens / len(rows),
        "eos_rate": _mean([row["finish"] == "eos" for row in rows]),
        "stop_rate": _mean([row["finish"] == "stop" for row in rows]),
        **_figure("proven_share", _ratio(proven, blocks), "proves nothing"),
        "joules_per_token": None,
        "joules_reason": rows[0]["joules_reason"],
    }


def _score(rows: Sequence[Row]) -> dict[str, Any]:
    """The task's headline score: the first of its grades."""
    grades: Mapping[str, float] = rows[0]["grades"]
    if not grades:
        return {"name": None, "value": None, "reason": "the task gives no score"}
    return {"name": next(iter(grades)), "value": _mean([row["score"] for row in rows])}


def _distinct_2(rows: Sequence[Row]) -> float | None:
    """Distinct pairs of neighbouring tokens over all such pairs of a text, mean over texts that have any."""
    pairs = [list(zip(row["token_ids"], row["token_ids"][1:], strict=False)) for row in rows]
    shares = [len(set(text)) / len(text) for text in pairs if text]
    return _mean(shares) if shares else None


def _figure(name: str, value: float | None, reason: str | None) -> dict[str, Any]:
    """A value, and why there is none."""
    return {name: value, f"{name}_reason": reason if value is None else None}


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

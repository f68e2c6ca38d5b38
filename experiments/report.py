"""From the rows of a run to its summary and its table. Reads rows only; refuses to know models and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments import intervals
from experiments.intervals import CONFIDENCE, Estimate, Totals
from experiments.records import SCHEMA_VERSION, Row

BASELINE = "autoregressive"  # compared with whenever it is among the variants, under this label
METRICS: dict[str, Callable[[Totals, Totals], Estimate]] = {
    "speedup": intervals.speedup,
    "speedup_end_to_end": intervals.speedup_end_to_end,
    "perplexity_ratio": intervals.perplexity_ratio,
    "score_difference": intervals.score_difference,
}


def summarise(rows: Sequence[Row], run_id: str, model: str, task: str, labels: Sequence[str]) -> dict[str, Any]:
    """The content of summary.json. The first of `labels` is the decoder under study, the others are its references."""
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    by_label = {label: [row for row in rows if row["variant"] == label] for label in labels}
    references = dict.fromkeys([*labels[1:], *(label for label in labels if label == BASELINE)])
    totals = {label: _totals(by_label[label], prompts) for label in labels}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "model": model,
        "task": task,
        "code_versions": sorted({row["code"] for row in rows}),
        "processes": len({row["process_id"] for row in rows}),
        "decoders": {label: _decoder(by_label[label]) for label in labels},
        "comparisons": [
            {
                "decoder": label,
                "reference": reference,
                "metric": metric,
                **asdict(compare(totals[label], totals[reference])),
                "confidence": CONFIDENCE,
            }
            for reference in references
            for label in labels
            if label != reference
            for metric, compare in METRICS.items()
        ],
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
    logps = [_log_likelihood(row) for row in rows]
    means = [logp / len(row["token_ids"]) for logp, row in zip(logps, rows, strict=True)]
    unscored = next((row["log_likelihoods_reason"] for row in rows if row["log_likelihoods_reason"]), None)
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


def _totals(rows: Sequence[Row], prompts: Sequence[str]) -> Totals:
    def total(value: Callable[[Row], float]) -> np.ndarray:
        sums = dict.fromkeys(prompts, 0.0)
        for row in rows:
            sums[row["prompt_id"]] += value(row)
        return np.array(list(sums.values()))

    return Totals(
        tokens=total(lambda row: len(row["token_ids"])),
        seconds=total(lambda row: row["seconds"]["decode"]),
        seconds_end_to_end=total(lambda row: row["seconds"]["prefill"] + row["seconds"]["decode"]),
        log_likelihood=total(_log_likelihood),
        score=total(lambda row: row["score"] or 0.0),
        graded=total(lambda row: row["score"] is not None),
    )


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


def _log_likelihood(row: Row) -> float:
    """Of the whole text; NaN if that of a token is undefined."""
    return sum(math.nan if logp is None else logp for logp in row["log_likelihoods"])


def _figure(name: str, value: float | None, reason: str | None) -> dict[str, Any]:
    """A value, and why there is none."""
    return {name: value, f"{name}_reason": reason if value is None else None}


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""Figures and intervals, against rows whose answers are known or computed again here."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.journal import Row
from experiments.report import summarise
from experiments.table import print_table


def row(variant: str, prompt: str, repeat: int = 0, **changes: Any) -> Row:
    """Four tokens in two rounds and a second; changes replace keys."""
    return {
        "variant": variant,
        "prompt_id": prompt,
        "repeat": repeat,
        "process_id": "1",
        "code": "c",
        "token_ids": [5, 6, 5, 6],
        "finish": "limit",
        "rounds": [{}, {}],
        "counts": {"target_forwards": 2, "draft_forwards": 4, "drafted": 6, "accepted": 3},
        "seconds": {"prefill": 0.5, "decode": 1.0},
        "log_likelihoods": [-1.0, -1.0, -2.0, 0.0],
        "log_likelihoods_reason": None,
        "score": 1.0,
        "grades": {"accuracy": 1.0},
        "proof": None,
        "joules_reason": "no meter",
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
                    "seconds": {"prefill": 0.1, "decode": length / pace * chance.uniform(0.8, 1.2)},
                    "log_likelihoods": (-chance.exponential(1.0, length)).tolist(),
                    "score": float(chance.integers(0, 2)),
                }
                rows.append(row(variant, f"p{prompt}", repeat, **changes))
    return rows


def summary_of(rows: list[Row], *labels: str) -> dict[str, Any]:
    return summarise(rows, "id", "tiny", "toy", labels)


def printed(summary: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    print_table(summary, Console(file=text))
    return text.getvalue().splitlines()


def comparison(summary: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = (c for c in summary["comparisons"] if (c["decoder"], c["metric"]) == ("fast", metric))
    assert found["reference"] == "slow"
    return dict(found)


def test_the_figures_of_a_decoder_are_those_of_their_definitions() -> None:
    long = row(
        "a",
        "q",
        token_ids=[1, 2, 3, 4, 5, 1],
        finish="eos",
        log_likelihoods=[-3.0] * 6,
        score=0.0,
        grades={"accuracy": 0.0},
    )
    figures = summary_of([row("a", "p"), long], "a")["decoders"]["a"]
    assert figures["tokens_per_second"] == 10 / 2
    assert figures["tokens_per_second_end_to_end"] == 10 / 3
    assert figures["perplexity"] == pytest.approx(math.exp(22 / 10))
    assert figures["perplexity_prompt_mean"] == pytest.approx(math.exp((1 + 3) / 2))
    assert figures["score"] == {"name": "accuracy", "value": 0.5}
    assert figures["distinct_2"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["tokens_per_target_forward"] == 10 / 4
    assert figures["acceptance_rate"] == 0.5
    assert (figures["prompts"], figures["rows"], figures["mean_tokens"], figures["eos_rate"]) == (2, 2, 5, 0.5)
    assert (figures["proven_share"], figures["joules_per_token"], figures["joules_reason"]) == (None, None, "no meter")


def test_a_share_of_proven_blocks_is_given_only_by_decoders_that_prove() -> None:
    rows = [row("a", "p", proof={"blocks": 3, "proven": 2}), row("a", "q", proof={"blocks": 1, "proven": 1})]
    assert summary_of(rows, "a")["decoders"]["a"]["proven_share"] == 3 / 4


def test_a_decoder_without_drafts_has_no_acceptance_rate_and_says_why() -> None:
    counts = {"target_forwards": 4, "draft_forwards": 0, "drafted": 0, "accepted": 0}
    figures = summary_of([row("a", "p", counts=counts)], "a")["decoders"]["a"]
    assert (figures["acceptance_rate"], figures["acceptance_rate_reason"]) == (None, "drafts nothing")


@pytest.mark.parametrize("repeats", [1, 3])
def test_intervals_are_those_of_a_bootstrap_over_prompts_written_by_hand(repeats: int) -> None:
    prompts, draws = 30, 4000
    rows = random_rows(prompts, repeats)
    summary = summary_of(rows, "fast", "slow")

    def sums(variant: str, value: str) -> np.ndarray:
        measure = {
            "tokens": lambda r: len(r["token_ids"]),
            "seconds": lambda r: r["seconds"]["decode"],
            "logp": lambda r: sum(r["log_likelihoods"]),
            "score": lambda r: r["score"] / repeats,
        }[value]
        names = [f"p{prompt}" for prompt in range(prompts)]
        return np.array(
            [sum(measure(r) for r in rows if (r["variant"], r["prompt_id"]) == (variant, n)) for n in names]
        )

    picks = np.random.default_rng(5).integers(0, prompts, (draws, prompts))
    rate = {v: sums(v, "tokens")[picks].sum(1) / sums(v, "seconds")[picks].sum(1) for v in ("fast", "slow")}
    loss = {v: -sums(v, "logp")[picks].sum(1) / sums(v, "tokens")[picks].sum(1) for v in ("fast", "slow")}
    mean = {v: sums(v, "score")[picks].mean(1) for v in ("fast", "slow")}
    expected = {
        "speedup": rate["fast"] / rate["slow"],
        "perplexity_ratio": np.exp(loss["fast"] - loss["slow"]),
        "score_difference": mean["fast"] - mean["slow"],
    }
    for metric, resampled in expected.items():
        found = comparison(summary, metric)
        low, high = np.quantile(resampled, [0.025, 0.975])
        assert found["low"] < found["value"] < found["high"] and found["reason"] is None
        assert abs(found["low"] - low) < 0.08 * (high - low) and abs(found["high"] - high) < 0.08 * (high - low)


@pytest.mark.parametrize("prompts", [1, 4])
def test_a_few_prompts_give_a_value_and_a_reason_instead_of_an_interval(prompts: int) -> None:
    found = comparison(summary_of(random_rows(prompts, 3), "fast", "slow"), "speedup")
    assert found["value"] > 0
    assert (found["low"], found["high"], found["p"], found["detectable"]) == (None,) * 4
    assert found["reason"] == "no interval: fewer than 5 prompts"


def test_constant_data_give_a_reason_and_nothing_is_nan() -> None:
    summary = summary_of([row(v, p) for v in ("fast", "slow") for p in "pqrst"], "fast", "slow")
    for metric in ("speedup", "perplexity_ratio", "score_difference"):
        found = comparison(summary, metric)
        assert (found["low"], found["high"]) == (None, None) and "same value" in found["reason"]
    json.dumps(summary, allow_nan=False)


def test_comparisons_are_against_every_reference() -> None:
    summary = summary_of([row(v, p) for v in "abc" for p in "pq"], "a", "b", "c")
    pairs = {(c["decoder"], c["reference"]) for c in summary["comparisons"]}
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c"), ("c", "b")}


def test_autoregressive_is_compared_with_also_as_the_main_decoder_and_the_table_shows_it() -> None:
    slower = {"seconds": {"prefill": 0.5, "decode": 2.0}}
    rows = [row(v, p, **(slower if v == "b" else {})) for v in ("autoregressive", "b") for p in "pq"]
    summary = summary_of(rows, "autoregressive", "b")
    pairs = {(c["decoder"], c["reference"]) for c in summary["comparisons"]}
    assert pairs == {("autoregressive", "b"), ("b", "autoregressive")}
    (line,) = (line for line in printed(summary) if line.lstrip().startswith("b "))
    assert "0.50 [-]" in line


def test_without_autoregressive_the_table_compares_with_the_first_reference() -> None:
    lines = printed(summary_of([row(v, p) for v in "abc" for p in "pq"], "a", "b", "c"))
    assert "speed-up over b" in "".join(lines)


def test_labels_are_printed_as_they_are_and_repeats_are_named() -> None:
    label = "[red]a[/] [/b]"
    lines = printed(summary_of([row(label, p, repeat) for p in "pq" for repeat in range(3)], label))
    assert any(label in line for line in lines)
    assert "2 prompts, 3 repeats" in lines[0]


def test_log_likelihoods_that_are_no_numbers_leave_perplexity_null_with_a_reason() -> None:
    odd = {"log_likelihoods": [-1.0, None, -2.0, 0.0], "log_likelihoods_reason": "overflow"}
    rows = [row("a", "p", **odd), row("a", "q"), row("b", "p"), row("b", "q")]
    summary = summary_of(rows, "a", "b")
    figures = summary["decoders"]["a"]
    for name in ("perplexity", "perplexity_prompt_mean"):
        assert (figures[name], figures[f"{name}_reason"]) == (None, "overflow")
    (ratio,) = (c for c in summary["comparisons"] if (c["decoder"], c["metric"]) == ("a", "perplexity_ratio"))
    assert ratio["value"] is None and "finite" in ratio["reason"]
    assert "perplexity: overflow" in printed(summary)
    json.dumps(summary, allow_nan=False)


def test_every_figure_that_is_null_has_a_reason() -> None:
    nothing = {
        "counts": {"target_forwards": 0, "draft_forwards": 0, "drafted": 0, "accepted": 0},
        "seconds": {"prefill": 0.0, "decode": 0.0},
        "token_ids": [5],
        "log_likelihoods": [-1.0],
    }
    figures = summary_of([row("a", "p", **nothing)], "a")["decoders"]["a"]
    null = {name for name, value in figures.items() if value is None and not name.endswith("_reason")}
    assert {"distinct_2", "proven_share", "tokens_per_second", "tokens_per_target_forward"} <= null
    for name in null - {"joules_per_token"}:
        assert figures[f"{name}_reason"], name


def test_the_table_fits_100_columns_and_marks_intervals_that_contain_1() -> None:
    rows = random_rows(12, 1)
    rows += [{**r, "variant": "autoregressive"} for r in rows if r["variant"] == "slow"]
    for r in rows:
        if r["variant"] == "autoregressive":
            r["seconds"] = {
                "prefill": 0.1,
                "decode": r["seconds"]["decode"] * (1 + 0.3 * math.sin(len(r["token_ids"]))),
            }
    text = io.StringIO()
    print_table(summary_of(rows, "fast", "slow", "autoregressive"), Console(file=text))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    (fast,) = (line for line in lines if line.lstrip().startswith("fast"))
    (slow,) = (line for line in lines if line.lstrip().startswith("slow"))
    assert "]*" in slow and "]*" not in fast and "*: the interval contains 1" in lines
    assert any("J/token: no meter" in line for line in lines)

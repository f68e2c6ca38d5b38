"""Figures and tables, against rows whose answers are known."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from experiments.comparisons import comparison, correct_together
from experiments.intervals import Estimate
from experiments.summarise import compared, summarise
from experiments.table import print_table
from tests.made_rows import QUIET, random_rows, row, summary_of, timed


def printed(summary: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    print_table(summary, Console(file=text))
    return text.getvalue().splitlines()


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
    assert figures["score"] == {"name": "accuracy", "value": 0.5, "reason": None}
    assert figures["distinct_2"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["tokens_per_target_forward"] == 10 / 4
    assert figures["acceptance"]["draft_acceptance_rate"] == 0.5
    assert figures["seconds"]["decide"] == pytest.approx(0.3)
    assert figures["outside_forwards_share"] == pytest.approx(0.2)
    assert figures["outside_forwards_microseconds_per_round"] == pytest.approx(0.4e6 / 4)
    assert (figures["prompts"], figures["rows"], figures["mean_tokens"], figures["eos_rate"]) == (2, 2, 5, 0.5)
    energy = figures["energy"]
    assert (figures["proven_share"], energy["joules_per_token"]) == (None, None)
    assert energy["joules_per_token_reason"] == "not measured"


def test_a_share_of_proven_blocks_is_given_only_by_decoders_that_prove() -> None:
    rows = [row("a", "p", proof={"blocks": 3, "proven": 2}), row("a", "q", proof={"blocks": 1, "proven": 1})]
    assert summary_of(rows, "a")["decoders"]["a"]["proven_share"] == 3 / 4


def test_a_decoder_without_drafts_has_no_acceptance_rate_and_says_why() -> None:
    counts = {"target_forwards": 4, "draft_forwards": 0, "drafted": 0, "accepted": 0}
    rounds = [{"tokens": 1, "drafted": 0, "accepted": 0, "nodes": 0}] * 4
    figures = summary_of([row("a", "p", counts=counts, rounds=rounds)], "a")["decoders"]["a"]
    assert (figures["acceptance"], figures["acceptance_reason"]) == (None, "no round drafted a token")


def test_comparisons_are_with_the_baseline_the_yardsticks_and_the_main_decoders_references() -> None:
    def pairs(*labels: str, **groups: str) -> set[tuple[str, str]]:
        found = compared(labels, groups)
        assert len(found) == len(set(found))
        return set(found)

    baseline, yardstick = "autoregressive", "speculative"
    default = {("m", baseline), (yardstick, baseline), ("m", yardstick), (baseline, yardstick)}
    assert pairs("m", baseline, yardstick) == default
    assert pairs("m", "a", baseline, yardstick) - default == {("a", baseline), ("a", yardstick), ("m", "a")}
    assert pairs("m", "cold", baseline, yardstick, cold="frontier") - default == {("cold", baseline)}
    tuned = pairs("m", "best", baseline, "a", m="same gamma", best="best each", a="same gamma")
    assert tuned >= {("m", "a"), ("best", "a"), ("m", "best")} and ("a", "best") not in tuned
    assert ("a", "b") not in pairs("m", "a", baseline, "b", a="same gamma", b="best each")
    assert pairs("m", "a", "b") == {("m", "a"), ("b", "a"), ("m", "b")}  # the first reference is the baseline
    assert pairs("m") == set() and pairs(baseline, "a") == {(baseline, "a"), ("a", baseline)}
    summary = summary_of([row(v, p) for v in ("m", baseline, yardstick) for p in "pq"], "m", baseline, yardstick)
    assert {(c["decoder"], c["reference"]) for c in summary["comparisons"]} == default


def test_autoregressive_is_compared_with_also_as_the_main_decoder_and_the_table_shows_it() -> None:
    slower = {"seconds": timed(0.5, 2.0)}
    rows = [row(v, p, **(slower if v == "b" else {})) for v in ("autoregressive", "b") for p in "pq"]
    summary = summary_of(rows, "autoregressive", "b")
    pairs = {(c["decoder"], c["reference"]) for c in summary["comparisons"]}
    assert pairs == {("autoregressive", "b"), ("b", "autoregressive")}
    (line,) = (line for line in printed(summary) if line.lstrip().startswith("b ") and "speed-up" in line)
    assert "0.50 [-]" in line


def test_without_autoregressive_the_table_compares_with_the_first_reference() -> None:
    lines = printed(summary_of([row(v, p) for v in "abc" for p in "pq"], "a", "b", "c"))
    assert any(line.startswith("Against b") for line in lines)


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
        "seconds": timed(0.0, 0.0),
        "rounds": [],
        "token_ids": [5],
        "log_likelihoods": [-1.0],
    }
    figures = summary_of([row("a", "p", **nothing)], "a")["decoders"]["a"]
    null = {name for name, value in figures.items() if value is None and not name.endswith("_reason")}
    assert {"distinct_2", "proven_share", "tokens_per_second", "tokens_per_target_forward", "acceptance"} <= null
    for name in null - {"judge_retokenised"}:
        assert figures[f"{name}_reason"], name


def test_the_table_fits_100_columns_and_marks_intervals_that_contain_1() -> None:
    rows = random_rows(12, 1)
    rows += [{**r, "variant": "autoregressive"} for r in rows if r["variant"] == "slow"]
    for r in rows:
        if r["variant"] == "autoregressive":
            r["seconds"] = timed(0.1, r["seconds"]["decode"] * (1 + 0.3 * math.sin(len(r["token_ids"]))))
    lines = printed(summary_of(rows, "fast", "slow", "autoregressive"))
    assert max(map(len, lines)) <= 100
    (fast,) = (line for line in lines if "fast" in line and "speed-up" in line)
    (slow,) = (line for line in lines if "slow" in line and "speed-up" in line)
    assert "]*" in slow and "]*" not in fast and any(line.startswith("*: the interval contains 1") for line in lines)
    assert "J/token: not measured" in lines


def test_an_interval_wholly_below_1_is_not_marked() -> None:
    (slow,) = (line for line in printed(summary_of(random_rows(12, 1), "slow", "fast")) if "speed-up" in line)
    assert " 0.5" in slow and "]*" not in slow


def test_the_table_says_how_many_comparisons_the_correction_takes_back() -> None:
    summary = summary_of(random_rows(12, 1), "fast", "slow")
    for i, found in enumerate(summary["comparisons"]):
        found |= {"p": 0.03, "p_holm": 0.01 if i == 0 else 0.12}
    assert "after which 3 no longer hold at 0.05" in " ".join(printed(summary))


def test_no_loss_needs_a_margin_that_was_stated_before_and_an_interval_inside_it() -> None:
    rows = random_rows(40, 1)
    for r in rows:  # equal scores and likelihoods, up to a little noise
        r["score"] = 0.5 + 0.01 * (len(r["token_ids"]) % 3) * (r["variant"] == "fast")
        r["log_likelihoods"] = [-1.0 - 0.01 * (len(r["token_ids"]) % 2) * (r["variant"] == "fast")] * len(
            r["token_ids"]
        )
    process = {"process_id": "1", "machine": "m", "noninferiority_margin": 0.05}

    def verdicts(margin: float | None, stated: float | None) -> tuple[Any, Any, Any, str]:
        processes = [{**process, "noninferiority_margin": stated}]
        summary = summarise(rows, "id", "tiny", "toy", ["fast", "slow"], processes, margin)
        found = {c["metric"]: c["no_loss"] for c in summary["comparisons"]}
        assert found["speedup"] is None
        return (
            found["score_difference"],
            found["perplexity_ratio"],
            summary["margin_stated_before"],
            "".join(printed(summary)),
        )

    def of(metric: str, values: tuple[float, float], margin: float) -> Any:
        """The verdict on a comparison whose interval is `values`."""
        better, null = ("higher", 0) if metric == "score_difference" else ("lower", 1)
        found = comparison("a", "b", metric, better, null, Estimate(sum(values) / 2, *values, p=0.5, detectable=1.0))
        return correct_together([found], margin)[0]["no_loss"]

    # The end that a loss would show at decides; the other one may lie anywhere.
    assert of("score_difference", (-0.04, 0.30), 0.05) and of("perplexity_ratio", (0.5, 1.04), 0.05)
    assert not of("score_difference", (-0.30, 0.04), 0.05) and not of("perplexity_ratio", (0.96, 1.5), 0.05)
    assert verdicts(None, None)[:3] == (None, None, None)
    score, perplexity, before, text = verdicts(0.05, 0.05)
    assert (score, perplexity, before) == (True, True, True) and "no loss beyond the margin of 0.05" in text
    *_, before, text = verdicts(0.05, None)
    assert before is False and "NOT stated before measuring" in text
    assert verdicts(0.001, 0.001)[1] is False
    two = [process, {**process, "process_id": "2", "noninferiority_margin": None}]
    later = [{**r, "process_id": "2"} if r["prompt_id"] == "p1" else r for r in rows]
    assert summarise(later, "id", "tiny", "toy", ["fast", "slow"], two, 0.05)["margin_stated_before"] is False
    unknown = summarise(later, "id", "tiny", "toy", ["fast", "slow"], [process], 0.05)
    assert unknown["margin_stated_before"] is False and unknown["machines"] == 2


def test_texts_that_are_all_the_same_show_no_loss() -> None:
    rows = [row(v, p) for v in ("fast", "slow") for p in "pqrst"]
    found = {c["metric"]: c for c in summarise(rows, "i", "m", "t", ["fast", "slow"], margin=0.01)["comparisons"]}
    assert found["score_difference"]["low"] is None and found["score_difference"]["no_loss"]


def test_a_text_without_a_score_leaves_the_score_null_with_a_reason() -> None:
    rows = [row("a", "p"), row("a", "q", score=None, grades={})]
    figures = summary_of(rows, "a")["decoders"]["a"]
    assert figures["score"]["value"] is None and "no score" in figures["score"]["reason"] and figures["grades"] == {}
    assert any("score: the task gives some texts no score" in line for line in printed(summary_of(rows, "a")))


def test_a_judge_that_could_not_read_is_named_under_the_table() -> None:
    unread = {"log_likelihood": None, "tokens": 4, "retokenised": True, "reason": "too long"}
    text = " ".join(printed(summary_of([row("a", p, judge=unread) for p in "pq"], "a")))
    assert "judge's ppl.: 2 of 2 texts: too long" in text and "judge's ppl.: retokenised" in text


def test_machines_and_disturbances_are_named_under_the_table() -> None:
    rows = [row("a", p, process_id=p, isolation={**QUIET, "others_cpu_cores": 1.5 if p == "p" else 0.0}) for p in "pq"]
    processes = [{"process_id": p, "machine": f"m{p}", "noninferiority_margin": None} for p in "pqr"]
    summary = summarise(rows, "id", "tiny", "toy", ["a"], processes)
    assert (summary["processes"], summary["machines"]) == (2, 2)
    text = " ".join(printed(summary))
    assert "MIXED: rows of 2 machines" in text and "1 of 2 texts were measured while other processes used" in text


def test_greedy_texts_of_lossless_decoders_are_compared_with_autoregressive_ones() -> None:
    greedy = {"sampling": {"greedy": True}, "gaps": [2.0, 0.001, 1.0, 1.0]}
    rows = [row(v, p, **greedy) for v in ("autoregressive", "speculative") for p in "pq"]
    rows[2]["token_ids"] = [5, 9, 5, 6]
    summary = summary_of(rows, "speculative", "autoregressive")
    left = summary["decoders"]["speculative"]["divergence"]
    assert (left["texts"], left["diverged"], left["largest_gap"], left["first"][0]["position"]) == (2, 1, 0.001, 1)
    assert summary["decoders"]["autoregressive"]["divergence"] is None
    assert "1 of 2 texts leave the greedy one" in " ".join(printed(summary))


def test_a_figure_of_one_variant_has_an_interval_of_its_own_that_holds_the_value() -> None:
    rows = [one | {"score": float(number % 3 > 0)} for number, one in enumerate(random_rows(12, 2))]
    figures = summary_of(rows, "fast", "slow")["decoders"]["fast"]
    intervals = figures["intervals"]
    for name in ("perplexity", "tokens_per_second", "tokens_per_target_forward"):
        known = intervals[name]
        assert known["low"] < figures[name] < known["high"] or "same value" in known["reason"], name
    assert intervals["score"]["low"] < figures["score"]["value"] < intervals["score"]["high"]


def test_an_interval_of_a_score_ends_at_0_and_1() -> None:
    rows = [one | {"score": float(number > 1)} for number, one in enumerate(random_rows(6, 1))]
    score = summary_of(rows, "fast", "slow")["decoders"]["fast"]["intervals"]["score"]
    assert 0 <= score["low"] < score["high"] == 1


def test_of_few_prompts_no_figure_has_an_interval() -> None:
    intervals = summary_of([row("a", "p"), row("b", "p")], "a", "b")["decoders"]["a"]["intervals"]
    assert all(
        one["low"] is None and one["high"] is None and "fewer than" in one["reason"] for one in intervals.values()
    )

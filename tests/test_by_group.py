"""Figures of the parts of a task, against rows whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from experiments.by_group import by_group
from experiments.comparisons import compare_all
from experiments.journal import Row
from experiments.summarise import summarise
from tests.made_rows import random_rows, row, timed


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """What the summary says of the rows of one variant."""
    label = rows[0]["variant"]
    of_label: dict[str, Any] = summarise(rows, "id", "tiny", "toy", [label])["decoders"][label]
    return of_label


def groups_of(rows: list[Row], baseline: str) -> dict[str, Any]:
    by_label: dict[str, list[Row]] = {}
    for r in rows:
        by_label.setdefault(r["variant"], []).append(r)
    found: dict[str, Any] = by_group(by_label, baseline, figures)["groups"]
    return found


def halves(prompts: int = 20, repeats: int = 2) -> list[Row]:
    """Rows of chance, every other prompt in one of two groups."""
    return [{**r, "group": ("even", "odd")[int(r["prompt_id"][1:]) % 2]} for r in random_rows(prompts, repeats)]


def test_a_task_without_groups_has_none() -> None:
    assert by_group({"a": [row("a", "p")]}, "a", figures) == {"groups": {}}


def test_the_figures_of_a_group_are_those_of_a_run_of_its_prompts_alone() -> None:
    rows = halves()
    found = groups_of(rows, "slow")["odd"]["fast"]
    alone = figures([r for r in rows if (r["group"], r["variant"]) == ("odd", "fast")])
    same = ("prompts", "rows", "tokens", "tokens_per_second", "tokens_per_target_forward", "perplexity", "score")
    assert {key: found[key] for key in same} == {key: alone[key] for key in same}
    assert (found["prompts"], found["rows"]) == (10, 20)
    assert found["draft_acceptance_rate"] == alone["acceptance"]["draft_acceptance_rate"] == 0.5


def test_the_comparisons_of_a_group_are_those_of_its_rows_and_say_that_they_are_not_corrected() -> None:
    rows = halves()
    found = groups_of(rows, "slow")["even"]["fast"]
    for one in compare_all([r for r in rows if r["group"] == "even"], [("fast", "slow")]):
        ours = found[one["metric"]]
        assert ours.items() >= {key: one[key] for key in ("value", "low", "high", "reason", "reference")}.items()
        assert ours["low"] < ours["value"] < ours["high"], "ten prompts are enough for an interval"
        assert ours["corrected"] is False and "p" not in ours
    assert found["speedup"]["value"] == pytest.approx(2, rel=0.2)


def test_intervals_of_groups_cover_the_truth_about_as_often_as_they_say() -> None:
    chance, covered, runs = np.random.default_rng(5), 0, 60
    for _ in range(runs):
        rows = []
        for prompt in range(12):
            pace = chance.lognormal(np.log(2), 0.3)  # its logarithm varies around that of 2
            rows.append(row("slow", f"p{prompt}", group="g"))
            rows.append(row("fast", f"p{prompt}", group="g", seconds=timed(0, 1 / pace)))
        speedup = groups_of(rows, "slow")["g"]["fast"]["speedup"]
        truth = 2 * np.exp(-(0.3**2) / 2)  # the ratio of sums: 1 / E(1 / pace)
        covered += speedup["low"] < truth < speedup["high"]
    assert covered >= 0.85 * runs  # 95 % expected; fewer than that with a chance below 1 in 200


def test_a_group_of_one_prompt_has_values_and_no_interval_and_says_why() -> None:
    rows = [row(v, p, group="lonely" if p == "p" else "rest") for v in ("a", "b") for p in "pqrstu"]
    rows[0]["seconds"] = timed(0.1, 0.5)
    speedup = groups_of(rows, "b")["lonely"]["a"]["speedup"]
    assert (speedup["value"], speedup["low"], speedup["high"]) == (2, None, None)
    assert "fewer than 5 prompts" in speedup["reason"]


def test_a_group_that_the_task_scores_has_a_score_where_the_whole_run_has_none() -> None:
    rows = [row("a", "p", group="maths"), row("a", "q", group="talk", score=None, grades={})]
    found = groups_of(rows, "a")
    assert figures(rows)["score"]["value"] is None
    assert found["maths"]["a"]["score"] == {"name": "accuracy", "value": 1, "reason": None}
    assert found["talk"]["a"]["score"]["value"] is None and found["talk"]["a"]["score"]["reason"]


def test_rows_of_no_group_count_in_none_and_turns_of_a_prompt_come_along() -> None:
    turns = [row("a", "p", group="talk", turn=turn) for turn in range(2)]
    found = groups_of([*turns, row("a", "q")], "a")
    assert list(found) == ["talk"]
    assert (found["talk"]["a"]["prompts"], found["talk"]["a"]["rows"]) == (1, 2)


def test_groups_stand_in_the_order_of_their_names_with_numbers_as_numbers() -> None:
    names = ["10 tables", "9 tables", "qa", "1 table", "math"]
    rows = [row("a", f"p{i}", group=name) for i, name in enumerate(names)]
    assert list(groups_of(rows, "a")) == ["1 table", "9 tables", "10 tables", "math", "qa"]


def test_every_null_of_a_group_has_a_reason_and_all_is_json() -> None:
    nothing: dict[str, Any] = {
        "counts": {"target_forwards": 0, "draft_forwards": 0, "drafted": 0, "accepted": 0},
        "seconds": timed(0.0, 0.0),
        "rounds": [],
        "token_ids": [5],
        "log_likelihoods": [-1.0],
    }
    found = groups_of([row(v, "p", group="g", **nothing) for v in ("a", "b")], "b")["g"]["a"]
    null = {name for name, value in found.items() if value is None and not name.endswith("_reason")}
    assert {"tokens_per_second", "draft_acceptance_rate", "distinct_2"} <= null
    assert all(found[f"{name}_reason"] for name in null)
    assert found["speedup"]["value"] is None and found["speedup"]["reason"]
    json.dumps(found, allow_nan=False)


def test_the_baseline_is_as_fast_as_itself_and_no_interval_is_made_of_that() -> None:
    speedup = groups_of(halves(), "slow")["odd"]["slow"]["speedup"]
    assert (speedup["value"], speedup["low"]) == (1, None) and "same value" in speedup["reason"]

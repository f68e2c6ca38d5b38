"""What comparisons say of a sample: intervals, p-values, detectable effects, each against another computation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.intervals import estimate, holm
from tests.made_rows import random_rows, row, summary_of

SCRIPT = Path(__file__).with_name("reproduce_intervals.py")


def comparison(summary: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = (c for c in summary["comparisons"] if (c["decoder"], c["metric"]) == ("fast", metric))
    assert found["reference"] == "slow"
    return dict(found)


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


def test_holm_is_over_all_comparisons_with_one_reference() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []
    rows = [*random_rows(12, 1), *({**r, "variant": "other"} for r in random_rows(12, 1) if r["variant"] == "fast")]
    found = [c for c in summary_of(rows, "fast", "slow", "other")["comparisons"] if c["reference"] == "slow"]
    assert {c["family_size"] for c in found} == {8}  # two variants, four metrics
    assert [c["p_holm"] for c in found] == pytest.approx(holm([c["p"] for c in found]))


def test_the_smallest_detectable_effect_is_found_in_four_of_five_samples() -> None:
    chance = np.random.default_rng(4)
    found, planned = 0, []
    for effect in (0.0, 0.3):
        for _ in range(100):
            sample = chance.normal(effect, 0.6, 30)
            known = estimate(lambda x: x.mean(axis=-1), [sample], null=0.0)
            assert known.p is not None and known.detectable is not None
            found += effect > 0 and known.p < 0.05
            planned.append(known.detectable)
    # 0.3 is 0.96 of the effect that thirty such numbers detect in 80 % of the cases: (t.975 + t.8) 0.6 / sqrt 30.
    assert np.mean(planned) == pytest.approx(0.317, rel=0.05) and 65 <= found <= 85


def test_intervals_of_a_handful_of_units_hold_the_truth_about_as_often_as_they_say() -> None:
    chance = np.random.default_rng(8)
    held = 0
    for _ in range(200):
        known = estimate(lambda x: x.mean(axis=-1), [chance.normal(1.0, 0.3, 5)], null=1.0)
        assert known.low is not None and known.high is not None
        held += known.low <= 1.0 <= known.high
    assert 0.88 <= held / 200 <= 0.99  # a plain percentile interval holds it in 80 to 84 % of the cases


@pytest.mark.parametrize("repeats", [1, 2])
def test_an_independent_script_finds_the_same_intervals(repeats: int, tmp_path: Path) -> None:
    rows = random_rows(30, repeats)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def script(summary: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        return subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)

    summary = summary_of(rows, "fast", "slow")
    done = script(summary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" agrees ") == 4
    for key, factor in (("value", 1.001), ("high", 1.05), ("detectable", 1.2), ("p_holm", 0.5)):
        wrong = json.loads(json.dumps(summary))
        wrong["comparisons"][-1 if key == "p_holm" else 0][key] *= factor
        assert script(wrong).returncode == 1, key

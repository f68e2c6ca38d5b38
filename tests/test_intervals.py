"""What comparisons say of a sample: intervals, p-values, detectable effects, each against another computation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from experiments.intervals import estimate, holm
from tests.made_rows import random_rows, row, summary_of

SCRIPT = Path(__file__).with_name("reproduce_intervals.py")


def comparison(summary: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = (c for c in summary["comparisons"] if (c["decoder"], c["metric"]) == ("fast", metric))
    assert found["reference"] == "slow"
    return dict(found)


@pytest.mark.parametrize("size", [5, 6, 30])
def test_of_a_plain_mean_all_figures_are_those_of_the_t_test(size: int) -> None:
    sample = np.random.default_rng(size).normal(0.4, 1.0, size)
    found = estimate(lambda x: x.mean(axis=-1), [sample], null=0.0)
    known = ttest_1samp(sample, 0.0)
    ends = known.confidence_interval(0.95)
    assert found.p is not None
    assert t.isf(found.p / 2, size - 1) == pytest.approx(abs(known.statistic), rel=0.04)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.03 * (ends.high - ends.low))
    least = (t.ppf(0.975, size - 1) + t.ppf(0.8, size - 1)) * sample.std(ddof=1) / np.sqrt(size)
    assert found.detectable == pytest.approx(least, rel=0.04)


def test_interval_and_p_never_contradict_each_other() -> None:
    chance = np.random.default_rng(2)
    for _ in range(60):
        samples = [chance.lognormal(0.0, 0.6, 8) for _ in range(2)]
        found = estimate(lambda x, y: x.sum(axis=-1) / y.sum(axis=-1), samples)
        assert found.low is not None and found.high is not None and found.p is not None
        assert (found.p < 0.05) == (not found.low <= 1 <= found.high)


def test_a_ratio_that_is_undefined_in_a_resample_has_no_interval() -> None:
    gone = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = estimate(lambda x, y: x.sum(axis=-1) / y.sum(axis=-1), [np.ones(5), gone], undefined="nothing below")
    assert found.value == 5.0 and found.reason == "no interval: in some resamples nothing below"
    assert estimate(lambda x: x.sum(axis=-1), [-np.ones(5)]).value is None


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
    told = ("variant", "prompt_id", "turn", "repeat", "process_id")
    grades = [{**{key: row[key] for key in told}, "grades": {"accuracy": row.pop("score")}} for row in map(dict, rows)]
    for name, records in (("samples", rows), ("grades", grades)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))

    def script(summary: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        return subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True)

    summary = summary_of(rows, "fast", "slow")
    done = script(summary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" agrees ") == 4
    missing = json.loads(json.dumps(summary))
    del missing["comparisons"][1]
    assert script(missing).returncode == 1
    unsure = json.loads(json.dumps(summary))
    unsure["comparisons"][0] |= {"low": None, "high": None, "p": None, "detectable": None}
    assert script(unsure).returncode == 1
    for key, factor in (("value", 1.001), ("high", 1.05), ("detectable", 1.2), ("p_holm", 0.5)):
        wrong = json.loads(json.dumps(summary))
        wrong["comparisons"][-1 if key == "p_holm" else 0][key] *= factor
        assert script(wrong).returncode == 1, key

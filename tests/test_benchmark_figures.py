"""Figures of the benchmark: verdicts by interval, what quality allows, bandwidth, and pairs that were never trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.benchmark.bandwidth import read_bandwidth
from experiments.benchmark.estimates import MISSED, OPEN, REACHED, Known, judged, not_worse, unknown, verdict
from experiments.benchmark.options import Aim
from experiments.benchmark.texts import used
from experiments.cost.arithmetic import Arithmetic


def figure(value: float, low: float | None, high: float | None) -> Known:
    return {"value": value, "low": low, "high": high, "reason": None, "n": 9, "unit": "prompts"}


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [(1.3, 1.5, REACHED, MISSED), (1.1, 1.3, OPEN, OPEN), (0.9, 1.1, MISSED, REACHED)],
)
def test_an_aim_is_judged_by_the_whole_interval(low: float, high: float, at_least: str, at_most: str) -> None:
    measured = figure((low + high) / 2, low, high)
    assert verdict(Aim("x", at_least=1.2), measured)[0] == at_least
    assert verdict(Aim("x", at_most=1.2), measured)[0] == at_most


def test_without_an_interval_nothing_is_claimed() -> None:
    assert verdict(Aim("x", at_least=1), figure(9, None, None))[0] == OPEN
    assert verdict(Aim("x", at_least=1), unknown("why")) == (OPEN, "why")


def test_speed_does_not_make_up_for_quality() -> None:
    fast = figure(2, 1.9, 2.1)
    found = [verdict(Aim("x", at_least=1.2), fast, condition)[0] for condition in (REACHED, OPEN, MISSED)]
    assert found == [REACHED, OPEN, MISSED]
    aims = [Aim("a", at_least=1, quality="mtad"), Aim("b", at_least=1)]
    sections: dict[str, Any] = {"texts": {"figures": {"a": fast}, "quality": {"mtad": MISSED}}}
    assert [one["verdict"] for one in judged(aims, sections)] == [MISSED, OPEN]


@pytest.mark.parametrize(
    ("perplexity", "score", "says"),
    [
        ((0.95, 0.9, 1.0), (0.1, -0.1, 0.3), REACHED),
        ((0.95, 0.9, 1.0), (0.0, None, None), REACHED),  # all prompts score the same
        ((1.02, 0.98, 1.06), (0.1, -0.1, 0.3), OPEN),
        ((1.05, 1.01, 1.09), (0.1, -0.1, 0.3), MISSED),
        ((0.95, 0.9, 1.0), (-0.1, -0.3, 0.1), OPEN),
        ((1.02, 0.98, 1.06), (-0.2, -0.3, -0.1), MISSED),
    ],
)
def test_quality_holds_by_the_values_unless_an_interval_shows_a_loss(
    perplexity: tuple[float, float, float], score: tuple[float, float | None, float | None], says: str
) -> None:
    assert not_worse(figure(*perplexity), figure(*score)) == says
    assert not_worse(unknown("random weights"), figure(*score)) != REACHED


def test_bandwidth_is_bytes_over_seconds_and_the_larger_way_counts() -> None:
    found = read_bandwidth(torch.device("cpu"), 2**20, 3)
    both = found["read_gigabytes_per_second"], found["copy_gigabytes_per_second"]
    assert found["gigabytes_per_second"] == max(both) and min(both) > 0 and found["tensor_bytes"] == 2**20


def test_the_used_share_is_the_time_of_reading_weights_and_cache_over_that_of_decoding() -> None:
    model = Arithmetic(products=90, weights=100, attention_width=1, cache_width=2, number_bytes=2)
    row = {"token_ids": [0] * 4, "prompt_tokens": 7, "seconds": {"decode": 8.0}}
    share = used(model, bytes_per_second=1000)
    # 4 forwards of (100 weights + (9 in the cache + 1 new) * 2 numbers) * 2 bytes, at 1000 bytes a second
    assert share.numerator(row) == pytest.approx(4 * 240 / 1000) and share.denominator(row) == 8

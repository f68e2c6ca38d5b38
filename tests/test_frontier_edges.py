"""The frontier where points coincide, settings are close, or nobody asked for it by name."""

from __future__ import annotations

import pytest

from experiments.frontier import FrontierSettings
from experiments.summarise import summarise
from mtad.law import Sampling
from tests.made_rows import fixed, sampling, swept
from tests.test_frontier import distance, found_in


def test_of_neighbours_with_the_very_diversity_of_the_decoder_the_better_one_counts() -> None:
    rows = {
        "main": fixed("main", 13, -0.5, 0.8, lossless=False, sampling=sampling()),
        "autoregressive": fixed("autoregressive", 13, -2.0, 0.2, **swept(1.0)),
        "T=0.5": fixed("T=0.5", 13, -0.5, 0.8, **swept(0.5)),
    }
    found = found_in(rows)
    assert distance(found, "perplexity_ratio")["value"] == pytest.approx(1)
    assert distance(found, "score_difference")["value"] == pytest.approx(0)


def test_close_settings_have_labels_of_their_own() -> None:
    assert len(FrontierSettings((0.5, 0.5000001), (1, 0.9999999)).samplings(Sampling())) == 4


def test_a_sweep_that_the_references_make_is_a_frontier_too() -> None:
    rows = [*fixed("main", 9, -1.0, 0.5, lossless=False, sampling=sampling())]
    rows += fixed("autoregressive", 8, -1.5, 0.4, **swept(1.0)) + fixed("cold", 10, -0.5, 0.6, **swept(0.5))
    summary = summarise(rows, "id", "tiny", "toy", ["main", "autoregressive", "cold"])
    assert [point["variant"] for point in summary["frontier"]["points"]] == ["cold", "autoregressive"]

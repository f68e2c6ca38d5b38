"""The frontier of colder sampling: what is measured for it, and distances from it where the truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments import groups
from experiments.baseline import FRONTIER
from experiments.build import build, construct
from experiments.frontier import FrontierSettings, Mixtures, frontier
from experiments.intervals import holm
from experiments.journal import Row
from experiments.quality import quality
from experiments.summarise import summarise
from experiments.variants import Variant, make_variants
from mtad.decoder import Engine
from mtad.errors import UserError
from mtad.law import Sampling
from tests.made_rows import fixed, mixture, row, sampling, swept
from tests.toy import composed, settings_of


def variants_of(settings: FrontierSettings, reference: object, *overrides: str) -> tuple[Variant, ...]:
    with composed(*overrides) as config:
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        return make_variants(plain["decoder"], plain["sampling"], reference, settings)


def found_in(rows: Mapping[str, Sequence[Row]], margin: float | None = None) -> dict[str, Any]:
    """The frontier of these rows."""
    figures = {label: {**quality(of), "score": {"value": of[0]["score"]}} for label, of in rows.items()}
    found = frontier(rows, figures, margin)["frontier"]
    assert isinstance(found, dict)
    return found


def distance(found: Mapping[str, Any], metric: str, decoder: str = "main", diversity: str = "distinct_2") -> Any:
    (one,) = (
        d for d in found["distances"] if (d["decoder"], d["metric"], d["diversity"]) == (decoder, metric, diversity)
    )
    return one


def test_a_sweep_is_made_of_samplings_that_differ_from_the_runs_in_one_knob() -> None:
    base = Sampling(0.8, 5, 0.7)
    assert FrontierSettings((0, 0.5), (0.2, 1)).samplings(base) == {
        "T=0": Sampling(0.8, 5, 0.7, greedy=True),
        "T=0.5": Sampling(0.5, 5, 0.7),
        "top-p=0.2": Sampling(0.8, 5, 0.2),
        "top-p=1": Sampling(0.8, 5, 1.0),
    }
    greedy = FrontierSettings((0, 0.5), (0.2,)).samplings(Sampling(greedy=True))
    assert [one.greedy for one in greedy.values()] == [True, False, False]
    assert FrontierSettings().samplings(base) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": [-1]}, "frontier.temperature must be a number >= 0"),
        ({"top_p": [0.5, 0]}, "frontier.top_p must be in \\(0, 1\\], not 0"),
        ({"top_p": [1.5]}, "frontier.top_p must be in"),
        ({"temperature": ["cold"]}, "must be a number, not 'cold'"),
        ({"temperature": 0.5}, "must be a list"),
        ({"heat": [1]}, "no option 'heat'"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        construct("frontier", FrontierSettings, options)
    assert "\n" not in str(error.value)


def test_points_are_added_to_the_variants_and_none_is_measured_twice() -> None:
    def labels(settings: FrontierSettings, *args: Any) -> list[tuple[str, str]]:
        return [(variant.label, variant.group) for variant in variants_of(settings, *args)]

    usual = [("mtad", ""), ("autoregressive", ""), ("speculative", "")]
    two = FrontierSettings((0, 1), (0.5, 0.9))  # 1 and 0.9 are the run's own
    points = [("T=0", FRONTIER), ("top-p=0.5", FRONTIER)]
    assert labels(FrontierSettings(), ["autoregressive", "speculative"]) == usual
    assert labels(two, ["autoregressive", "speculative"]) == [*usual, *points]
    assert labels(two, []) == [*usual[:2], *points], "the sweeps start at the run's own sampling"
    cold = {"decoder": "autoregressive", "sampling": "greedy", "label": "cold"}
    assert labels(two, [cold]) == [usual[0], ("cold", ""), usual[1], points[1]]
    hot = [("mtad", ""), ("autoregressive", ""), ("T=0", FRONTIER), ("T=1", FRONTIER), *points[1:]]
    assert labels(two, [], "sampling.temperature=1.5") == hot
    with pytest.raises(UserError, match="2 variants are called 'autoregressive'"):
        labels(two, [{**cold, "label": "autoregressive"}])


def test_the_experiment_sweeps_both_knobs_beside_every_lossy_decoder() -> None:
    settings = settings_of("experiment=frontier")
    sweep = settings.config["frontier"]
    assert min(sweep["temperature"]) == 0 and max(sweep["temperature"]) > 1 and min(sweep["top_p"]) < 0.2
    assert settings.repeats > 1, "self-BLEU needs repeats"
    lossy = {v.name for v in settings.variants if not v.decoder.lossless}
    with composed():
        decoders = {name: build(name, groups.load("decoder", name)) for name in groups.names("decoder")}
    assert lossy == {name for name, d in decoders.items() if not (d.lossless or isinstance(d, Engine))}
    points = {v.label for v in settings.variants if v.group == FRONTIER}
    assert points == {f"T={t:g}" for t in sweep["temperature"] if t != 1} | {
        f"top-p={p:g}" for p in sweep["top_p"] if p != 0.9
    }
    assert {v.label for v in settings.variants if v.decoder.lossless} == {"autoregressive", *points}


def test_without_a_sweep_there_is_no_frontier_and_the_summary_says_so() -> None:
    rows = [row(v, p, sampling=sampling()) for v in ("a", "autoregressive") for p in "pq"]
    summary = summarise(rows, "id", "tiny", "toy", ["a", "autoregressive"])
    assert summary["frontier"] is None and "one setting only" in summary["frontier_reason"]


def test_points_stand_in_their_knobs_order_and_greedy_ends_both_sweeps() -> None:
    samplings = {
        "hot": sampling(temperature=1.3),
        "narrow": sampling(top_p=0.2),
        "T=0": sampling(greedy=True, top_k=3),  # argmax is argmax
        "autoregressive": sampling(),
        "neither": sampling(temperature=0.5, top_p=0.5),
    }
    rows = {label: fixed(label, 5, -1.0, 0.5, decoder="autoregressive", sampling=s) for label, s in samplings.items()}
    rows = {"main": fixed("main", 5, -1.0, 0.5, lossless=False, sampling=sampling()), **rows}

    def points(*without: str) -> list[tuple[Any, ...]]:
        found = found_in({label: of for label, of in rows.items() if label not in without})
        return [tuple(point[key] for key in ("knob", "value", "variant")) for point in found["points"]]

    warm = [("temperature", 0.0, "T=0"), ("temperature", 1.0, "autoregressive"), ("temperature", 1.3, "hot")]
    narrow = [("top_p", 0.0, "T=0"), ("top_p", 0.2, "narrow"), ("top_p", 0.9, "autoregressive")]
    assert points() == [*warm, *narrow]
    assert points("narrow") == warm, "a knob that is not turned has no sweep"
    assert points("T=0", "hot") == narrow[1:]


def test_a_mixture_of_two_settings_lies_on_the_frontier_exactly() -> None:
    cold = {"token_ids": [1, 1, 1, 2, 1, 1, 1, 2], "log_likelihoods": [-0.5] * 8, "score": 1.0}
    warm = {"token_ids": list(range(20)), "log_likelihoods": [-2.0] * 20, "score": 0.25}

    def rows(label: str, share: int, **changes: Any) -> list[Row]:
        return [row(label, f"p{i}", **{**(cold if i < share else warm), **changes}) for i in range(8)]

    found = found_in(
        {
            "main": rows("main", 3, lossless=False, sampling=sampling()),
            "autoregressive": rows("autoregressive", 0, **swept(1)),
            "T=0": rows("T=0", 8, **swept(0)),
        }
    )
    for metric, null in (("perplexity_ratio", 1), ("score_difference", 0)):
        one = distance(found, metric)
        assert one["value"] == pytest.approx(null, abs=1e-12)
        assert (one["between"], one["null"]) == (["T=0", "autoregressive"], null)
        assert one["at"] == pytest.approx((3 * 3 / 7 + 5) / 8)
        assert one["low"] is None and "same value" in one["reason"], "nor does it leave it in any resample"
    assert found["points"][0] == {
        **{"variant": "T=0", "knob": "temperature", "value": 0.0, "self_bleu": None, "score": 1.0},
        **{"distinct_2": pytest.approx(3 / 7), "perplexity": pytest.approx(math.exp(0.5))},
    }


def two_sweeps(**main: Any) -> dict[str, list[Row]]:
    """Temperature (distinct-2 of 4/12 to 11/12) and top-p (8/12 to 10/12), the latter the better one."""
    main = {"distinct": 9, "logp": -1.4, "score": 0.5, **main}
    narrow = {"decoder": "autoregressive", "sampling": sampling(top_p=0.5)}
    return {
        "main": fixed("main", **main, lossless=False, sampling=sampling()),
        "autoregressive": fixed("autoregressive", 10, -2.0, 0.2, **swept(1)),
        "T=0.5": fixed("T=0.5", 4, -0.5, 0.8, **swept(0.5)),
        "T=1.5": fixed("T=1.5", 11, -0.2, 0.9, **swept(1.5)),
        "top-p=0.5": fixed("top-p=0.5", 8, -1.0, 0.6, **narrow),
    }


def test_the_frontier_is_the_best_mixture_of_neighbours_of_either_sweep() -> None:
    found = found_in(two_sweeps())
    assert distance(found, "perplexity_ratio")["value"] == pytest.approx(math.exp(1.4 - 1.5))
    assert distance(found, "score_difference")["value"] == pytest.approx(0.5 - 0.4)
    below = found_in(two_sweeps(distinct=7))  # only the temperature gets there
    assert distance(below, "perplexity_ratio")["value"] == pytest.approx(math.exp(1.4 - 1.25))
    assert distance(below, "perplexity_ratio")["between"] == ["T=0.5", "autoregressive"]


@pytest.mark.parametrize(
    ("distinct", "way", "nearest"),
    [(3, "less", "0.083 of distinct-2 from T=0.5"), (12, "more", "0.083 of distinct-2 from T=1.5")],
)
def test_nothing_is_extrapolated(distinct: int, way: str, nearest: str) -> None:
    found = found_in(two_sweeps(distinct=distinct))
    for metric in ("perplexity_ratio", "score_difference"):
        one = distance(found, metric)
        assert (one["value"], one["low"], one["p"], one["p_holm"], one["between"]) == (None,) * 5
        assert one["reason"] == f"{way} diverse than every point of the frontier, by {nearest}"
    json.dumps(found, allow_nan=False)


def test_repeats_give_a_second_measure_of_diversity_in_which_less_is_more() -> None:
    def rows(label: str, same: int, **changes: Any) -> list[Row]:
        """Two texts of ten tokens a prompt, the first `same` of them the same."""
        texts = [list(range(10)), [*range(same), *range(20, 30 - same)]]
        return [row(label, f"p{i}", k, token_ids=texts[k], **changes) for i in range(6) for k in range(2)]

    lossy = {"lossless": False, "sampling": sampling()}
    sweep = {
        "T=0": rows("T=0", 10, **swept(0)),
        "autoregressive": rows("autoregressive", 5, **swept(1)),
    }
    found = found_in({"main": rows("main", 8, **lossy), "other": rows("other", 0, **lossy), **sweep})
    assert found["diversity"] == ["distinct_2", "self_bleu"] and found["diversity_reason"] is None
    assert len(found["distances"]) == 2 * 2 * 2
    one = distance(found, "score_difference", diversity="self_bleu")
    assert 0 < one["at"] < 1 and one["value"] == 0 and one["between"] == ["T=0", "autoregressive"]
    outside = distance(found, "score_difference", "other", "self_bleu")
    assert outside["reason"].startswith("more diverse") and outside["reason"].endswith("self-BLEU from autoregressive")
    single = found_in(
        {
            label: [r for r in of if r["repeat"] == 0]
            for label, of in {"main": rows("main", 8, **lossy), **sweep}.items()
        }
    )
    assert single["diversity"] == ["distinct_2"] and "no prompt has two" in single["diversity_reason"]


@pytest.mark.parametrize("label", ["main", "T=0.5"])
def test_what_a_decoder_or_a_point_lacks_leaves_the_distance_null_with_a_reason(label: str) -> None:
    rows = two_sweeps()
    rows[label][2] |= {"score": None, "log_likelihoods": [None] * 13, "log_likelihoods_reason": "overflow"}
    found = found_in(rows)
    assert "finite" in distance(found, "perplexity_ratio")["reason"]
    assert distance(found, "score_difference")["reason"] == "the task gives no score"
    assert distance(found, "score_difference")["at"] == pytest.approx(9 / 12)


def test_only_lossy_decoders_have_a_distance_and_these_are_a_family_of_their_own() -> None:
    chance = np.random.default_rng(5)
    rows = mixture(chance, 30)
    rows["other"] = [{**r, "variant": "other", "lossless": True} for r in rows["main"]]
    rows["again"] = [{**r, "variant": "again"} for r in mixture(chance, 30, 0.1)["main"]]
    found = found_in(rows, margin=0.5)["distances"]
    assert {one["decoder"] for one in found} == {"main", "again"}
    assert [one["p_holm"] for one in found] == pytest.approx(holm([one["p"] for one in found]))
    assert {(one["family_size"], one["reference"], one["margin"]) for one in found} == {(4, FRONTIER, 0.5)}
    groups = {label: FRONTIER for label in rows if label.startswith("T=")}
    summary = summarise([r for of in rows.values() for r in of], "id", "tiny", "toy", list(rows), groups=groups)
    assert {one["decoder"] for one in summary["frontier"]["distances"]} == {"main", "again"}
    assert not any(c["family_size"] % 4 for c in summary["comparisons"] if c["reference"] == "autoregressive")
    assert {c["reference"] for c in summary["comparisons"] if c["decoder"] == "T=0"} == {"autoregressive"}
    json.dumps(summary, allow_nan=False)


def test_the_frontier_of_many_resamples_at_once_is_that_of_one_after_the_other() -> None:
    chance = np.random.default_rng(7)
    neighbours = np.array([[0, 1], [1, 2], [3, 1]])
    outside = 0
    for sums in chance.uniform(0.5, 2.0, (200, 2, 4, 2)):
        at = chance.uniform(0.3, 3.0)
        d, v = sums
        best = -math.inf
        for one, other in neighbours:
            shares = np.linspace(0, 1, 20_001)
            mixed = [shares * s[one, k] + (1 - shares) * s[other, k] for s in (d, v) for k in (0, 1)]
            there = np.abs(mixed[0] / mixed[1] - at)
            if there.min() < 2e-4:
                best = max(best, float((mixed[2] / mixed[3])[there.argmin()]))
        if best == -math.inf:  # the nearest end
            end = np.abs(d[:, 0] / d[:, 1] - at).argmin()
            best, outside = float(v[end, 0] / v[end, 1]), outside + 1
        stacked = Mixtures(np.stack([d, d]), np.stack([v, v]), neighbours)
        assert stacked.best(np.array([at, at])) == pytest.approx([best, best], abs=2e-3)
    assert 20 < outside < 180


def test_intervals_hold_the_true_distance_about_as_often_as_they_say_and_a_better_decoder_is_found() -> None:
    chance = np.random.default_rng(11)
    runs, better = 150, 0.35
    held = {"mixture": 0, "better": 0, "score": 0}
    noticed = {"mixture": 0, "better": 0}
    for _ in range(runs):
        for name, gain in (("mixture", 0.0), ("better", better)):
            found = found_in(mixture(chance, 40, gain))
            ratio = distance(found, "perplexity_ratio")
            held[name] += ratio["low"] <= math.exp(-gain) <= ratio["high"]
            noticed[name] += ratio["high"] < 1
            if name == "mixture":
                score = distance(found, "score_difference")
                held["score"] += score["low"] <= 0 <= score["high"]
    assert all(0.90 <= times / runs <= 0.987 for times in held.values()), held
    assert noticed["mixture"] / runs <= 0.05 and noticed["better"] / runs > 0.8, noticed


@pytest.mark.parametrize("prompts", [5, 6, 7, 11, 13, 29])
def test_a_decoder_as_little_diverse_as_greedy_sampling_is_at_the_end_and_not_beyond(prompts: int) -> None:
    chance = np.random.default_rng(prompts)
    length = [int(chance.integers(5, 40)) for _ in range(prompts)]

    def rows(label: str, of: int, **changes: Any) -> list[Row]:
        """Two texts of a prompt, drawn from so many tokens; the same two if there is no choice."""
        made = []
        for i, n in enumerate(length):
            for repeat in range(2):
                text = chance.integers(0, of, n).tolist() if of else list(range(n))
                own = {"token_ids": text, "log_likelihoods": [-1.0] * n}
                made.append(row(label, f"p{i}", repeat, **own, **changes))
        return made

    sweep = {"T=0": rows("T=0", 0, **swept(0)), "autoregressive": rows("autoregressive", 3, **swept(1))}
    found = found_in({"main": rows("main", 0, lossless=False, sampling=sampling()), **sweep})
    for measure in ("distinct_2", "self_bleu"):
        one = distance(found, "perplexity_ratio", diversity=measure)
        assert one["value"] == pytest.approx(1) and one["between"] == ["T=0", "autoregressive"]

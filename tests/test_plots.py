"""Plots hold the summary's numbers and say what they rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from experiments.report.plots import picture
from experiments.report.plots.measured import Value, compared, measured
from experiments.report.plots.options import lines_along
from experiments.report.plots.scatter import correlation
from experiments.report.plots.speed import KINDS, kind
from experiments.report.plots.style import look
from experiments.report.results import Run
from tests.drawn import PANELS, REAL, TINY, along_gamma, bars, of, summary, texts
from tests.made_rows import random_rows, summary_of, with_frontier


def test_points_and_intervals_of_quality_against_speed_are_those_of_the_summary() -> None:
    made = summary()
    found = {one["metric"]: one for one in made["comparisons"] if one["decoder"] == "mtad"}
    x = found["speedup"]
    panels = of(made)["quality-speed"].figure.axes
    for axes, metric in zip(panels, ("perplexity_ratio", "score_difference"), strict=True):
        y = found[metric]
        points = [line for line in axes.lines if line.get_marker() == KINDS["lossy"].marker]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [(x["value"], y["value"])]
        assert set(bars(axes)) == {
            tuple(np.round((x["low"], y["value"], x["high"], y["value"]), 9)),
            tuple(np.round((x["value"], y["low"], x["value"], y["high"]), 9)),
        }
        assert [text.get_text() for text in axes.texts] == ["1"]


def test_a_task_without_a_score_leaves_no_empty_axes() -> None:
    made = summary()
    for one in made["comparisons"]:
        if one["metric"] == "score_difference":
            one |= {"value": None, "low": None, "high": None, "reason": "the task gives no score"}
    plot = of(made)["quality-speed"]
    assert "the task gives no score" in texts(plot)
    assert [axes.axison for axes in plot.figure.axes] == [True, False]


def test_every_variant_has_the_look_of_its_kind() -> None:
    made = summary()

    def of_mtad(**changes: Any) -> str:
        return kind(Run("made", None, {**made, "decoders": {**made["decoders"], "mtad": figures | changes}}), "mtad")

    figures = made["decoders"]["mtad"]
    assert of_mtad() == of_mtad(sampling={"temperature": 0.7}) == "lossy"
    assert of_mtad(lossless=True) == "lossless"
    assert of_mtad(lossless=True, sampling={"temperature": 0.7}) == "lossless, but of another sampling"
    assert of_mtad(lossless=True, kind="engine") == "other library"
    assert of_mtad(lossless=None) == "kind not recorded"
    assert len({one.colour for one in KINDS.values()}) == len({one.marker for one in KINDS.values()}) == len(KINDS)


def test_a_frontiers_sweep_is_a_line_through_its_points_in_the_knobs_order() -> None:
    made = {**with_frontier(), **REAL}
    found = {(one["decoder"], one["metric"]): one["value"] for one in made["comparisons"]}
    order = [point["variant"] for point in made["frontier"]["points"]]
    assert order == ["T=0", "T=0.5", "autoregressive", "T=1.5"]
    axes = of(made)["quality-speed"].figure.axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) > 2]
    values = [1 if label == "autoregressive" else found[label, "perplexity_ratio"] for label in order]
    assert [list(line.get_ydata()) for line in lines] == [values]
    swept = of(made)["frontier"].figure.axes[0].lines[0]
    assert list(swept.get_ydata()) == [point["perplexity"] for point in made["frontier"]["points"]]
    assert list(swept.get_xdata()) == [point["distinct_2"] for point in made["frontier"]["points"]]


def test_a_bar_beside_the_frontier_is_the_interval_of_the_distance() -> None:
    made = {**with_frontier(), **REAL}
    distance = {one["metric"]: one for one in made["frontier"]["distances"]}["perplexity_ratio"]
    own = made["decoders"]["main"]["perplexity"]
    ((_, low, _, high),) = bars(of(made)["frontier"].figure.axes[0])
    assert (low / own, high / own) == pytest.approx(
        (distance["low"] / distance["value"], distance["high"] / distance["value"])
    )


def test_variants_are_lines_along_the_option_that_the_run_names() -> None:
    made = along_gamma()
    plot = of(made)["gamma-sweep"]
    for axes, metric in zip(plot.figure.axes, PANELS, strict=True):
        exact, beam = (line for line in axes.lines if len(line.get_xdata()) == 3)
        for line, search in ((exact, "exact"), (beam, "beam")):
            run = Run("made", None, made)
            expected = [measured(run, f"{search} {gamma}", metric).value for gamma in (1, 2, 4)]
            assert list(line.get_xdata()) == [1, 2, 4]
            assert list(line.get_ydata()) == expected
        (level,) = (line for line in axes.lines if len(line.get_xdata()) == 2)
        assert len(set(level.get_ydata())) == 1
        assert axes.get_ylabel().endswith(f"({'lower' if metric == 'perplexity' else 'higher'} is better)")
    named = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert named == ["mjgd search=exact", "mjgd search=beam", "autoregressive"]
    assert "wide" in plot.caption


def test_an_interval_is_drawn_as_long_as_it_is() -> None:
    made = along_gamma()
    found = {
        (one["decoder"], one["metric"]): one for one in made["comparisons"] if one["reference"] == "autoregressive"
    }
    perplexity, score, speedup = (bars(axes) for axes in of(made)["gamma-sweep"].figure.axes)
    for search, gamma in (("exact", 1), ("beam", 4)):
        label = f"{search} {gamma}"
        own, speed = made["decoders"][label]["intervals"], found[label, "speedup"]
        for name, drawn in (("perplexity", perplexity), ("score", score)):
            assert tuple(np.round((gamma, own[name]["low"], gamma, own[name]["high"]), 9)) in drawn
        assert tuple(np.round((gamma, speed["low"], gamma, speed["high"]), 9)) in speedup


def test_all_that_is_drawn_lies_within_the_axes() -> None:
    plot = of(along_gamma())["gamma-sweep"]
    picture(plot, "png")
    for axes in plot.figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert bars(axes)
        assert all(left < x < right and bottom < low <= high < top for x, low, _, high in bars(axes))


def test_a_figure_without_an_interval_gets_no_bar() -> None:
    made = along_gamma()
    made["decoders"]["exact 1"]["intervals"]["perplexity"] = {"low": None, "high": None, "reason": "few"}
    run = Run("made", None, made)
    assert measured(run, "exact 1", "perplexity").reach is None
    assert measured(run, "exact 2", "perplexity").reach is not None


def test_series_differ_in_colour_and_marker_as_long_as_there_are_any_left() -> None:
    looks = [look(number) for number in range(77)]
    assert len({(one.colour, one.marker) for one in looks}) == 77
    assert len({one.colour for one in looks[:7]}) == len({one.marker for one in looks[:7]}) == 7
    lines = [line for line in of(along_gamma())["gamma-sweep"].figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert len({to_hex(line.get_color()) for line in lines}) == len({line.get_marker() for line in lines}) == 3


def test_a_missing_point_is_left_out_and_named_with_its_reason() -> None:
    made = along_gamma()
    made["decoders"]["exact 2"] |= {"perplexity": None, "perplexity_reason": "the text is empty"}
    plot = of(made)["gamma-sweep"]
    exact, beam = (line for line in plot.figure.axes[0].lines if len(line.get_xdata()) == 3)
    assert list(np.isnan(exact.get_ydata())) == [False, True, False]
    assert not np.isnan(beam.get_ydata()).any()
    assert "exact 2 (the text is empty)" in plot.caption


def test_a_panel_of_an_unknown_figure_says_so() -> None:
    plot = of(along_gamma(figure={"x": "gamma", "panels": ["perplexity", "beauty"]}))["gamma-sweep"]
    assert "there is no such figure" in texts(plot)
    assert "beauty" in plot.figure.axes[1].get_ylabel()


def test_a_run_that_names_no_option_or_one_that_none_has_is_drawn_without_a_sweep() -> None:
    assert not [name for name in of(along_gamma(figure=None)) if name.endswith("-sweep")]
    assert not [name for name in of(along_gamma(figure={"x": "tau", "panels": ["score"]})) if name.endswith("-sweep")]


def test_values_of_an_option_that_are_no_numbers_stand_in_a_row() -> None:
    plot = of(along_gamma(figure={"x": "search", "panels": ["score"]}))["search-sweep"]
    assert [label.get_text() for label in plot.figure.axes[0].get_xticklabels()] == ["beam", "exact"]
    run = Run("made", None, along_gamma())
    assert {line.name for line in lines_along(run, "search").lines} == {"mjgd gamma=1", "mjgd gamma=2", "mjgd gamma=4"}


def test_no_title_runs_into_the_legend_and_no_word_in_a_panel_moves_it() -> None:
    made = along_gamma(**TINY | {"figure": {"x": "gamma", "panels": ["beauty" * 20]}})
    for label in list(made["decoders"]):
        made["decoders"][f"{label} with a name as long as users make them"] = made["decoders"].pop(label)
    made["comparisons"] = []
    for plot in of(made).values():
        plot.figure.draw_without_rendering()
        title, pane = plot.figure._suptitle, plot.figure.legends[0]  # type: ignore[attr-defined]
        assert not title.get_window_extent().overlaps(pane.get_window_extent())
        axes = plot.figure.axes[0].get_window_extent()
        assert axes.width > 0.3 * plot.figure.bbox.width and not axes.overlaps(pane.get_window_extent())


def test_a_footer_tells_of_bars_only_where_there_are_some() -> None:
    assert "bars: 95 %" in of(along_gamma())["gamma-sweep"].figure.get_supxlabel()
    bare = along_gamma(comparisons=[])
    for figures in bare["decoders"].values():
        figures["intervals"] = {}
    assert "no intervals" in of(bare)["gamma-sweep"].figure.get_supxlabel()
    assert "MIXED: 2 machines" in of({**bare, "machines": 2})["gamma-sweep"].figure.get_supxlabel()


def test_a_stand_in_is_named_in_every_title_and_a_real_pair_is_none() -> None:
    for plot in of(along_gamma(**TINY | {"figure": {"x": "gamma", "panels": ["score"]}})).values():
        assert "†" in plot.title and "stand-in: a target of 11.0 M parameters" in plot.title
        drawn = " ".join(plot.figure.get_suptitle().split())
        assert "llama2-13b†" in drawn and "stand-in: a target of 11.0 M parameters" in drawn
    for plot in of(along_gamma()).values():
        assert "†" not in plot.title + plot.figure.get_suptitle()


def test_every_plot_names_its_run_prompts_and_mixture() -> None:
    for plot in of(along_gamma(code_versions=["a", "b"])).values():
        footer = plot.figure.get_supxlabel()
        assert "run id" in footer and "12 prompts" in footer and "MIXED: 2 versions" in footer


def test_the_phases_of_a_bar_add_up_to_the_time_of_a_token() -> None:
    made = summary()
    made["decoders"]["autoregressive"]["seconds"] |= {"target": None, "decide": None}
    plot = of(made)["time"]
    ends = {p.get_y(): 0.0 for p in plot.figure.axes[0].patches if isinstance(p, Rectangle)}
    for part in plot.figure.axes[0].patches:
        if isinstance(part, Rectangle):
            ends[part.get_y()] += part.get_width()
    for end, label in zip(ends.values(), ("mtad", "autoregressive"), strict=True):
        figures = made["decoders"][label]
        seconds = figures["seconds"]["prefill"] + figures["seconds"]["decode"]
        assert end == pytest.approx(1000 * seconds / figures["tokens"])
    assert "decoding, not split" in [text.get_text() for text in plot.figure.legends[0].get_texts()]


def test_rank_correlation_is_that_of_the_points_or_undefined() -> None:
    assert correlation([(1.0, 9.0), (2.0, 8.0), (3.0, 2.0), (4.0, 1.0)]) == pytest.approx(-1)
    assert correlation([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]) is None
    plot = of(along_gamma())["perplexity-score"]
    assert plot.figure.axes[0].get_title().startswith("Spearman's rho")
    assert "tests nothing" in plot.caption
    assert "perplexity-score" not in of(summary())  # two variants


def test_what_is_compared_with_the_baseline_is_no_difference_for_itself() -> None:
    run = Run("made", None, summary())
    assert run.baseline == "autoregressive"
    assert compared(run, "autoregressive", "speedup") == Value(1.0)
    assert compared(run, "autoregressive", "energy_ratio").value is None


def test_without_autoregressive_decoding_the_first_reference_is_the_baseline() -> None:
    made = {**summary_of(random_rows(12, 1), "fast", "slow"), **REAL}
    made["figure"] = {"x": "gamma", "panels": ["speedup"]}
    made["decoders"]["fast"]["options"] = {"gamma": 1}
    found = of(made)
    assert "quality-speed" not in found
    assert found["gamma-sweep"].figure.axes[0].get_ylabel().startswith("speed-up of decoding over slow")

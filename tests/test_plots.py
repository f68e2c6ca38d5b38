"""Plots hold the summary's numbers and say what they rest on; bad input ends in one line."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from experiments.report.plots import Plot, picture, plots
from experiments.report.plots.measured import Value, baseline_of, compared, measured
from experiments.report.plots.options import lines_along
from experiments.report.plots.scatter import correlation
from experiments.report.plots.speed import KINDS, kind
from experiments.report.plots.style import look
from experiments.report.results import Results, Run
from experiments.summarise import summarise
from scripts.plots import main
from tests.made_rows import random_rows, row, sampling, summary_of, swept, texts_at, timed, with_frontier

REAL = {"parameters": {"target": 13_000_000_000, "draft": 68_000_000}, "experiment": None, "figure": None}
PANELS = ("perplexity", "score", "speedup")
TINY = {**REAL, "parameters": {"target": 11_000_000, "draft": 600_000}}


def summary() -> dict[str, Any]:
    names = {"fast": "mtad", "slow": "autoregressive"}
    rows = [{**r, "lossless": False, "variant": names[r["variant"]]} for r in random_rows(12, 1)]
    return {**summary_of(rows, "mtad", "autoregressive"), **REAL}


def along_gamma(**changes: Any) -> dict[str, Any]:
    """The sweep with changes."""
    return {**deepcopy(_along_gamma()), **REAL, "figure": {"x": "gamma", "panels": list(PANELS)}, **changes}


@cache
def _along_gamma() -> dict[str, Any]:
    """Two searches along gamma, one of them at another width too, beside autoregressive decoding."""
    chance = np.random.default_rng(2)
    ease = chance.uniform(0.2, 1.4, 12)
    variants = {
        f"{search} {gamma}": {"decoder": "mjgd", "options": {"gamma": gamma, "search": search, "width": 8}}
        for search in ("exact", "beam")
        for gamma in (1, 2, 4)
    }
    variants["wide"] = {"decoder": "mjgd", "options": {"gamma": 2, "search": "beam", "width": 16}}
    rows = [
        r
        for number, (label, own) in enumerate(variants.items())
        for r in texts_at(chance, label, ease, [0.2 + 0.1 * number] * 12, lossless=False, sampling=sampling(), **own)
    ]
    rows += texts_at(chance, "autoregressive", ease, [1.0] * 12, **swept(1.0))
    for r in rows:
        r["seconds"] = timed(0.1, chance.uniform(0.5, 1.5))
    return summarise(rows, "id", "llama2-13b", "toy", [*variants, "autoregressive"])


def of(made: dict[str, Any], path: Path | None = None) -> dict[str, Plot]:
    """The plots of a run, by their kind."""
    run = Run("made", path, made)
    found = plots(Results(Path(), (run,)))
    start = f"{path.parent.name}-{path.name}-" if path else "made-"
    return {plot.name.removeprefix(start): plot for plot in found}


def bars(axes: Axes) -> list[tuple[float, ...]]:
    """The ends of all intervals that are drawn, (x, y, x, y)."""
    return [tuple(np.ravel(part).round(9)) for lines in axes.collections for part in lines.get_segments()]


def texts(plot: Plot) -> str:
    return " ".join(text.get_text() for axes in plot.figure.axes for text in axes.texts)


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


def test_every_variant_has_the_look_of_its_kind() -> None:
    figures = summary()["decoders"]["mtad"]
    assert kind(figures) == "lossy"
    assert kind(figures | {"lossless": True}) == "lossless"
    assert kind(figures | {"lossless": True, "kind": "engine"}) == "other library"
    assert kind(figures | {"group": "frontier"}) == "autoregressive at other settings"
    assert kind(figures | {"lossless": None}) == "kind not recorded"
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
    base = made["decoders"]["autoregressive"]
    perplexity, score, speedup = (bars(axes) for axes in of(made)["gamma-sweep"].figure.axes)
    for search, gamma in (("exact", 1), ("beam", 4)):
        label = f"{search} {gamma}"
        ratio, difference, speed = (found[label, m] for m in ("perplexity_ratio", "score_difference", "speedup"))
        absolute = [base["perplexity"] * ratio[end] for end in ("low", "high")]
        assert tuple(np.round((gamma, absolute[0], gamma, absolute[1]), 9)) in perplexity
        absolute = [base["score"]["value"] + difference[end] for end in ("low", "high")]
        assert tuple(np.round((gamma, absolute[0], gamma, absolute[1]), 9)) in score
        assert tuple(np.round((gamma, speed["low"], gamma, speed["high"]), 9)) in speedup


def test_all_that_is_drawn_lies_within_the_axes() -> None:
    plot = of(along_gamma())["gamma-sweep"]
    picture(plot, "png")
    for axes in plot.figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert bars(axes)
        assert all(left < x < right and bottom < low <= high < top for x, low, _, high in bars(axes))


def test_no_interval_is_lent_to_a_figure_that_its_comparison_does_not_make() -> None:
    made = along_gamma()
    made["decoders"]["exact 1"]["perplexity"] *= 1.5
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


def blocks(gap: float | None, bound: float | None = None) -> dict[str, Any]:
    ends = {"gap_low": gap and gap - 0.1, "gap_high": gap and gap + 0.1, "gap_reason": gap is None and "none accepted"}
    forwards = {"forwards": 3.0, "forwards_low": None, "forwards_high": None, "forwards_reason": "one prompt"}
    bounds = {"bound": bound, "bound_low": None, "bound_high": None, "bound_reason": bound is None and "no bound"}
    return {"gap": gap, **ends, **bounds, **forwards}


def with_approximation() -> dict[str, Any]:
    made = along_gamma()
    for label, figures in made["decoders"].items():
        gamma = figures["options"].get("gamma")
        low, high = {"from": 0.0, "to": 1.0, "blocks": 9}, {"from": 1.0, "to": None, "blocks": 0}
        costs = {"entropy": 0.5, "surprisal": 1.5, "forwards": 2.0, "forwards_low": 1.0, "forwards_high": 4.0}
        none = dict.fromkeys((*costs, "forwards_reason"))
        figures["approximation"] = gamma and {
            "accepted": blocks(0.1 * gamma, 0.7 * gamma),
            "emitted": blocks(0.2 * gamma),
            "bins": [{**low, **costs, "forwards_reason": None}, {**high, **none}],
        }
        figures["approximation_reason"] = None if gamma else f"{label} drafts no blocks"
    return made


def test_the_gap_lies_beside_its_bound_and_each_option_has_its_column() -> None:
    plot = of(with_approximation())["approximation"]
    columns = [axes.get_xlabel().split()[0] for axes in plot.figure.axes]
    assert columns == ["gamma", "width", "gamma", "width"]
    without, last = plot.figure.axes[0], plot.figure.axes[2]
    heights = [list(line.get_ydata()) for line in without.lines if len(line.get_xdata()) == 3]
    gap, bound = [pytest.approx([0.1, 0.2, 0.4])] * 2, [pytest.approx([0.7, 1.4, 2.8])] * 2
    assert heights == [*gap, *bound]
    assert [list(line.get_ydata()) for line in last.lines if len(line.get_xdata()) == 3] == [
        pytest.approx([0.2, 0.4, 0.8])
    ] * 2
    assert (1, 0.0, 1, 0.2) in bars(without)


def test_what_exact_search_costs_is_drawn_where_there_were_blocks() -> None:
    for axes, x in zip(of(with_approximation())["exact"].figure.axes, (0.5, 1.5), strict=True):
        points = [line for line in axes.lines if line.get_linestyle() != "None"]  # and not the ends of intervals
        assert {(*line.get_xdata(), *line.get_ydata()) for line in points} == {(x, 2.0)}
        assert set(bars(axes)) == {(x, 1.0, x, 4.0)}


def test_energy_is_drawn_where_it_was_measured_with_the_ratios_interval() -> None:
    made = summary()
    assert "energy" not in of(made)
    for label, joules in (("mtad", 2.0), ("autoregressive", 4.0)):
        made["decoders"][label]["energy"] |= {"joules_per_token": joules}
    heading = {"decoder": "mtad", "reference": "autoregressive", "metric": "energy_ratio", "null": 1, "reason": None}
    made["comparisons"].append({**heading, "value": 0.5, "low": 0.4, "high": 0.75})
    axes = of(made)["energy"].figure.axes[0]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [2.0, 4.0]
    assert bars(axes) == [(1.6, 0.0, 3.0, 0.0)]


def test_energy_by_batch_is_that_of_the_cost_model_and_called_modelled(tmp_path: Path) -> None:
    run = tmp_path / "name" / "abc"
    run.mkdir(parents=True)
    part = {"compute_joules_per_token": 1.0, "idle_joules_per_token": None, "measured_joules_per_token": None}
    split = [{"batch": batch, "memory_joules_per_token": 8 / batch, **part} for batch in (1, 2, 4)]
    energy = {"prices": {"source": "made up"}, "splits": {"autoregressive": split}}
    (run / "cost.json").write_text(json.dumps({"energy": energy}), encoding="utf-8")
    plot = of(summary(), run)["energy-by-batch"]
    tops = [bar.get_y() + bar.get_height() for bar in plot.figure.axes[0].patches[3:6] if isinstance(bar, Rectangle)]
    assert tops == [9, 5, 3]
    assert "modelled, not measured" in plot.title and "made up" in plot.caption
    (run / "cost.json").write_text('{"energy": null}', encoding="utf-8")
    assert "energy-by-batch" not in of(summary(), run)


def test_what_is_compared_with_the_baseline_is_no_difference_for_itself() -> None:
    run = Run("made", None, summary())
    assert baseline_of(run) == "autoregressive"
    assert compared(run, "autoregressive", "speedup") == Value(1.0)
    assert compared(run, "autoregressive", "energy_ratio").value is None


def test_without_autoregressive_decoding_the_first_reference_is_the_baseline() -> None:
    made = {**summary_of(random_rows(12, 1), "fast", "slow"), **REAL}
    made["figure"] = {"x": "gamma", "panels": ["speedup"]}
    made["decoders"]["fast"]["options"] = {"gamma": 1}
    found = of(made)
    assert "quality-speed" not in found
    assert found["gamma-sweep"].figure.axes[0].get_ylabel().startswith("speed-up of decoding over slow")


def test_files_open_hold_their_fonts_and_are_the_same_when_drawn_again() -> None:
    figure = {"x": "gamma", "panels": ["score"]}
    first, again = (of(along_gamma(figure=figure))["gamma-sweep"] for _ in range(2))
    png, pdf = picture(first, "png"), picture(first, "pdf")
    inches = first.figure.get_size_inches()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == pytest.approx(tuple(inches * 150), abs=1)
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    for form, content in (("png", png), ("pdf", pdf), ("svg", picture(first, "svg"))):
        assert picture(again, form) == content  # type: ignore[arg-type]


def test_a_label_with_dollars_is_no_formula() -> None:
    rows = [row(label, f"p{i}", decoder=label) for label in ("a $\\nonsense$", "autoregressive") for i in range(6)]
    made = {**summary_of(rows, "a $\\nonsense$", "autoregressive"), **REAL}
    for plot in of(made).values():
        assert picture(plot, "png").startswith(b"\x89PNG")


def test_a_folder_of_results_and_a_summary_file_are_drawn_and_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "results" / "tiny-sql-mtad" / "abc"
    run.mkdir(parents=True)
    for file in (run / "summary.json", tmp_path / "table.json"):
        file.write_text(json.dumps(summary()), encoding="utf-8")
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("*.json")}
    main([str(tmp_path / "results"), str(tmp_path / "table.json"), "--out", str(tmp_path / "new" / "er")])
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    kinds = ("quality-speed", "time")
    names = [
        f"{name}-{kind}.{form}" for name in ("tiny-sql-mtad-abc", "table") for kind in kinds for form in ("pdf", "png")
    ]
    assert [file.name for file in files] == names
    assert all(file.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for file in files)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before} == before


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"comparisons":[],"decoders":{"autoregressive":{}}}'])
def test_what_is_no_summary_is_named_in_one_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: [^\n]*$") as stopped:
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert tmp_path.name in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_one_place_twice_and_a_place_that_is_no_folder_are_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "made.json"
    file.write_text(json.dumps(summary()), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: two plots would be called made-[^\n]*$"):
        main([str(file), str(file), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^error: cannot write to [^\n]*$"):
        main([str(file), "--out", str(file)])

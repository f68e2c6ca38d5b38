"""Plots of what blocks lack and cost: approximation, exact search, energy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Rectangle

from experiments.report.plots import plots
from experiments.report.results import read_results
from tests.drawn import along_gamma, bars, of, summary
from tests.made_results import save


def blocks(gap: float | None, bound: float | None = None) -> dict[str, Any]:
    ends = {"gap_low": gap and gap - 0.1, "gap_high": gap and gap + 0.1, "gap_reason": gap is None and "none accepted"}
    forwards = {"forwards": 3.0, "forwards_low": None, "forwards_high": None, "forwards_reason": "one prompt"}
    bounds = {"bound": bound, "bound_low": None, "bound_high": None, "bound_reason": bound is None and "no bound"}
    return {"gap": gap, **ends, **bounds, **forwards}


def with_approximation(decoder: str = "mjgd") -> dict[str, Any]:
    made = along_gamma()
    for label, figures in made["decoders"].items():
        gamma = figures["options"].get("gamma")
        figures["decoder"] = decoder if gamma else figures["decoder"]
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
    plot = of(with_approximation("mmtad"))["approximation"]
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


def test_blocks_that_are_the_best_ones_have_no_picture_of_gaps() -> None:
    assert "approximation" not in of(with_approximation("mjgd"))


def test_what_exact_search_costs_is_drawn_where_there_were_blocks() -> None:
    for axes, x in zip(of(with_approximation())["exact"].figure.axes, (0.5, 1.5), strict=True):
        points = [line for line in axes.lines if line.get_linestyle() != "None"]  # and not the ends of intervals
        assert {(*line.get_xdata(), *line.get_ydata()) for line in points} == {(x, 2.0)}
        assert set(bars(axes)) == {(x, 1.0, x, 4.0)}


def test_energy_is_drawn_where_it_was_measured_with_its_interval() -> None:
    made = summary()
    assert "energy" not in of(made)
    for label, joules in (("mtad", 2.0), ("autoregressive", 4.0)):
        known = {"joules_per_token_low": joules - 0.4, "joules_per_token_high": joules + 1}
        made["decoders"][label]["energy"] |= {"joules_per_token": joules, **known}
    axes = of(made)["energy"].figure.axes[0]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == [2.0, 4.0]
    assert bars(axes) == [(1.6, 0.0, 3.0, 0.0), (3.6, 1.0, 5.0, 1.0)]


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


@pytest.mark.parametrize("study", ["{", "[]", '{"energy": {"splits": {}}}', '{"energy": null}'])
def test_a_cost_model_that_says_nothing_is_not_drawn(study: str, tmp_path: Path) -> None:
    save(tmp_path / "run", summary())
    (tmp_path / "run" / "cost.json").write_text(study, encoding="utf-8")
    assert [plot.name for plot in plots(read_results(tmp_path)) if "batch" in plot.name] == []

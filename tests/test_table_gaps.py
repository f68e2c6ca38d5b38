"""The approximation error in tables, intervals of figures alone, and tables of several runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.report.results import read_results
from experiments.report.tables import tables, to_csv, to_latex, to_markdown
from experiments.report.tables.table import DASH
from tests.made_results import REFERENCE, cell, made, of, save

GAP = {"gap": 0.2, "gap_low": 0.1, "gap_high": 0.3, "gap_reason": None, "proven_share": 0.5}
BOUND = {"bound": 0.9, "bound_low": 0.7, "bound_high": 1.1, "bound_reason": None}
FORWARDS = {"forwards": 3.5, "forwards_low": None, "forwards_high": None, "forwards_reason": "fewer than 5 prompts"}
NO_LAST = "there is no token after it"


def approximation(accepted: bool = True) -> dict[str, Any]:
    """Of one variant, as the summary has it; by default with a gap of accepted tokens of its own."""
    return {
        "law": "warped",
        "nothing_accepted_share": 0.25 if accepted else None,
        "nothing_accepted_share_reason": None if accepted else NO_LAST,
        "accepted": {**GAP, **BOUND} if accepted else None,
        "accepted_reason": None if accepted else NO_LAST,
        "emitted": {**GAP, **FORWARDS, "gap": 0.4, "gap_low": 0.35, "gap_high": 0.45, "proven_share": 0.75},
        "emitted_reason": None,
        "bins": [],
    }


def with_gaps(place: Path) -> Path:
    summary, _ = made({"fast": "mtad", "slow": "mjgd"}, experiment="approximation")
    summary["decoders"]["mtad"]["approximation"] = approximation()
    summary["decoders"]["mjgd"]["approximation"] = approximation(accepted=False)
    summary["figure"] = {"x": "tau", "panels": ["gap_without_last_token"]}
    summary["decoders"]["mtad"]["options"] = {"tau": 0.5}
    return save(place, summary)


def test_the_gap_of_each_variant_stands_beside_its_bound_as_the_summary_has_it(tmp_path: Path) -> None:
    table = of(with_gaps(tmp_path / "run"), "approximation")
    for key, found in {
        "gap_without_last_token": (0.2, 0.1, 0.3),
        "gap_bound": (0.9, 0.7, 1.1),
        "gap_with_last_token": (0.4, 0.35, 0.45),
        "forwards_per_block": (3.5, None, None),
    }.items():
        assert ((one := cell(table, "mtad†", key)).value, one.low, one.high) == found
    shares = [cell(table, "mtad†", f"approximation.{key}_share").value for key in ("accepted.proven", "emitted.proven")]
    assert shares == [0.5, 0.75] and cell(table, "mtad†", "approximation.nothing_accepted_share").value == 0.25
    assert cell(table, "mjgd†", "gap_without_last_token").reason == NO_LAST
    assert cell(table, "mjgd†", "gap_bound").reason == NO_LAST
    printed = to_markdown(table)
    assert "0.200 [0.100, 0.300]" in printed and f"3.50 [{DASH}]" in printed and "fewer than 5 prompts" in printed
    assert "†" in table.title and any("stand-in" in note for note in table.notes)
    assert "0.900" in to_latex(table)
    line = next(csv.DictReader(io.StringIO(to_csv(table))))
    assert (line["gap_bound"], line["gap_bound_low"], line["gap_bound_high"]) == ("0.9", "0.7", "1.1")


def test_a_gap_that_plots_show_along_an_option_is_in_the_table_of_that_option(tmp_path: Path) -> None:
    table = of(with_gaps(tmp_path / "run"), "approximation-by-tau")
    assert cell(table, "mtad†", "gap_without_last_token").value == 0.2


def test_no_table_of_gaps_without_any(tmp_path: Path) -> None:
    assert "approximation" not in [table.name for table in tables(read_results(save(tmp_path / "run", made()[0])))]


def test_a_figure_of_one_variant_has_the_interval_of_the_summary(tmp_path: Path) -> None:
    summary, _ = made()
    table = of(save(tmp_path / "run", summary), f"main-{tmp_path.name}")
    ends = summary["decoders"]["mtad"]["intervals"]["perplexity"]
    found = cell(table, "mtad†", "perplexity")
    assert ends["low"] < ends["high"] and (found.low, found.high) == (ends["low"], ends["high"])
    assert not found.best and f"[{ends['low']:.3f}, {ends['high']:.3f}]" in to_markdown(table)
    assert "perplexity_low" in to_csv(table).splitlines()[0]


def test_several_runs_in_one_table_are_told_apart_and_their_mixture_is_shown(tmp_path: Path) -> None:
    for name, version in (("a", "1"), ("b", "2")):
        save(tmp_path / name, made(experiment="table1", code_versions=[version])[0])
    table = of(tmp_path, "table1")
    assert [section for section, _ in table.sections()] == ["tiny†, toy, a", "tiny†, toy, b"]
    assert "MIXED: these runs were measured by 2 versions of the code" in table.notes
    one = of(tmp_path / "a", "table1")
    assert [section for section, _ in one.sections()] == ["tiny†, toy"]
    assert not any("MIXED" in note for note in one.notes)


def test_the_fastest_of_a_kind_is_named_and_no_point_of_the_frontier_is(tmp_path: Path) -> None:
    summary = json.loads((REFERENCE / "tiny-frontier.json").read_text(encoding="utf-8"))
    planted = {"bild": 3.0, "mtad": 2.0, "T=0": 9.0}
    summary["decoders"]["mtad"]["lossless"] = True
    for one in summary["comparisons"]:
        if one["metric"] == "speedup" and one["reference"] == "autoregressive":
            one["value"] = planted.get(one["decoder"], 0.5)
    for label in ("T=0", "T=0.3"):
        summary["decoders"][label]["lossless"] = label == "T=0"
    table = of(save(tmp_path / "run", summary), "runs")
    line = {column.key: found.value for column, found in zip(table.columns, table.rows[0].cells, strict=True)}
    assert (line["fastest_lossless"], line["fastest_lossless_speedup"]) == ("mtad†", 2.0)
    assert (line["fastest_lossy"], line["fastest_lossy_speedup"]) == ("bild†", 3.0)


def test_a_colder_lossless_variant_is_not_called_lossless_nor_the_fastest_of_these(tmp_path: Path) -> None:
    summary, _ = made()
    summary["decoders"]["mtad"]["lossless"] = True
    assert cell(of(save(tmp_path / "same", summary), f"main-{tmp_path.name}"), "mtad†", "kind").value == "lossless"
    summary["decoders"]["mtad"]["sampling"] = {"temperature": 0.7}
    place = save(tmp_path / "colder", summary)
    assert cell(of(place, f"main-{tmp_path.name}"), "mtad†", "kind").value == "other sampling"
    assert cell(of(place, "runs"), "mtad†", "fastest_lossless").value is None


def test_only_what_the_correction_takes_back_is_marked_so(tmp_path: Path) -> None:
    summary, _ = made()
    ours = next(one for one in summary["comparisons"] if one["metric"] == "speedup" and one["decoder"] == "mtad")
    marks = {}
    for name, p, p_holm in (("lost", 0.01, 0.2), ("holds", 0.01, 0.03), ("never", 0.3, 0.9)):
        ours |= {"value": 2.0, "low": 1.5, "high": 2.5, "p": p, "p_holm": p_holm}
        marks[name] = cell(of(save(tmp_path / name, summary), f"main-{tmp_path.name}"), "mtad†", "speedup").lost
    assert marks == {"lost": True, "holds": False, "never": False}


def test_what_has_a_value_has_no_reason_for_none(tmp_path: Path) -> None:
    table = of(REFERENCE / "tiny-frontier.json", "frontier-tiny-frontier")
    assert {found.reason for row in table.rows if (found := row.cells[1]).value is not None} == {None}
    assert "[" + DASH + "] in its value" not in to_markdown(table)


@pytest.mark.parametrize(("metric", "arrow"), [("judge_perplexity_ratio", "↓"), ("energy_ratio_net", "↓")])
def test_a_panel_that_compares_is_a_comparison_in_the_table_too(metric: str, arrow: str, tmp_path: Path) -> None:
    summary, _ = made(experiment="e", figure={"x": "tau", "panels": [metric]})
    summary["decoders"]["mtad"]["options"] = {"tau": 0.5}
    ours = next(one for one in summary["comparisons"] if one["metric"] == "perplexity_ratio")
    summary["comparisons"].append({**ours, "metric": metric, "value": 0.5, "low": 0.4, "high": 0.6})
    table = of(save(tmp_path / "run", summary), "e-by-tau")
    assert (cell(table, "mtad†", metric).value, cell(table, "mtad†", metric).low) == (0.5, 0.4)
    assert arrow in next(line for line in to_markdown(table).splitlines() if "variant" in line).split("|")[-2]

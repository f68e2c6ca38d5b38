"""The tables of a run with many variants, or several groups of them."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from experiments.table import print_table
from tests.made_rows import random_rows, summary_of, with_frontier

MANY = [f"decoder_{i}" for i in range(9)]


def lines_of(summary: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    print_table(summary, Console(file=text))
    return text.getvalue().splitlines()


def many() -> dict[str, Any]:
    """The summary of nine copies of a decoder and a baseline half as fast."""
    rows = random_rows(12, 1)
    fast, slow = ([row for row in rows if row["variant"] == name] for name in ("fast", "slow"))
    copies = [{**row, "variant": label} for label in MANY for row in fast]
    return summary_of([*copies, *({**row, "variant": "autoregressive"} for row in slow)], *MANY, "autoregressive")


def test_variants_stand_in_order_of_tokens_per_target_forward() -> None:
    summary = many()
    for i, label in enumerate(MANY):
        summary["decoders"][label]["tokens_per_target_forward"] = 20.0 + i
    summary["decoders"]["decoder_4"]["tokens_per_target_forward"] = None
    lines = lines_of(summary)
    end = next(i for i, line in enumerate(lines) if "Against" in line)
    names = [line.split()[0] for line in lines[:end] if line.split() and line.split()[0] in summary["decoders"]]
    best_first = [label for label in reversed(MANY) if label != "decoder_4"]
    assert names == [*best_first, "autoregressive", "decoder_4"]


def test_many_variants_take_one_line_each_with_the_figures_of_the_summary() -> None:
    summary = many()
    for found in summary["comparisons"]:
        if (found["decoder"], found["metric"], found["reference"]) == ("decoder_3", "speedup", "autoregressive"):
            found |= {"value": 7.654, "low": 6.543, "high": 8.762}
    lines = lines_of(summary)
    against = lines[next(i for i, line in enumerate(lines) if "Against" in line) :]
    (shown,) = (line for line in against if line.strip().startswith("decoder_3"))
    assert shown.split()[1:3] == ["7.65", "[6.54,8.76]"]
    assert max(map(len, lines)) <= 100
    assert any(line.strip().startswith("detectable") and " or " in line for line in against)


def test_what_the_correction_takes_back_is_marked_at_the_value() -> None:
    summary = many()
    for found in summary["comparisons"]:
        mine = (found["decoder"], found["metric"]) == ("decoder_3", "speedup")
        found |= {"p": 0.03, "p_holm": 0.06 if mine else 0.04}
    lines = lines_of(summary)
    marked = [line for line in lines if "°" in line]
    assert len(marked) == 2 and marked[0].split()[0] == "decoder_3" and marked[1].startswith("°: does not hold")


def test_groups_have_a_table_each_and_both_show_what_belongs_to_none() -> None:
    summary = many()
    for label in MANY:
        summary["decoders"][label]["group"] = "same gamma" if label < "decoder_4" else "best each"
    text = "\n".join(lines_of(summary))
    first, second = text.split(": best each")
    assert ": same gamma" in first and "decoder_3" in first and "decoder_4" not in first.split("Against")[0]
    figures = second.split("Against")[0]
    assert "decoder_4" in figures and "decoder_3" not in figures and "autoregressive" in figures


def test_the_frontier_has_tables_of_its_own_and_its_points_stand_in_no_other() -> None:
    summary = with_frontier()
    text = "\n".join(lines_of(summary))
    figures, rest = text.split("Frontier:")
    points, distances = rest.split("Distance from the frontier")
    assert "T=0.5" not in figures and "main" in figures
    assert [line.split()[-5:-4] for line in points.splitlines() if "T=" in line] == [["T=0"], ["T=0.5"], ["T=1.5"]]
    (ratio,) = (one for one in summary["frontier"]["distances"] if one["metric"] == "perplexity_ratio")
    assert f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" in distances
    assert max(map(len, text.splitlines())) <= 100


def test_a_distance_that_is_null_is_a_dash_with_its_reason_below() -> None:
    summary = with_frontier()
    for found in summary["frontier"]["distances"]:
        found |= {"value": None, "low": None, "high": None, "p": None, "reason": "less diverse than every point"}
    lines = lines_of(summary)
    (row,) = (line.split() for line in lines if "main" in line and "distinct-2" in line)
    assert row[:2] == ["main", "distinct-2"] and row[-2:] == ["-", "-"]
    assert "frontier: main: less diverse than every point" in lines


def test_a_tuned_decoder_is_named_with_its_options_under_the_table() -> None:
    summary = many()
    options = {"gamma": 6, "tau": 0.3}
    summary["tuning"] = {"decoders": {"mtad": {"options": options, "best_each": "mtad-best", "admissible": False}}}
    text = " ".join(lines_of(summary))
    assert "mtad-best: gamma=6 tau=0.3, chosen on other prompts; it loses more than tune.loss" in text


def test_marks_of_distances_alone_are_explained_too() -> None:
    summary = with_frontier()
    for found in summary["comparisons"]:
        found |= {"low": 2.0, "high": 3.0, "p": 0.001, "p_holm": 0.001, "reason": None}
    for found in summary["frontier"]["distances"]:
        found |= {"value": 1.0, "low": 0.9, "high": 1.1, "null": 1, "p": 0.03, "p_holm": 0.2, "reason": None}
    lines = lines_of(summary)
    assert any(line.startswith("*: the interval") for line in lines)
    assert any(line.startswith("°: does not hold") for line in lines)
    for found in summary["frontier"]["distances"]:
        found |= {"low": None, "high": None, "p": None, "p_holm": None, "reason": "no interval: few"}
    assert "[-]: no interval: few" in lines_of(summary)

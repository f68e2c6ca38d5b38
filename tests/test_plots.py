"""Pictures hold the summary's numbers, and bad input ends in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.plots import COLOURS, draw, kind, main
from tests.made_rows import random_rows, summary_of, with_frontier


def summary() -> dict[str, Any]:
    names = {"fast": "mtad", "slow": "autoregressive"}
    rows = [{**row, "lossless": False, "variant": names[row["variant"]]} for row in random_rows(12, 1)]
    return summary_of(rows, "mtad", "autoregressive")


def test_points_and_intervals_are_those_of_the_summary() -> None:
    made = summary()
    found = {one["metric"]: one for one in made["comparisons"] if one["decoder"] == "mtad"}
    x = found["speedup"]
    for axes, metric in zip(draw(made).axes, ("perplexity_ratio", "score_difference"), strict=True):
        y = found[metric]
        points = [line for line in axes.lines if line.get_marker() == "o"]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [(x["value"], y["value"])]
        ends = {end for bars in axes.collections for part in bars.get_segments() for end in map(tuple, part.round(9))}
        assert ends == {
            *((round(x[end], 9), round(y["value"], 9)) for end in ("low", "high")),
            *((round(x["value"], 9), round(y[end], 9)) for end in ("low", "high")),
        }
        assert [text.get_text() for text in axes.texts] == ["1"]


def test_every_variant_has_the_colour_of_its_kind() -> None:
    made = summary()
    figures = made["decoders"]["mtad"]
    assert kind(made, "mtad") == "lossy"
    figures["lossless"] = True
    assert kind(made, "mtad") == "lossless"
    figures["kind"] = "engine"
    assert kind(made, "mtad") == "other library"
    figures["group"] = "frontier"
    assert kind(made, "mtad") == "autoregressive at other settings"
    figures |= {"lossless": None, "group": ""}
    assert kind(made, "mtad") == "kind not recorded"
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_a_sweep_is_a_line_through_its_points_in_the_knobs_order() -> None:
    made = with_frontier()
    found = {(one["decoder"], one["metric"]): one["value"] for one in made["comparisons"]}
    axes = draw(made).axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) > 2]
    order = [point["variant"] for point in made["frontier"]["points"]]
    assert order == ["T=0", "T=0.5", "autoregressive", "T=1.5"]
    values = [1 if label == "autoregressive" else found[label, "perplexity_ratio"] for label in order]
    assert [list(line.get_ydata()) for line in lines] == [values]


def test_a_run_and_a_summary_file_are_drawn_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "tiny-sql-mtad" / "abc"
    run.mkdir(parents=True)
    for file in (run / "summary.json", tmp_path / "table.json"):
        file.write_text(json.dumps(summary()), encoding="utf-8")
    main([str(run), str(tmp_path / "table.json"), "--out", str(tmp_path / "new")])
    pictures = [tmp_path / "new" / f"{name}-quality-speed.png" for name in ("tiny-sql-mtad-abc", "table")]
    assert capsys.readouterr().out.splitlines() == [str(picture) for picture in pictures]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"comparisons":[],"decoders":{"autoregressive":{}}}'])
def test_what_is_no_summary_is_named_in_one_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: [^\n]*summary.json[^\n]*$"):
        main([str(tmp_path), "--out", str(tmp_path)])


def test_a_run_without_the_baseline_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(summary_of(random_rows(6, 1), "fast", "slow")), encoding="utf-8")
    with pytest.raises(SystemExit, match="compares nothing with autoregressive"):
        main([str(file), "--out", str(tmp_path)])


def test_a_summary_of_an_older_version_and_a_place_that_is_no_folder_are_named_in_one_line(tmp_path: Path) -> None:
    made, file = summary(), tmp_path / "summary.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: cannot write to [^\n]*$"):
        main([str(tmp_path), "--out", str(file)])
    del made["decoders"]["mtad"]["lossless"]
    file.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: [^\n]*older version[^\n]*$"):
        main([str(tmp_path), "--out", str(tmp_path)])

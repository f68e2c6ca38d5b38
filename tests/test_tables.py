"""Tables say what the frames say, mark what is open, and change nothing that they read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.report.published import pairs, published
from experiments.report.results import read_results
from experiments.report.tables import Table, tables, to_csv, to_html, to_latex, to_markdown
from experiments.summarise import summarise
from scripts.tables import main
from tests.made_results import REAL, REFERENCE, TINY, cell, made, of, save
from tests.made_rows import row, sampling, with_frontier

ROOT = Path(__file__).parents[1]


def test_a_table_has_the_values_and_intervals_of_the_summary(tmp_path: Path) -> None:
    summary, rows = made()
    table = of(save(tmp_path / "run", summary, rows), "main-" + tmp_path.name)
    found = {one["metric"]: one for one in summary["comparisons"] if one["decoder"] == "mtad"}
    for metric in ("speedup", "perplexity_ratio", "score_difference", "speedup_end_to_end"):
        ours = cell(table, "mtad†", metric)
        assert [ours.value, ours.low, ours.high] == [found[metric][key] for key in ("value", "low", "high")]
    assert cell(table, "mtad†", "perplexity").value == summary["decoders"]["mtad"]["perplexity"]
    one = found["speedup"]
    line = next(line for line in to_markdown(table).splitlines() if line.startswith("| mtad†"))
    assert re.search(rf"{one['value']:.2f}\W* \[{one['low']:.2f}, {one['high']:.2f}\]", line)


def test_csv_gives_back_every_number_and_one_line_of_heads(tmp_path: Path) -> None:
    summary, rows = made()
    (tmp_path / "t.csv").write_text(to_csv(of(save(tmp_path / "run", summary, rows), "runs")), encoding="utf-8")
    frame = pd.read_csv(tmp_path / "t.csv")
    found = next(one for one in summary["comparisons"] if (one["decoder"], one["metric"]) == ("mtad", "speedup"))
    line = frame[frame.label == "mtad"].iloc[0]
    assert [line.speedup, line.speedup_low, line.speedup_high] == [found[key] for key in ("value", "low", "high")]
    assert pd.isna(line.energy_ratio) and line.energy_ratio_reason == "not measured"
    assert not any(column.startswith("Unnamed") or "." in column for column in frame.columns)


def test_points_of_the_frontier_do_not_compete(tmp_path: Path) -> None:
    run = save(tmp_path / "run", {**with_frontier(), **TINY})
    table = of(run, f"main-{tmp_path.name}")
    colder = [one for one in table.rows if one.section.startswith("frontier")]
    assert len(colder) == 3 and not any(found.best for one in colder for found in one.cells)
    assert {one.rivals for one in colder} == {""}
    assert of(run, f"frontier-{tmp_path.name}").rows


def test_a_stand_in_has_its_dagger_in_title_and_every_label(tmp_path: Path) -> None:
    summary, _ = made(experiment="table1", figure={"x": "temperature"})
    save(tmp_path / "tiny", summary)
    for table in tables(read_results(tmp_path)):
        assert "†" in table.title and any("7.9 M parameters: a stand-in" in note for note in table.notes)
        place = [column.key for column in table.columns].index("variant")
        assert all(str(one.cells[place].value).endswith("†") for one in table.rows)
        for written in (to_markdown(table), to_html(table), to_latex(table).replace(r"\textsuperscript{\dag}", "†")):
            assert "mtad†" in written and not re.search(r"\bmtad\b(?!†)", written)


def test_a_model_of_the_papers_kind_has_none_and_is_told_from_a_stand_in_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "large", made(**REAL, model="opt-13b")[0])
    assert all("†" not in to_markdown(table) for table in tables(read_results(tmp_path)))
    save(tmp_path / "small", made()[0])
    lines = [line for line in to_markdown(of(tmp_path, "runs")).splitlines() if line.startswith("| ")]
    assert [("†" in line) for line in lines if "toy" in line] == [False, True]


def test_the_papers_figure_stands_beside_ours_for_its_own_settings_only(tmp_path: Path) -> None:
    one = next(one for one in published() if one.reference is None and one.metric == "score")
    options = {name: values[0] for name, values in one.options.items()}
    law = {**sampling(), **{name: values[0] for name, values in one.sampling.items()}}

    def run(name: str, taken: dict[str, Any], size: Mapping[str, Any]) -> Table:
        rows = [
            row(label, f"p{n}", decoder=decoder, options=given, sampling=law, score=float(n % 2))
            for n in range(6)
            for label, decoder, given in (("ours", one.decoder, taken), ("autoregressive", "autoregressive", {}))
        ]
        summary = summarise(rows, "id", one.models[0], one.tasks[0], ["ours", "autoregressive"])
        return of(save(tmp_path / name, {**summary, **size}), f"main-{tmp_path.name}")

    weights = {"weights": {role: {"id": hub_id} for role, hub_id in pairs()[one.models[0]].items()}}
    ours = run("same", options, {**REAL, **weights})
    assert any("score beside the paper's: ours has prompts 6, not 100" in note for note in ours.notes)
    foreign = {"weights": {role: {"id": "some/other"} for role in weights["weights"]}}
    for named, differs in (("renamed", foreign), ("unrecorded", {})):  # the name of a pair alone proves nothing
        assert cell(run(named, options, {**REAL, **differs}), "ours", "score").paper is None
    assert (cell(ours, "ours", "score").paper, cell(ours, "ours", "score").version) == (one.value, one.version)
    assert f"{one.value:.3f} ({one.version})" in to_markdown(ours) and "in the paper" in to_latex(ours)
    assert "score_paper" in to_csv(ours).splitlines()[0]
    assert (
        cell(run("other", {**options, next(iter(options)): 0.123}, {**REAL, **weights}), "ours", "score").paper is None
    )
    assert cell(run("small", options, {**TINY, **weights}), "ours†", "score").paper is None


def test_the_options_of_a_figure_run_down_the_table_in_their_order(tmp_path: Path) -> None:
    rows = [
        row(label, f"p{n}", decoder=decoder, options=options, score=float(n % 2))
        for n in range(6)
        for label, decoder, options in (
            ("g8", "mjgd", {"gamma": 8, "law": "raw"}),
            ("g2", "mjgd", {"gamma": 2, "law": "raw"}),
            ("autoregressive", "autoregressive", {}),
            ("g4", "mjgd", {"gamma": 4, "law": "raw"}),
        )
    ]
    summary = summarise(rows, "id", "tiny", "toy", ["g8", "autoregressive", "g2", "g4"])
    figure = {"x": "gamma", "panels": ["perplexity", "proven_share"]}
    save(tmp_path / "run", {**summary, **TINY, "experiment": "figure1", "figure": figure})
    table = of(tmp_path, "figure1-by-gamma")
    keys = [column.key for column in table.columns]
    assert [one.cells[keys.index("gamma")].value for one in table.rows] == [None, 2, 4, 8]
    assert "proven_share" in keys
    assert "| g8† | 8 |" in to_markdown(table)


def test_energy_is_split_where_the_cost_study_did_and_else_says_why(tmp_path: Path) -> None:
    summary, rows = made(experiment="table2")
    folder = save(tmp_path / "run", summary, rows)
    table = of(tmp_path, "table2")
    assert {one.cells[-3].value for one in table.rows} == {None} and "experiments.cost" in str(
        table.rows[0].cells[-3].reason
    )
    study = json.loads((REFERENCE / "tiny-cost.json").read_text(encoding="utf-8"))
    (folder / "cost.json").write_text(json.dumps(study), encoding="utf-8")
    table = of(tmp_path, "table2")
    keys = [column.key for column in table.columns]
    shown_batches = [
        one.cells[keys.index("batch")].value for one in table.rows if one.cells[keys.index("label")].value == "mtad"
    ]
    splits = study["energy"]["splits"]["mtad"]
    assert shown_batches == [split["batch"] for split in splits]
    assert cell(table, "mtad†", "compute").value == splits[0]["compute_joules_per_token"]
    assert any("Horowitz" in note for note in table.notes)
    (folder / "cost.json").write_text("{", encoding="utf-8")
    assert {one.cells[keys.index("compute")].value for one in of(tmp_path, "table2").rows} == {None}


def test_mixtures_and_what_is_not_finished_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, rows = made()
    folder = save(tmp_path / "results" / "whole", summary, rows)
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"variant": "mtad", "tok')
    save(tmp_path / "results" / "begun", None, rows[:5])
    save(tmp_path / "results" / "mixed", {**summary, "code_versions": ["a", "b"], "machines": 2})
    main([str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    written = (tmp_path / "out" / "runs.md").read_text(encoding="utf-8")
    for said in ("half written", "begun: not finished, 5 texts", "MIXED: mixed has rows of 2 versions of the code"):
        assert said in printed and said in written
    alone = (tmp_path / "out" / "main-mixed.md").read_text(encoding="utf-8")
    assert "MIXED: rows of 2 machines" in alone and "MIXED: rows of 2 versions of the code" in alone
    assert "begun" not in [one.cells[0].value for one in of(tmp_path / "results", "runs").rows]


@pytest.mark.parametrize("place", ["nowhere", "empty", "words.json", "begun"])
def test_bad_input_ends_in_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.json").write_text("words", encoding="utf-8")
    save(tmp_path / "begun", None, made()[1][:2])
    with pytest.raises(SystemExit, match=r"^error: [^\n]*" + place + r"[^\n]*$"):
        main([str(tmp_path / place), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    run = save(tmp_path / "run", made()[0])
    with pytest.raises(SystemExit, match=r"^error: cannot write to [^\n]*out[^\n]*$"):
        main([str(run), "--out", str(tmp_path / "out")])


def test_results_are_left_as_they_are(tmp_path: Path) -> None:
    summary, rows = made()
    folder = save(tmp_path / "results" / "run", summary, rows)
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write("{")

    def state() -> dict[str, tuple[bytes, int]]:
        files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
        return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}

    before = state()
    main([str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert state() == before


def test_runs_whose_names_would_share_a_file_have_one_each(tmp_path: Path) -> None:
    for name in ("a b", "a+b"):
        save(tmp_path / name, made()[0])
    names = [table.name for table in tables(read_results(tmp_path))]
    assert len(names) == len(set(names)) and {"main-a-b", "main-a-b-2"} <= set(names)


def test_every_table_of_the_reference_results_is_written_without_a_model_library(tmp_path: Path) -> None:
    program = (
        "import sys; from scripts.tables import main; "
        f"main([{str(REFERENCE)!r}, '--out', {str(tmp_path)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = [Path(line) for line in done.stdout.splitlines() if not line.startswith("note: ")]
    assert sorted(named) == sorted(tmp_path.iterdir()) and {file.suffix for file in named} == {".tex", ".md", ".csv"}
    assert (tmp_path / "main-tiny-sql.csv").stat().st_size > 5000

"""Parquet: what summaries and rows say comes back, of the same type whatever the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.report.results import read_results
from scripts.export import main

FROZEN = Path(__file__).parent / "fixtures" / "results-v1"
REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def exported(place: Path, to: Path) -> dict[str, Any]:
    main([str(place), "--to", str(to)])
    return {name: pq.read_table(to / f"{name}.parquet") for name in ("variants", "comparisons", "rows")}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    tables = exported(FROZEN / "runs", tmp_path)
    runs = read_results(FROZEN / "runs").runs
    variants = {(line["run_id"], line["variant"]): line for line in tables["variants"].to_pylist()}
    for run in runs:
        for label, figures in run.summary["decoders"].items():
            line = variants[run.summary["run_id"], label]
            assert line["tokens_per_second"] == figures["tokens_per_second"]
            assert line["energy.joules_per_token"] == figures["energy"]["joules_per_token"]
            assert line["energy.joules_per_token_reason"] == figures["energy"]["joules_per_token_reason"]
            for name, value in figures["options"].items():
                assert line[f"option.{name}"] == (value if isinstance(value, str) else json.dumps(value))
    found = {(c["run_id"], c["variant"], c["reference"], c["metric"]): c for c in tables["comparisons"].to_pylist()}
    for run in runs:
        for one in run.summary["comparisons"]:
            line = found[run.summary["run_id"], one["decoder"], one["reference"], one["metric"]]
            assert {key: line[key] for key in one if key != "decoder"} == {
                k: v for k, v in one.items() if k != "decoder"
            }
    rows = [row for run in runs for row in run.rows()]
    assert tables["rows"].num_rows == len(rows)
    for row, line in zip(rows, tables["rows"].to_pylist(), strict=True):
        assert all(line[key] == row[key] for key in ("text", "token_ids", "log_likelihoods", "gaps", "joules", "group"))
        assert json.loads(line["rounds"]) == row["rounds"] and line["seconds.decode"] == row["seconds"]["decode"]
        assert line["score"] == next(iter(json.loads(line["grades"]).values()))


def test_a_column_has_the_same_type_in_every_export(tmp_path: Path) -> None:
    types: dict[str, Any] = {}
    for number, place in enumerate([FROZEN / "runs", FROZEN / "older", REFERENCE]):
        for name, table in exported(place, tmp_path / str(number)).items():
            for field in table.schema:
                assert types.setdefault(f"{name}.{field.name}", field.type) == field.type, field
    rows = [pq.read_schema(tmp_path / str(number) / "rows.parquet") for number in (0, 1)]
    assert rows[0].equals(rows[1]), "a summary alone has no rows, and their columns all the same"


def test_an_odd_text_is_no_obstacle(tmp_path: Path) -> None:
    (run,) = FROZEN.glob("runs/*toy*/*")
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["text"] = "half \ud800 \x00"
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert exported(folder, tmp_path / "out")["rows"]["text"][0].as_py() == "half \\ud800 \x00"


@pytest.mark.parametrize("arguments", [["nowhere", "--to", "out"], ["run", "--to", "taken/under"]])
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    (run,) = FROZEN.glob("runs/*toy*/*")
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
        main(arguments)

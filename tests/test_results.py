"""Which runs are found in a folder, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.report.results import read_results
from mtad.errors import UserError
from tests.made_results import made, save


def test_a_run_behind_a_link_is_found_and_none_twice(tmp_path: Path) -> None:
    save(tmp_path / "scratch" / "pair-task" / "id", made()[0])
    results = tmp_path / "results"
    results.mkdir()
    (results / "linked").symlink_to(tmp_path / "scratch" / "pair-task", target_is_directory=True)
    (results / "again").symlink_to(results, target_is_directory=True)  # a loop
    (results / "gone").symlink_to(tmp_path / "nowhere")
    assert [run.name for run in read_results(results).runs] == ["linked"]
    assert len(read_results(tmp_path).runs) == 1


def test_trials_are_no_results_but_a_finished_run_of_such_a_name_is_one(tmp_path: Path) -> None:
    summary, rows = made()
    save(tmp_path / "pair-task" / "id", summary, rows)
    save(tmp_path / "pair-task-tuning" / "id", None, rows)
    found = read_results(tmp_path)
    assert [run.name for run in found.runs] == ["pair-task"] and not found.unfinished
    save(tmp_path / "fine-tuning" / "id", summary, rows)
    assert [run.name for run in read_results(tmp_path).runs] == ["fine-tuning", "pair-task"]


@pytest.mark.parametrize(
    "changed", [{"decoders": {}}, {"decoders": []}, {"decoders": {"a": 1}}, {"comparisons": None}, {"code_versions": 1}]
)
def test_a_summary_of_another_shape_is_one_clear_line(changed: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_text(json.dumps({**made()[0], **changed}), encoding="utf-8")
    with pytest.raises(UserError, match=r"odd\.json is no summary of a run"):
        read_results(file)

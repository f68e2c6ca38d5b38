"""What the committed reference results are claimed to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / f"tiny-{name}.json").read_text(encoding="utf-8"))
    return found


def test_the_cost_model_predicted_the_speed_ups_of_the_default_run_within_15_percent() -> None:
    decoders = read("cost")["decoders"]
    assert decoders.keys() == {"mtad", "autoregressive", "speculative"}
    for label in ("mtad", "speculative"):
        found = decoders[label]
        assert found["predicted_speedup"] == pytest.approx(found["measured_speedup"], rel=0.15)
        assert found["error"] == pytest.approx(found["predicted_speedup"] / found["measured_speedup"] - 1)


@pytest.mark.parametrize("task", ["sql", "code", "arithmetic"])
def test_a_table_and_its_figures_are_of_one_run_that_nothing_disturbed(task: str) -> None:
    summary, table = read(task), (REFERENCE / f"tiny-{task}.txt").read_text(encoding="utf-8")
    assert summary["run_id"] in table and summary["task"] == task
    assert (summary["isolation"], summary["machines"], len(summary["code_versions"])) == ([], 1, 1)
    for label, figures in summary["decoders"].items():
        assert any(line.split()[:2] == [label, f"{figures['tokens_per_second']:.1f}"] for line in table.splitlines())

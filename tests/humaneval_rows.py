"""HumanEval's fixture: invented rows, and the grade of a text as an answer to one."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.dataset.row_task import Row
from experiments.task import Prompt
from experiments.tasks.humaneval import HumanEval

ROWS = Path(__file__).parent / "fixtures" / "humaneval.jsonl"
PASSED = {"pass@1": 1.0, "timed_out": 0.0}
FAILED = {"pass@1": 0.0, "timed_out": 0.0}


def rows(path: Path = ROWS) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompt(row: dict[str, str]) -> Prompt:
    return HumanEval().prompt(Row(row, 1, "here"))


def grade(text: str, row: dict[str, str], **options: float) -> dict[str, float]:
    return dict(HumanEval(**options).grade(prompt(row), text))  # type: ignore[arg-type]

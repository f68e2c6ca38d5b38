"""MT-Bench: 80 questions in two turns, for a judge (Zheng et al. 2023, arXiv 2306.05685).

Knows the questions and the format in which FastChat's judge takes answers; refuses to know any judge, so there is no
score here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from urllib.parse import quote

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn


@dataclass(frozen=True, kw_only=True)
class MtBench(RowTask):
    """Questions that look back on the decoder's own answer; each of the eight categories has figures of its own."""

    max_prompt_tokens: int | None = None
    name: str = field(default="mt_bench", init=False)
    dialogue: bool = field(default=True, init=False)
    grouping: str = field(default="category", init=False)

    def prompt(self, row: Row) -> Prompt:
        number = question_id(row)
        return Prompt(f"{self.name}/{number}", tuple(map(Turn, row.texts("turns"))), group=row.text("category"))

    def files(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What FastChat's `gen_judgment.py` reads: one line a question, one choice a repeat.

        It names a model by its file, compares question ids as integers, and judges the first choice only. It asks for
        an answer to every question of its own file: after a run with a `limit`, that file must hold these only.
        """
        model = quote(label, safe="=,+")  # one file a label, whatever characters that has
        ordered = sorted(rows, key=lambda row: (_number(row), row["repeat"], row["turn"]))
        answers = [_answer(number, model, list(own)) for number, own in groupby(ordered, key=_number)]
        return {f"model_answer/{model}.jsonl": answers}


def question_id(row: Row) -> int:
    """The number that the question has everywhere. Raises UserError."""
    number = row.get("question_id")
    if type(number) is not int:  # True is one too
        raise row.wrong("question_id", "no whole number", number)
    return number


def _number(row: Mapping[str, Any]) -> int:
    return int(row["prompt_id"].rpartition("/")[2])


def _answer(number: int, model: str, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The answers of one question, in the order of repeats and turns."""
    choices = [
        {"index": index, "turns": [row["text"].strip() for row in turns]}
        for index, (_, turns) in enumerate(groupby(rows, key=lambda row: row["repeat"]))
    ]
    content = json.dumps([number, model, choices])
    return {
        "question_id": number,
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],  # random there, of the same length
        "model_id": model,
        "choices": choices,
        "tstamp": None,  # nobody reads it, and the same rows make the same file
    }

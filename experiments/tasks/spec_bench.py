"""Spec-Bench: 480 prompts in six groups, to compare speculative decoders (Xia et al. 2024, arXiv 2401.07851).

Knows the groups and which part of a prompt is a document. It measures speed, so there is no score.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import ClassVar

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn
from experiments.tasks.mt_bench import question_id

GROUPS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")  # as in its own report
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
GROUP_OF = {group: group for group in GROUPS[1:]} | dict.fromkeys(MT_BENCH, GROUPS[0])
SUMMARIZE = "Summarize: "


@dataclass(frozen=True, kw_only=True)
class SpecBench(RowTask):
    """Each of the six groups has figures of its own; the one from MT-Bench has two turns."""

    hint: ClassVar[str] = "; this one is data/spec_bench/question.jsonl of github.com/hemingkx/Spec-Bench"

    name: str = field(default="spec_bench", init=False)
    dialogue: bool = field(default=True, init=False)

    def prompt(self, row: Row) -> Prompt:
        number, category = question_id(row), row.text("category")
        group = GROUP_OF.get(category)
        if group is None:
            raise row.wrong("category", f"none of {', '.join(GROUP_OF)}", category)
        turns = tuple(_turn(group, text) for text in row.texts("turns"))
        private = group == "summarization"  # articles of CNN and Daily Mail
        return Prompt(f"{self.name}/{number}", turns, group=group, private=private)

    def order(self, prompts: list[Prompt]) -> list[Prompt]:
        """Shuffled, then one of each group in turn: every first six prompts cover all groups, which are of one size."""
        groups = defaultdict[str | None, list[Prompt]](list)
        for prompt in super().order(prompts):
            groups[prompt.group].append(prompt)
        return [prompt for one_each in zip_longest(*groups.values()) for prompt in one_each if prompt is not None]


def _turn(group: str, text: str) -> Turn:
    """An article follows its instruction; a question follows its passages, on the last line."""
    if group == "summarization" and text.startswith(SUMMARIZE):
        return Turn(SUMMARIZE, document=text.removeprefix(SUMMARIZE))
    if group == "rag":
        passages, newline, question = text.rpartition("\n")
        return Turn("", document=passages, after=newline + question)
    return Turn(text)

"""What a benchmark task is: prompts with answers, and a grade for a model's output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``answer`` is JSON data that only its task understands."""

    id: str
    text: str
    answer: Mapping[str, Any]


class Task(Protocol):
    """A set of prompts and the way to grade outputs; tasks are frozen dataclasses."""

    @property
    def name(self) -> str:
        """The task's name in configurations and results."""

    @property
    def max_new_tokens(self) -> int:
        """The longest output, in tokens."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an output; it is graded up to the first of them."""

    def prompts(self) -> Sequence[Prompt]:
        """All prompts, shuffled once and for all so that any prefix is a fair sample."""

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Scores in [0, 1] of an output cut before the stop string; the first one is the headline score."""


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Prompts from a JSON-lines file with one ``{"id", "text", "answer"}`` object a line."""
    with path.open(encoding="utf-8") as lines:
        return tuple(Prompt(**json.loads(line)) for line in lines)

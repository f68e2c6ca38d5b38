"""Word problems whose number combinations were never seen in training, graded by the final number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from experiments.task import Prompt, Task, read_prompts

_PROMPTS = Path(__file__).parent / "data" / "arithmetic.jsonl"
_FINAL = re.compile(r"#### *(-?\d{1,9})(?!\d)")


@dataclass(frozen=True)
class Arithmetic(Task):
    """Worked steps, then a line ``#### number``; the output ends before the blank line after it."""

    max_new_tokens: int = 96
    name: str = field(default="arithmetic", init=False)
    templated: bool = field(default=False, init=False)
    stop: tuple[str, ...] = field(default=("\n\n",), init=False)

    def prompts(self) -> Sequence[Prompt]:
        """The held-out problems."""
        return _prompts()

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Final answer: whether the first marked number is the right one."""
        final = _FINAL.search(text)
        return {"final_answer": float(final is not None and int(final[1]) == prompt.answer["number"])}


@cache
def _prompts() -> tuple[Prompt, ...]:
    return read_prompts(_PROMPTS)

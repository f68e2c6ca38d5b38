"""Continuing standard-library functions of modules never seen in training."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from experiments.task import Prompt, Task, read_prompts

_PROMPTS = Path(__file__).parent / "data" / "code.jsonl"


@dataclass(frozen=True)
class Code(Task):
    """The rest of a function after its first statement."""

    max_new_tokens: int = 96
    name: str = field(default="code", init=False)
    templated: bool = field(default=False, init=False)
    stop: tuple[str, ...] = field(default=("\n\n\n",), init=False)

    def prompts(self) -> Sequence[Prompt]:
        """The held-out functions, cut."""
        return _prompts()

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Similarity to the true rest (difflib's ratio over characters), and whether the function parses."""
        similarity = difflib.SequenceMatcher(None, text.rstrip(), prompt.answer["code"].rstrip(), autojunk=False)
        return {"edit_similarity": similarity.ratio(), "parses": float(parses(prompt.text, text))}


@cache
def _prompts() -> tuple[Prompt, ...]:
    return read_prompts(_PROMPTS)


def parses(prompt: str, text: str) -> bool:
    """Whether prompt and output are valid Python, if need be without the last line, which a limit may have cut."""
    complete, _, last = text.rstrip().rpartition("\n")
    return any(kept.strip() != "" and _valid(prompt + kept) for kept in (f"{complete}\n{last}", complete))


def _valid(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: NUL bytes on older Pythons
        return False
    return True

"""A task of a few words: how many of the answer's words are new to the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.task import Prompt, Task, Turn


@dataclass(frozen=True)
class Words(Task):
    max_new_tokens: int = 8
    name: str = field(default="words", init=False)

    def prompts(self) -> Sequence[Prompt]:
        return [Prompt(f"words/{i}", (Turn(f"w{i} w{i + 1} w{i + 2}"),)) for i in range(6)]

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        words = text.split()
        return {"new_words": sum(word not in prompt.text.split() for word in words) / max(len(words), 1)}

"""A task of random words for the random pair that `saved_pair` puts on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.task import Prompt

WORDS = [f"w{i}" for i in range(58)]


@dataclass(frozen=True)
class Toy:
    max_new_tokens: int = 12
    size: int = 6
    name: str = field(default="toy", init=False)
    stop: tuple[str, ...] = field(default=(), init=False)

    def prompts(self) -> Sequence[Prompt]:
        return [Prompt(f"toy/{i}", " ".join(WORDS[i : i + 5]), {}) for i in range(self.size)]

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        words = text.split()
        return {"even": sum(word in WORDS[::2] for word in words) / max(len(words), 1)}

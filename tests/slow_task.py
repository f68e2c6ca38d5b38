"""The toy task with grades that take a while, so that a signal can come while processes give them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.task import Prompt
from tests.toy import Toy


@dataclass(frozen=True)
class Slow(Toy):
    seconds: float = 0.5
    heavy: bool = field(default=True, init=False)
    name: str = field(default="slow", init=False)

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        time.sleep(self.seconds)
        return super().grade(prompt, text)

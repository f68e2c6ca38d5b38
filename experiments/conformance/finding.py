"""What a check is given and what it finds. Knows no check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from experiments.build import build
from mtad.decoder import Decoder, Engine, RoundDecoder

Figure = float | int | str


class Verdict(StrEnum):
    """How a check ends."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """The end of one check.

    Attributes:
        verdict: of it.
        says: the reason in one line.
        figures: the numbers behind it, by name.
    """

    verdict: Verdict
    says: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A decoder under examination.

    Attributes:
        name: as on the command line.
        config: `_target_` and options, as its YAML with overrides gives them.
        seed: of all texts that are written.
    """

    name: str
    config: Mapping[str, Any]
    seed: int = 0

    def make(self) -> Decoder:
        """A fresh one, so that no check meets what another has left behind. Raises UserError."""
        decoder: Decoder = build(self.name, self.config)
        return decoder

    @property
    def kind(self) -> str:
        """What it has: "round", "write" or "run" (an engine)."""
        decoder = self.make()
        return "run" if isinstance(decoder, Engine) else "round" if isinstance(decoder, RoundDecoder) else "write"


Check = Callable[[Subject], Finding]


def judged(fault: str | None, right: str, **figures: Figure) -> Finding:
    """Failed with the first fault, or passed, in the words of `right`."""
    return Finding(Verdict.FAILED if fault else Verdict.PASSED, fault or right, figures)


def inapplicable(reason: str, **figures: Figure) -> Finding:
    """Not judged, and why; figures may be shown all the same."""
    return Finding(Verdict.NOT_APPLICABLE, reason, figures)

"""Texts of a batch against the run's own, written alone: where they part, and whether rounding can have decided there.

Randomness is counted, so a text is the same in any batch as far as its logits are. Knows rows, outputs and the pair;
how a decision is made again is `mtad.margin`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import Any

from experiments.journal import Row
from mtad.generate import Output

MOST_LISTED = 20  # texts of a window that a record names one by one
WITHIN, UNEXPLAINED = "within tolerance", "unexplained"

Block = Sequence[int]


@dataclass(frozen=True)
class Difference:
    """Where two texts part.

    Attributes:
        position: the first of the new tokens, counted from 0, that differs.
        written: the new tokens before the first round that differs.
        offset: the first token of that round that differs; one round may also be the beginning of the other.
    """

    position: int
    written: tuple[int, ...]
    offset: int


Hangs = Callable[[Difference], bool]  # whether the decision there hangs on less than the tolerance


@dataclass
class Equality:
    """What a window's texts come to beside those written alone.

    Attributes:
        within: texts that part where less than the logits' tolerance decides.
        unexplained: texts that part elsewhere.
        listed: the first MOST_LISTED of both.
    """

    within: int = 0
    unexplained: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: dict[str, Any], found: Difference | None, hangs: Hangs) -> None:
        """Count a text; `name` tells which one."""
        if found is None:
            return
        verdict = WITHIN if hangs(found) else UNEXPLAINED
        self.within += verdict == WITHIN
        self.unexplained += verdict == UNEXPLAINED
        if len(self.listed) < MOST_LISTED:
            self.listed.append({**name, "position": found.position, "verdict": verdict})


def blocks_of(row: Row) -> list[Block]:
    """The tokens of each round of a row."""
    ends = accumulate(step["tokens"] for step in row["rounds"])
    return [row["token_ids"][end - step["tokens"] : end] for step, end in zip(row["rounds"], ends, strict=True)]


def compared(row: Row, output: Output) -> Difference | None:
    """Where a text leaves that of the row; None where it is the same."""
    return first_difference(blocks_of(row), [step.tokens for step in output.rounds])


def first_difference(alone: Sequence[Block], batched: Sequence[Block]) -> Difference | None:
    """Where two texts, given by their rounds, part; None where they are the same, in whatever rounds."""
    texts = ([token for block in blocks for token in block] for blocks in (alone, batched))
    position = _first(*texts)
    if position is None:
        return None
    written: list[int] = []
    for one, other in zip(alone, batched, strict=False):
        offset = _first(one, other)
        if offset is not None:
            return Difference(position, tuple(written), offset)
        written += one
    return Difference(position, tuple(written), 0)  # one text ends where the other goes on


def _first(one: Block, other: Block) -> int | None:
    """The first place that is not the same in both."""
    pairs = zip_longest(one, other)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), None)

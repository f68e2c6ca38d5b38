"""What a text read, in order: noted in passing while it is written, told as steps afterwards.

Under the clock a read costs one entry of a list. Knows reads and rounds; refuses to know what becomes of the steps.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from mtad.decoder import Round
from mtad.growth import Drafted
from mtad.law import Law, Warp
from mtad.session import Begin, Read, Session
from mtad.tree import Tree

T = TypeVar("T")


class Noted(NamedTuple):
    """One read.

    Attributes:
        draft: of the draft model, else of the target.
        raw: under the untruncated law at temperature 1, where the variant's own warp is another.
        tree: the tree that was read; it may have grown since.
        nodes: how many it had then, the root included.
        whole: the tree was drafted in one go, and stands for one read above each of its levels.
        begin: a draft began here, which the model grew at once if it could.
    """

    draft: bool
    raw: bool
    tree: Tree
    nodes: int
    whole: bool
    begin: Begin | None


@dataclass(frozen=True)
class Step:
    """What was read between two commits, and the rounds decided upon it, as emitted."""

    reads: tuple[Noted, ...]
    rounds: tuple[Round, ...]


class Recording:
    """Notes the reads of one text; `warp` is that of the variant."""

    def __init__(self, draft: Session, warp: Warp) -> None:
        self._draft = draft
        self._warp = warp
        self._calls: list[tuple[int, list[Noted]]] = []

    def of(self, reads: Generator[Read, Law, T], rounds: int) -> Generator[Read, Law, T]:
        """The same reads, noted. `rounds` is how many the text has so far."""
        notes: list[Noted] = []
        self._calls.append((rounds, notes))
        law = None
        while True:
            try:
                read = next(reads) if law is None else reads.send(law)
            except StopIteration as end:
                found: T = end.value
                return found
            nodes, reader = len(read.tree), read.reader
            law = yield read
            whole = isinstance(law, Drafted)
            tree = law.tree if isinstance(law, Drafted) else read.tree
            of_draft, raw = reader.session is self._draft, reader.warp is not self._warp
            notes.append(Noted(of_draft, raw, tree, nodes, whole, read if isinstance(read, Begin) else None))

    def steps(self, rounds: Sequence[Round]) -> tuple[Step, ...]:
        """What was read, with the rounds of the finished text."""
        ends = [*(before for before, _ in self._calls), len(rounds)]
        return tuple(
            Step(tuple(notes), tuple(rounds[start:end]))
            for (_, notes), (start, end) in zip(self._calls, pairwise(ends), strict=True)
        )

"""What a session did: how many forwards of how many nodes, and how long they and the commits took. Knows no model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mtad.clock import Span


@dataclass
class Counts:
    """What a session did since `open`, without the prefill.

    Attributes:
        reads: how many forwards fed how many tokens: text tokens not read before, and nodes of the tree.
        timed: whether each forward was timed by itself; not so in an engine that compiles them.
    """

    reads: Counter[int] = field(default_factory=Counter)
    timed: bool = True
    _forwards: list[Span] = field(default_factory=list)
    _commits: list[Span] = field(default_factory=list)

    @property
    def forwards(self) -> int:
        """Reads that computed something."""
        return self.reads.total()

    @property
    def nodes(self) -> int:
        """Tokens fed in all forwards."""
        return sum(nodes * times for nodes, times in self.reads.items())

    @property
    def seconds(self) -> float | None:
        """In forwards, by the device's clock; for use after a synchronise. None if they were not timed."""
        return sum(span.seconds for span in self._forwards) if self.timed else None

    @property
    def commit_seconds(self) -> float:
        """In commits, likewise."""
        return sum(span.seconds for span in self._commits)

    def forward(self, nodes: int, span: Span) -> None:
        """Count a forward that fed `nodes` tokens."""
        self.reads[nodes] += 1
        self._forwards.append(span)

    def commit(self, span: Span) -> None:
        """Count a commit."""
        self._commits.append(span)

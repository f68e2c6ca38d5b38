"""Agreement: keep drafted tokens while they are among the target's most probable ones. An example, not a method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mtad.decoder import Rounds, Text
from mtad.drafting import OneEach, grow
from mtad.options import at_least
from mtad.rounds import close
from mtad.session import Reader


@dataclass(frozen=True)
class Agree:
    """Lossy: a drafted token is kept if fewer than `rank` tokens are more probable under the target.

    Attributes:
        gamma: draft length in tokens.
        rank: 1 keeps the most probable token only.
    """

    gamma: int = 3
    rank: int = 2

    joint = False
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("rank", self.rank, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        chain = (yield from grow(draft, OneEach(), min(self.gamma, text.room - 1), text)).tree
        p = yield target.read(chain)
        edges, node = p.edges(chain)[1:], 0
        while node < len(edges) and (p.logp[node] > edges[node]).sum() < self.rank:
            node += 1
        return close(text, chain, node, partial(p.draw, node))

"""A text of a trace as a decoder: asks for the recorded reads and returns the recorded rounds.

It goes through the same sessions, warps and commits as the decoder that made the trace, so its feeds, masks and cache
moves are those of the original. Decides nothing; refuses to know where the steps come from.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mtad.decoder import Round, Text
from mtad.law import Law
from mtad.session import Read, Reader
from mtad.tree import Tree


class Asked(NamedTuple):
    """A recorded read.

    Attributes:
        draft: of the draft model, else of the target.
        raw: under the untruncated law at temperature 1.
        keeps: how many first nodes, the root among them, are those of this model's last read in the same step.
        parents, tokens: of the nodes after these.
    """

    draft: bool
    raw: bool
    keeps: int
    parents: tuple[int, ...]
    tokens: tuple[int, ...]

    def grown(self, before: Tree) -> Tree:
        """The tree that is read, given the last one, which may become it."""
        tree = before
        if self.keeps < len(before):
            tree = Tree()
            tree.tokens, tree.parents = before.tokens[: self.keeps], before.parents[: self.keeps]
            tree.depths = before.depths[: self.keeps]
        for parent, token in zip(self.parents, self.tokens, strict=True):
            tree.add(parent, token)
        return tree


class Step(NamedTuple):
    """What was read between two commits, and the rounds that followed from it."""

    reads: tuple[Asked, ...]
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class Replayed:
    """Writes one recorded text, or its beginning.

    Attributes:
        steps: by the number of tokens written before.
        length: how many tokens are to be written, at most as many as were recorded.
        joint, drafts, lossless: of the decoder that made the trace.
    """

    steps: Mapping[int, Step]
    length: int
    joint: bool
    drafts: bool
    lossless: bool

    def write(self, text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        """The reads and rounds of one step; of a decoder that works in rounds, it is one round."""
        step = self.steps[self.length - text.room]
        trees = [Tree(), Tree()]
        readers = {(True, False): draft, (False, False): target}
        for asked in step.reads:
            tree = trees[asked.draft] = asked.grown(trees[asked.draft])
            key = asked.draft, asked.raw
            if key not in readers:
                readers[key] = readers[asked.draft, False].raw
            yield readers[key].read(tree)
        return step.rounds

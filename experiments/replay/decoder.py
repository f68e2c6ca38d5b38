"""A text of a trace as a decoder: asks for the recorded reads and returns the recorded rounds.

It goes through the same sessions, warps and commits as the decoder that made the trace, so its feeds, masks and cache
moves are those of the original. Decides nothing; refuses to know where the steps come from.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mtad.decoder import Round, Text
from mtad.growth import Draws, Growth, forced
from mtad.law import Law
from mtad.session import Grow, Read, Reader
from mtad.tree import Tree


class Grows(NamedTuple):
    """A draft that some models grow at once: nodes of a level, how they were chosen, and levels at most."""

    width: int
    draws: Draws
    levels: int


class Asked(NamedTuple):
    """A recorded read.

    Attributes:
        draft: of the draft model, else of the target.
        raw: under the untruncated law at temperature 1.
        keeps: how many first nodes, the root among them, are those of this model's last read in the same step.
        parents, tokens: of the nodes after these.
        grows: the reads from here on are levels of a whole draft, `levels` of them at most.
    """

    draft: bool
    raw: bool
    keeps: int
    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    grows: Grows | None = None

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
        waiting = 0  # levels that were drafted in one go
        for place, asked in enumerate(step.reads):
            tree = trees[asked.draft] = asked.grown(trees[asked.draft])
            key = asked.draft, asked.raw
            if key not in readers:
                readers[key] = readers[asked.draft, False].raw
            if waiting:
                waiting -= 1
            elif asked.grows and readers[key].grows:
                levels = levels_of(step.reads[place:])
                waiting = len(levels)
                yield _whole(readers[key], asked.grows, levels)
            else:
                yield readers[key].read(tree)
        return step.rounds


def levels_of(reads: Sequence[Asked]) -> list[Asked]:
    """The reads after the first that are levels of the draft which the first one asks for."""
    first, found, nodes = reads[0], list[Asked](), 1
    assert first.grows
    for asked in reads[1 : first.grows.levels]:
        below = all(parent >= nodes - len(found[-1].tokens) if found else parent == 0 for parent in asked.parents)
        if asked.grows or (asked.draft, asked.raw, asked.keeps) != (first.draft, first.raw, nodes) or not below:
            break
        found.append(asked)
        nodes += len(asked.tokens)
    return found if all(len(asked.tokens) <= first.grows.width for asked in found) else []


def _whole(reader: Reader, grows: Grows, levels: Sequence[Asked]) -> Grow:
    """Asks for the recorded draft at once. Its last level, which the draft model never reads, is void."""
    parents, tokens = (np.full((grows.levels, grows.width), fill) for fill in (0, -1))
    above = 0  # the first node of the level above
    for level, asked in enumerate(levels):
        parents[level, : len(asked.tokens)] = [parent - above for parent in asked.parents]
        tokens[level, : len(asked.tokens)] = asked.tokens
        above = asked.keeps
    growth = Growth(grows.width, grows.draws, reader.warp, frozenset(), forced=True)
    return Grow(reader, Tree(), growth, grows.levels, forced(parents, tokens, grows.width))

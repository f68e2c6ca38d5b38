"""The token tree: the only draft type there is.

Node 0 is the root, the text committed so far; nodes 1..n are drafted tokens, each with a parent that stands before it.
A chain, k chains and a beam lattice are all trees. Row i of a law is the next-token law *after* node i, so the
conditional of node i is ``law[parents[i], tokens[i]]`` and no +1 or -1 is needed anywhere.

Knows token ids only; refuses to know models, caches and probabilities other than those handed to `joint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mtad.law import Law

ROOT = 0


class Tree:
    """A growing tree of drafted tokens; equal siblings are allowed (draws with replacement make them).

    Attributes:
        tokens: token id of each node; -1 for the root.
        parents: parent of each node; -1 for the root.
        depths: distance of each node from the root, in tokens.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = [-1]
        self.parents: list[int] = [-1]
        self.depths: list[int] = [0]

    @classmethod
    def chain(cls, tokens: Iterable[int]) -> Tree:
        """The tree of one path."""
        tree, node = cls(), ROOT
        for token in tokens:
            node = tree.add(node, token)
        return tree

    @classmethod
    def of_paths(cls, paths: Iterable[Sequence[int]]) -> Tree:
        """The smallest tree that spells every path (equal prefixes are shared)."""
        tree = cls()
        known: dict[tuple[int, ...], int] = {(): ROOT}
        for path in paths:
            for end in range(1, len(path) + 1):
                key = tuple(path[:end])
                if key not in known:
                    known[key] = tree.add(known[key[:-1]], key[-1])
        return tree

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.tokens)

    def add(self, parent: int, token: int) -> int:
        """Append a node and return its index."""
        self.tokens.append(int(token))
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        return len(self.tokens) - 1

    def path(self, node: int) -> list[int]:
        """The tokens from the root (excluded) to `node`."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def children(self, node: int) -> list[int]:
        """The children of `node` in the order in which they were added."""
        return [child for child in range(node + 1, len(self)) if self.parents[child] == node]

    def distinct(self) -> int:
        """How many different paths there are, the root's left out; a session reads equal siblings once."""
        known: dict[tuple[int, int], int] = {}
        same = [ROOT]
        for parent, token in zip(self.parents[1:], self.tokens[1:], strict=True):
            same.append(known.setdefault((same[parent], token), len(known) + 1))
        return len(known)

    def leaves(self) -> list[int]:
        """Nodes without children; the root if nothing was drafted."""
        inner = set(self.parents)
        return [node for node in range(len(self)) if node not in inner]

    def joint(self, law: Law) -> np.ndarray:
        """Joint log-probability of root -> node for every node, float64 of shape [nodes]; 0 at the root.

        `law` needs a row for every node that has children.
        """
        joint = law.edges(self)
        for node in range(1, len(self)):
            joint[node] += joint[self.parents[node]]
        return np.array(joint)

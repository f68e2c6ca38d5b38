"""Asking for a whole draft at once: how its levels are chosen, and what comes back. Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mtad.law import SHORT, Law, Warp, short_rows
from mtad.tree import ROOT, Tree

Draws = Literal["without", "with", "largest"]  # without replacement, with, or no draws: the largest joints


@dataclass(frozen=True)
class Growth:
    """How a level is chosen among all (beam, token) pairs by their joint weights.

    Attributes:
        width: nodes of a level.
        draws: see `Draws`.
        warp: of the drafting model's laws; it needs a top-k.
        eos: tokens after which nothing is drafted.
        forced: the nodes are given, see `forced`; laws and draws are computed all the same, as what they cost is asked.
    """

    width: int
    draws: Draws
    warp: Warp
    eos: frozenset[int]
    forced: bool = False


def forced(parents: np.ndarray, tokens: np.ndarray, width: int) -> np.ndarray:
    """The nodes of a draft in place of uniforms, float64 [levels, width]; a negative token makes a void node."""
    return np.where(tokens < 0, -1.0, parents + width * tokens.astype(np.float64))


@dataclass(frozen=True)
class Grown:
    """What was drafted for one text: `levels` levels of `width` nodes, over laws of k tokens.

    Attributes:
        tokens, parents: int64 [levels, width]; a parent is a place in the level before, 0 in the first.
        scores: joint log-probability of each node, float64 [levels, width]; minus infinity where it is void.
        ids, logp: laws after the root, and after every node of every level but the last, [1 + (levels - 1) width, k].
        logits: these laws' logits, by level.
        sure: no law was cut within a tie that the program cannot settle.
    """

    tokens: np.ndarray
    parents: np.ndarray
    scores: np.ndarray
    ids: np.ndarray
    logp: np.ndarray
    logits: list[torch.Tensor]
    sure: bool

    def draft(self, eos: frozenset[int]) -> Drafted:
        """The tree of all nodes that are not void, and the laws of those that were read."""
        tree, rows, ended = Tree(), [0], list[int]()
        above, (levels, width) = [ROOT], self.tokens.shape
        for level, nodes in enumerate(
            zip(self.tokens.tolist(), self.parents.tolist(), self.scores.tolist(), strict=True)
        ):
            below = []
            for place, (token, parent, score) in enumerate(zip(*nodes, strict=True)):
                if score == -np.inf:
                    break  # void ones come last
                below.append(tree.add(above[parent], token))
                if level < levels - 1:
                    rows.append(1 + level * width + place)
                if token in eos:
                    ended.append(below[-1])
            above = below or above
        whole = [node for node in above if tree.depths[node] == levels and tree.tokens[node] not in eos]
        return Drafted(self.ids[rows], self.logp[rows], tree, ended + whole)


class Drafted(Law):
    """The drafting model's law, a row for every node of `tree` that was read, and the complete candidates, `ends`."""

    def __init__(self, ids: np.ndarray, logp: np.ndarray, tree: Tree, ends: list[int]) -> None:
        super().__init__(ids, logp)
        if ids.shape[1] <= SHORT:
            self.short = short_rows(ids, logp)
        self.tree = tree
        self.ends = ends

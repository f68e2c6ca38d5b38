"""Traversal verification of a token tree, from the leaves to the root; lossless.

Weng, Hu, Chen, Liu, Mei, Qiu, Tian, Shi: "Traversal Verification for Speculative Tree Decoding", arXiv 2505.12398.

    draft   a tree, the children of a node drawn from q(. | path) one after the other
    weigh   w = 1 at the root,  w(x) = min(1, w p(x) / q(x))  at a child x of a node of weight w
    visit   the first child with all that is below it, then the second one, ...; a node after its last child
    accept  the first visited node with u < w, and the path to it
    refused child x of a node:  S = sum max(w p - q, 0)
                                p <- max(w p - q, 0) / S,  w <- S / (S + 1 - w),  q <- q without x, normalised
    then    a token from the p that is left at the accepted node

It is block verification where every node has one child. The invariant: a node of weight w is accepted, it or a node
below it, with probability w, and what follows it has the law p. With replacement q stays what it is.

The paper's defaults: chains, binary trees and a fixed sparse tree, without replacement.
What differs: the tree, here of `branching`, and draws with replacement as an option (our own; the same proof holds).
Under greedy sampling the target's own path is followed down a tree of the most probable tokens of q, as in SpecInfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from baselines.block import restart
from baselines.specinfer import verified_tree
from mtad.decoder import Rounds, Source, Text
from mtad.drafting import Branch, grow
from mtad.law import Law, inverse_cdf, side_by_side
from mtad.options import at_least, each_at_least
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT, Tree


@dataclass(frozen=True)
class Multipath:
    """Traversal verification.

    Attributes:
        gamma: depth of the tree in tokens.
        branching: children of a node at depth 0, 1, ...; one beyond.
        replacement: draw children independently, so that equal siblings occur.
    """

    gamma: int = 4
    branching: tuple[int, ...] = (4, 2, 2)
    replacement: bool = False

    joint = True
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        each_at_least("branching", self.branching, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        if text.greedy:
            return (yield from verified_tree(text, target, draft, self.gamma, self.branching, self.replacement))
        rule = Branch(self.branching, self.replacement)
        drafted = yield from grow(draft, rule, min(self.gamma, text.room - 1), text)
        tree = drafted.tree
        p = yield target.read(tree)

        def uniform(node: int) -> float:
            depth = tree.depths[node]
            return text.luck.accept(text.start + depth - 1, text.start, node - tree.depths.index(depth))

        end = traverse(tree, p, drafted.law, uniform, self.replacement)
        source = Source.CORRECTED if tree.children(end.node) else Source.TARGET
        return close(text, tree, end.node, end.draw, source)


@dataclass(frozen=True)
class End:
    """The accepted node, and what is left of p after it: tokens, ids ascending, and their weights."""

    node: int
    tokens: np.ndarray
    p: np.ndarray

    def draw(self, uniform: float) -> int:
        return int(self.tokens[inverse_cdf(self.p, uniform)])


def traverse(tree: Tree, p: Law, q: Law, uniform: Callable[[int], float], replacement: bool) -> End:
    """Traversal verification of a tree whose children were drawn from q, in the order of their numbers.

    Args:
        p: a row for every node.
        q: a row for every node that has children.
        uniform: that of a node's own test; the root needs none.
    """

    def accepted(node: int, w: float) -> bool:
        return node == ROOT or uniform(node) < w

    def settle(node: int, w: float) -> End | None:
        """The accepted node among `node` and those below it, if any, given the weight of `node`."""
        children = tree.children(node)
        if not children:
            if not accepted(node, w):
                return None
            tokens, logp = p.row(node)
            return End(node, tokens, np.exp(logp))
        tokens, left, drawn = side_by_side(p, q, node)
        for child in children:
            x = int(np.searchsorted(tokens, tree.tokens[child]))
            end = settle(child, min(1.0, w * float(left[x] / drawn[x])))
            if end:
                return end
            rest = np.maximum(w * left - drawn, 0.0)
            s = float(rest.sum())
            w, left = restart(w, s), rest / s if s else left
            if not replacement:
                drawn[x] = 0.0
                drawn /= drawn.sum() or 1.0
        return End(node, tokens, left) if accepted(node, w) else None

    end = settle(ROOT, 1.0)
    assert end is not None  # the root's weight stays 1
    return end

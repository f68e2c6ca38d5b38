"""SpecInfer: a tree of drafts, verified by multi-step speculative sampling; lossless.

Miao et al.: "SpecInfer: Accelerating Large Language Model Serving with Tree-based Speculative Inference and
Verification", arXiv 2305.09781.

    draft   below every node of depth d, `branching[d]` children x_1, x_2, ... ~ q, independently
    accept  at a node, the first child with  u_i < p(x_i) / q(x_i), and go on below it;
            after each refusal  p <- max(p - q, 0), normalised
    then    if all children are refused a token from what is left of p; at a leaf one more from p

The paper's defaults: branching <1, 1, 3, 1, 1, 1, 1, 1>, that is gamma 8; here it is cut to gamma 4. Differs: one draft
model, not several; its children are tried in the order in which they were drawn, where the paper picks among them at
random, which is the same in law. Our reading: equal siblings keep their own children, and the one that is accepted
decides which are tried next; under greedy sampling children are the most probable tokens of q, and the one that is the
target's best is accepted. The defaults and the order of the tests are quoted without the paper at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import Branch, BranchLargest, Rule, grow
from mtad.law import Law, inverse_cdf, side_by_side
from mtad.options import at_least, each_at_least
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT, Tree


@dataclass(frozen=True)
class SpecInfer:
    """Children drawn with replacement.

    Attributes:
        gamma: draft length (depth of the tree) in tokens.
        branching: children of a node at depth 0, 1, ...; one at each depth beyond.
    """

    gamma: int = 4
    branching: tuple[int, ...] = (1, 1, 3)

    joint = True
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        each_at_least("branching", self.branching, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return verified_tree(text, target, draft, self.gamma, self.branching, replacement=True)


def verified_tree(
    text: Text, target: Reader, draft: Reader, gamma: int, branching: tuple[int, ...], replacement: bool
) -> Rounds:
    """A round that drafts a tree with the given branching, reads it and walks it."""
    rule: Rule = BranchLargest(branching) if text.greedy else Branch(branching, replacement)
    drafted = yield from grow(draft, rule, min(gamma, text.room - 1), text)
    p = yield target.read(drafted.tree)
    return walk(text, drafted.tree, certain(p) if text.greedy else p, drafted.law, replacement)


def walk(text: Text, tree: Tree, p: Law, q: Law, replacement: bool) -> Round:
    """Multi-step speculative sampling down a tree whose children were drawn from q, so that p is what is emitted.

    Args:
        p: a row for every node.
        q: a row for every node that has children.
        replacement: whether siblings were drawn with replacement; without it each was drawn from q less its elders.
    """
    node = ROOT
    while children := tree.children(node):
        tokens, left, drawn = side_by_side(p, q, node)
        for index, child in enumerate(children):
            place = int(np.searchsorted(tokens, tree.tokens[child]))
            if text.luck.accept(text.start + tree.depths[node], text.start, index) < left[place] / drawn[place]:
                break
            left = residual(left, drawn)
            if not replacement and child != children[-1]:
                drawn = without(drawn, place)
        else:
            return close(text, tree, node, partial(draw, tokens, left), Source.CORRECTED)
        node = child
    return close(text, tree, node, partial(p.draw, node))


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """max(p - q, 0) over the same tokens, normalised; p where nothing is left, which then is float noise."""
    rest = np.maximum(p - q, 0.0)
    return np.asarray(rest / rest.sum()) if rest.any() else p


def without(q: np.ndarray, place: int) -> np.ndarray:
    """q, normalised, once the token at `place` can no longer be drawn."""
    rest = q.copy()
    rest[place] = 0.0
    return np.asarray(rest / rest.sum())


def draw(tokens: np.ndarray, weights: np.ndarray, uniform: float) -> int:
    """The token at which the cumulative `weights` pass `uniform` (in [0, 1))."""
    return int(tokens[inverse_cdf(weights, uniform)])


def certain(p: Law) -> Law:
    """The law that is sure of the best token of every row of `p`."""
    return Law.points([p.best(node) for node in range(len(p))])

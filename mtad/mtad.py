"""MTAD, multi-token assisted decoding, with one candidate and with several.

Qin, Hu, He, Prakriya, Cong, Sun: "Optimized Multi-Token Joint Decoding with Auxiliary Model for LLM Inference",
arXiv 2407.09722 (v4 for several candidates). With p the law of the target and q that of the draft:

    draft   gamma levels of `width` beams by beam sampling under q
    accept  the longest prefix (deepest node) with  min(1, p(x_1..x_j) / q(x_1..x_j)) > tau
    then    one more token from p after it, unless it ended the text

Lossy by design: an accepted prefix satisfies p > tau q as a joint, and nothing is promised of the extra token.
tau >= 1 accepts nothing and is autoregressive sampling, token for token under counted randomness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtad.decoder import Round, Rounds, Text
from mtad.drafting import BeamSample, BeamSearch, Rule, grow
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT, Tree

DraftRule = Literal["beam_sample", "beam_search"]
LastToken = Literal["sampled", "greedy"]
Reference = Literal["max", "own", "final"]


@dataclass(frozen=True)
class Mtad:
    """One candidate: the beam with the highest joint q is verified as a chain.

    Attributes:
        gamma: draft length in tokens.
        width: beams of the draft.
        tau: acceptance threshold on the joint ratio; 0 accepts every prefix that the target finds possible.
        draft_rule: draw the beams (the paper) or take the largest.
        replacement: draw beams with replacement, as the authors' examples do.
        last_token: how the token after the accepted prefix is taken.
    """

    gamma: int = 4
    width: int = 8
    tau: float = 0.5
    draft_rule: DraftRule = "beam_sample"
    replacement: bool = False
    last_token: LastToken = "sampled"

    joint = True
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("width", self.width, 1)
        at_least("tau", self.tau, 0)
        one_of("draft_rule", self.draft_rule, DraftRule)
        one_of("last_token", self.last_token, LastToken)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, self._rule(text), min(self.gamma, text.room - 1), text)
        best = drafted.best()
        chain = Tree.chain(drafted.tree.path(best))
        p = yield target.read(chain)
        ratio = chain.joint(p) - chain_joint(drafted.tree, drafted.law, best)
        passes = np.minimum(ratio, 0) > log(self.tau)
        node = int(np.flatnonzero(passes).max(initial=ROOT))
        return self._accepted(text, chain, p, node)

    def _rule(self, text: Text) -> Rule:
        if self.draft_rule == "beam_search" or text.greedy:
            return BeamSearch(self.width)
        return BeamSample(self.width, self.replacement)

    def _accepted(self, text: Text, tree: Tree, p: Law, node: int) -> Round:
        """The path to `node` and, unless it ended the text, one more token from p."""
        greedy = self.last_token == "greedy" or text.greedy
        return close(text, tree, node, lambda uniform: p.best(node) if greedy else p.draw(node, uniform))


@dataclass(frozen=True)
class Mmtad(Mtad):
    """Several candidates: all beams of all depths are verified in one forward as a tree.

    A node passes if min(1, joint p / reference) > tau. The deepest depth with a passing node wins, within it the node
    with the highest joint p. A node that ends the text is tested at its own depth and counts as one of full depth.

    Attributes:
        reference: `max`, the largest joint q at that depth (the authors' first tree class; the stricter rule);
            `own`, the node's own joint q; `final`, the joint q, at that depth, of the k-th node drawn there, where k is
            the draw order of the best beam at the last depth, or of the last node where a depth has fewer (the authors'
            default tree class).
    """

    reference: Reference = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("reference", self.reference, Reference)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        gamma = min(self.gamma, text.room - 1)
        drafted = yield from grow(draft, self._rule(text), gamma, text)
        tree = drafted.tree
        p = yield target.read(tree)
        joint_p = tree.joint(p)
        passes = np.minimum(joint_p - self._references(tree, tree.joint(drafted.law)), 0) > log(self.tau)
        passes[ROOT] = True
        depths = [gamma if token in text.eos else depth for token, depth in zip(tree.tokens, tree.depths, strict=True)]
        node = max(np.flatnonzero(passes), key=lambda n: (depths[n], joint_p[n], -n))
        return self._accepted(text, tree, p, int(node))

    def _references(self, tree: Tree, joint_q: np.ndarray) -> np.ndarray:
        """The joint log q that each node is measured against, float64 [nodes]."""
        if self.reference == "own":
            return joint_q
        depths = np.array(tree.depths)
        levels = [np.flatnonzero(depths == depth) for depth in range(max(tree.depths) + 1)]
        if self.reference == "max":
            at_depth = [joint_q[level].max() for level in levels]
        else:
            k = int(joint_q[levels[-1]].argmax())
            at_depth = [joint_q[level[min(k, len(level) - 1)]] for level in levels]
        return np.array(at_depth)[depths]


def chain_joint(tree: Tree, law: Law, node: int) -> np.ndarray:
    """Joint log-probability of every prefix of the path to `node`, the empty one first; float64 [depth + 1]."""
    joint, path = tree.joint(law), [node]
    while path[-1] != ROOT:
        path.append(tree.parents[path[-1]])
    return joint[path[::-1]]


def log(tau: float) -> float:
    """log(tau), and minus infinity at 0."""
    return math.log(tau) if tau > 0 else -math.inf

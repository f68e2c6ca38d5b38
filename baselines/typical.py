"""Typical acceptance: keep drafted tokens that the target finds not improbable, given how sure it is.

Cai, Li, Geng, Peng, Lee, Chen, Dao: "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
arXiv 2401.10774.

    draft   a tree under q, `branching` children at depth 1, 2, ...
    pass    x_j with  p(x_j | ..) > min(epsilon, delta exp(-H(p(. | ..)))),  H the entropy in nats, if its parent passes
    choose  the deepest node that passes; among equally deep ones that with the highest joint p
    then    one more token from p after it, unless it ended the text

The paper's defaults: epsilon 0.09 and delta 0.3, its square root (the authors' code). Lossy: every kept token lies
above the threshold, and q has no part in the decision. What differs here: the draft is a model's and not that of
Medusa's heads, its children are drawn (`draft_rule: largest` takes the most probable ones, as Medusa does), and p is
the run's law after top-k and top-p, whose entropy is smaller than that of the whole. Medusa takes the token after the
accepted path by argmax and keeps it always: `last_token: greedy`. Its temperature 0 keeps only the argmax; here
`sampling=greedy` keeps the thresholds, on laws of temperature 1, drafts the most probable tokens and ends with the
argmax. Epsilon 1 and a large delta accept nothing: autoregressive sampling, token for token under counted randomness.
Epsilon 0 accepts all that p finds possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtad.decoder import Rounds, Text
from mtad.drafting import Branch, BranchLargest, Rule, grow
from mtad.law import Law
from mtad.options import at_least, each_at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT, Tree

DraftRule = Literal["sampled", "largest"]
LastToken = Literal["sampled", "greedy"]


@dataclass(frozen=True)
class Typical:
    """An entropy-dependent threshold on the target's own probabilities.

    Attributes:
        gamma: draft length in tokens.
        branching: children of a node at depth 1, 2, ...; one at each depth beyond.
        epsilon: the threshold is at most this.
        delta: the threshold is at most this times exp(-H).
        draft_rule: draw the children without replacement, or take the most probable ones.
        last_token: how the token after the accepted path is taken.
    """

    gamma: int = 4
    branching: tuple[int, ...] = (1,)
    epsilon: float = 0.09
    delta: float = 0.3
    draft_rule: DraftRule = "sampled"
    last_token: LastToken = "sampled"

    joint = True  # thresholds on p itself, which greedy sampling must not turn into points
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        each_at_least("branching", self.branching, 1)
        at_least("epsilon", self.epsilon, 0)
        at_least("delta", self.delta, 0)
        one_of("draft_rule", self.draft_rule, DraftRule)
        one_of("last_token", self.last_token, LastToken)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        largest = self.draft_rule == "largest" or text.greedy
        rule: Rule = BranchLargest(self.branching) if largest else Branch(self.branching)
        tree = (yield from grow(draft, rule, min(self.gamma, text.room - 1), text)).tree
        p = yield target.read(tree)
        joint, node = tree.joint(p), ROOT
        for found in self._passing(tree, p):
            if (tree.depths[found], joint[found]) > (tree.depths[node], joint[node]):
                node = found
        greedy = self.last_token == "greedy" or text.greedy
        return close(text, tree, node, lambda uniform: p.best(node) if greedy else p.draw(node, uniform))

    def _passing(self, tree: Tree, p: Law) -> list[int]:
        """The nodes that pass and whose ancestors pass; parents before their children."""
        least = {node: min(self.epsilon, self.delta * np.exp(-entropy(p, node))) for node in set(tree.parents[1:])}
        edges, passing = np.exp(p.edges(tree)), [ROOT]
        for node in range(1, len(tree)):
            parent = tree.parents[node]
            if parent in passing and edges[node] > least[parent]:
                passing.append(node)
        return passing


def entropy(law: Law, node: int) -> float:
    """Entropy of the law after `node`, in nats."""
    logp = law.row(node)[1]
    return float(-(np.exp(logp) * logp).sum())

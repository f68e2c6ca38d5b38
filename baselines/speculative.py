"""Speculative decoding with a chain of drafts; lossless.

Leviathan, Kalman, Matias: "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192; Chen et al.:
"Accelerating Large Language Model Decoding with Speculative Sampling", arXiv 2302.01318.

    draft   x_1..x_gamma ~ q, one by one
    accept  x_j while u_j < p(x_j) / q(x_j)
    then    on a refusal a token from max(p - q, 0), normalised; else one more from p
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import OneEach, grow
from mtad.law import Law, inverse_cdf
from mtad.options import at_least
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT, Tree


@dataclass(frozen=True)
class Speculative:
    """Token-wise verification.

    Attributes:
        gamma: draft length in tokens.
    """

    gamma: int = 4

    joint = False
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, OneEach(), min(self.gamma, text.room - 1), text)
        p = yield target.read(drafted.tree)
        return verify(text, drafted.tree, p, drafted.law)


def ratios(p: Law, q: Law, chain: Tree) -> list[float]:
    """p / q of every token of a chain that was drawn from q, given those before it; 1 at the root."""
    return [math.exp(a - b) for a, b in zip(p.edges(chain), q.edges(chain), strict=True)]


def verify(text: Text, chain: Tree, p: Law, q: Law) -> Round:
    """Token-wise verification of a chain that was drawn from q, so that what is emitted has the law p.

    Args:
        p: a row for every node; another law than the target's makes that law the one that is sampled.
        q: a row for every node but the last.
    """
    ratio = ratios(p, q, chain)
    node, depth = ROOT, len(chain) - 1
    while node < depth and text.luck.accept(text.start + node, text.start) < ratio[node + 1]:
        node += 1
    if node < depth:
        return close(text, chain, node, partial(residual_draw, p, q, node), Source.CORRECTED)
    return close(text, chain, node, partial(p.draw, node))


def surplus(p: Law, q: Law, node: int, w: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that p finds possible after `node`, ids ascending, and max(w p - q, 0) of each."""
    tokens, logp = p.row(node)
    return tokens, np.maximum(w * np.exp(logp) - np.exp(q.of(node, tokens)), 0.0)


def residual_draw(p: Law, q: Law, node: int, uniform: float, w: float = 1.0) -> int:
    """A token from max(w p - q, 0) after `node`, normalised; from p where rounding leaves nothing of it."""
    tokens, rest = surplus(p, q, node, w)
    return int(tokens[inverse_cdf(rest, uniform)]) if rest.any() else p.draw(node, uniform)

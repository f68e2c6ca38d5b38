"""Speculative decoding with a chain of drafts; lossless.

Leviathan, Kalman, Matias: "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192; Chen et al.:
"Accelerating Large Language Model Decoding with Speculative Sampling", arXiv 2302.01318.

    draft   x_1..x_gamma ~ q, one by one
    accept  x_j while u_j < p(x_j) / q(x_j)
    then    on a refusal a token from max(p - q, 0), normalised; else one more from p
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import OneEach, grow
from mtad.law import Law, inverse_cdf
from mtad.options import at_least
from mtad.session import Reader
from mtad.tree import ROOT


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
        chain, q = drafted.tree, drafted.law
        p = yield target.read(chain)
        ratio = np.exp(p.edges(chain) - q.edges(chain))
        node = ROOT
        while node + 1 < len(chain) and text.luck.accept(text.start + node, text.start) < ratio[node + 1]:
            node += 1
        tokens, depth = chain.path(node), len(chain) - 1
        last = text.luck.last(text.start + node)
        if node < depth:
            tokens.append(residual_draw(p, q, node, last))
        elif not tokens or tokens[-1] not in text.eos:
            tokens.append(p.draw(node, last))
        extra = [Source.CORRECTED if node < depth else Source.TARGET] * (len(tokens) - node)
        return Round(tuple(tokens), (Source.DRAFT,) * node + tuple(extra), depth, node, depth)


def residual_draw(p: Law, q: Law, node: int, uniform: float) -> int:
    """A token from max(p - q, 0) after `node`, normalised."""
    tokens, logp = p.row(node)
    residual = np.maximum(np.exp(logp) - np.exp(q.of(node, tokens)), 0.0)
    return int(tokens[inverse_cdf(residual if residual.any() else np.exp(logp), uniform)])

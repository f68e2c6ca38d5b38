"""SpecTr: several independent chains, one token chosen among theirs at each depth by k-SEQ; lossless.

Sun, Suresh, Ro, Beirami, Jain, Yu: "SpecTr: Fast Speculative Decoding via Optimal Transport", arXiv 2310.15141.

    draft   `width` chains of gamma tokens ~ q, independently
    accept  at each depth, X_1..X_k being the next tokens of the k chains that agree with what was accepted, the first
            with  u_i < p(X_i) / (rho q(X_i)); the chains that have this token there are the next depth's
    then    on k refusals a token from  p - min(p / rho, q) (1 - (1 - beta)^k) / beta, normalised; at the end one more
            from p

with beta = sum_x min(p(x) / rho, q(x)), the chance that one draw is accepted. The divisor rho >= 1 keeps every token
from being accepted more often than p allows. `divisor: optimal` is the paper's rho*, the root in [1, k] of
1 - (1 - beta)^k = rho beta; `candidates` is rho = k, which is always large enough and needs no search, but refuses even
a perfect draft with probability (1 - 1/k)^k. One chain is speculative decoding, and under greedy sampling all chains
are one. The paper's defaults: rho*, 8 chains of 8 tokens; here gamma is 4. Our reading of the selection and of its
residual is held to the exact law by tests; the paper's own listing was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from baselines.specinfer import draw
from mtad.decoder import Rounds, Source, Text
from mtad.drafting import Branch, grow
from mtad.law import side_by_side
from mtad.options import at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import ROOT

Divisor = Literal["optimal", "candidates"]


@dataclass(frozen=True)
class SpecTr:
    """k-SEQ selection.

    Attributes:
        gamma: draft length of each chain in tokens.
        width: chains.
        divisor: how rho is set: the root of the paper's equation, or the number of candidates.
    """

    gamma: int = 4
    width: int = 8
    divisor: Divisor = "optimal"

    joint = False
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("width", self.width, 1)
        one_of("divisor", self.divisor, Divisor)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        rule = Branch((self.width,), replacement=True)
        drafted = yield from grow(draft, rule, min(self.gamma, text.room - 1), text)
        tree = drafted.tree
        p = yield target.read(tree)
        agreeing = [ROOT]  # nodes of one path, so that their rows of a law are equal
        while candidates := [child for node in agreeing for child in tree.children(node)]:
            node, k = agreeing[0], len(candidates)
            tokens, at_p, at_q = side_by_side(p, drafted.law, node)
            rho = optimal_divisor(at_p, at_q, k) if self.divisor == "optimal" else float(k)
            places = np.searchsorted(tokens, [tree.tokens[candidate] for candidate in candidates])
            ratio = at_p[places] / (rho * at_q[places])
            uniforms = (text.luck.accept(text.start + tree.depths[node], text.start, index) for index in range(k))
            chosen = next((place for place, r, u in zip(places, ratio, uniforms, strict=True) if u < r), None)
            if chosen is None:
                return close(text, tree, node, partial(draw, tokens, residual(at_p, at_q, k, rho)), Source.CORRECTED)
            agreeing = [candidates[index] for index in np.flatnonzero(places == chosen)]
        return close(text, tree, agreeing[0], partial(p.draw, agreeing[0]))


def accepted_once(p: np.ndarray, q: np.ndarray, rho: float) -> np.ndarray:
    """The chance that one draw from q is a given token and accepted, float64 [tokens]; beta is its sum."""
    return np.asarray(np.minimum(p / rho, q))


def optimal_divisor(p: np.ndarray, q: np.ndarray, k: int) -> float:
    """The root in [1, k] of 1 - (1 - beta)^k = rho beta, for p and q over the same tokens."""

    def excess(rho: float) -> float:
        beta = min(float(accepted_once(p, q, rho).sum()), 1.0)
        return 1 - (1 - beta) ** k - rho * beta

    if excess(1.0) <= 0:  # one candidate, or equal laws, or nothing in common
        return 1.0
    return float(brentq(excess, 1.0, k)) if excess(k) < 0 else float(k)


def residual(p: np.ndarray, q: np.ndarray, k: int, rho: float) -> np.ndarray:
    """What k refused draws leave of p, not normalised; p where nothing is left, which then is float noise."""
    once = accepted_once(p, q, rho)
    refused = max(1 - float(once.sum()), 0.0)
    rest = np.maximum(p - once * sum(refused**i for i in range(k)), 0.0)
    return rest if rest.any() else p

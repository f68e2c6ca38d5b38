"""Lenience and mentored decoding: speculative decoding that samples a law between the target's and the draft's.

Leviathan, Kalman, Matias: "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192, appendix A.5
(lenience); Tran-Thien: "An optimal lossy variant of speculative decoding" (mentored decoding, 2023, a blog post with a
notebook). Both are token-wise verification, with pi in place of p:

    draft     x_1..x_gamma ~ q, one by one
    accept    x_j while u_j < pi(x_j) / q(x_j)
    then      on a refusal a token from max(pi - q, 0), normalised; else one more from p
    lenience  pi = min(q, p / l) + c r,  r = max(p - q, 0),  c such that pi sums to 1
    mentored  pi = min(max(q, p / beta), p / alpha),  alpha <= 1 <= beta such that KL(p || pi) = D and pi sums to 1

For lenience this is the appendix' u < p / (l q) with a residual r. Mentored decoding accepts most of all laws within
its budget D; where D suffices for q itself, pi = q. l = 1 and D = 0 are speculative decoding, token for token.

Lossy by design: a drafted position has the law pi, not p. What holds is pi <= p / l, or KL(p || pi) <= D.

The paper's defaults: none; l of 0.5, 0.3 and 0.1 are measured there, and D of 0.1, 0.15 and 0.2 by Tran-Thien.

What differs: the appendix scales q "before comparing", so r is `plain`, as in the public code of speculative
cascades; `scaled` takes r = max(p - l q, 0). Under greedy sampling lenience keeps x = argmax q if p(x) >= l max p (the
appendix prints <=, against its own table), and mentored decoding takes the argmax of pi (our reading). A token
that top-k or top-p leaves no p is never kept (for mentored decoding our reading; its author adds 1e-12 everywhere).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from scipy.optimize import bisect

from baselines.specinfer import draw, residual
from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import BeamSearch, OneEach, grow
from mtad.errors import UserError
from mtad.law import Law, side_by_side
from mtad.options import at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree

LossyRule = Literal["lenience", "mentored"]
Residual = Literal["plain", "scaled"]
Blend = Callable[[np.ndarray, np.ndarray], np.ndarray]  # probabilities of p and q over the same tokens -> those of pi
Choice = Callable[[np.ndarray, np.ndarray], int]  # the same -> the place of the token that greedy sampling takes

NOISE = 1e-12  # a divergence of rounding alone, nats
LEAST = 1e-300  # an alpha that bounds nothing but p = 0
BRACKET = 4e-12  # of log alpha; bisection ends within half of it


@dataclass(frozen=True)
class Lenience:
    """Token-wise verification against pi.

    Attributes:
        gamma: draft length in tokens.
        rule: which pi.
        lenience: l in (0, 1], for `lenience`: no token becomes more than 1 / l times as probable as under p.
        residual: what a refused token is replaced from, for `lenience`.
        budget: D >= 0 in nats a token, for `mentored`.
    """

    gamma: int = 4
    rule: LossyRule = "lenience"
    lenience: float = 0.5
    residual: Residual = "plain"
    budget: float = 0.1

    joint = True
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        one_of("rule", self.rule, LossyRule)
        at_least("lenience", self.lenience, 0)
        if not 0 < self.lenience <= 1:
            raise UserError(f"lenience must be in (0, 1], not {self.lenience!r}")
        one_of("residual", self.residual, Residual)
        at_least("budget", self.budget, 0)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, one_each(text), min(self.gamma, text.room - 1), text)
        p = yield target.read(drafted.tree)
        return verify_blend(text, drafted.tree, p, drafted.law, self.pi, self._choice)

    def pi(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The law of a drafted position; p and q are probabilities over the same tokens."""
        if self.rule == "mentored":
            return mentored(p, q, self.budget)
        kept = np.minimum(q, p / self.lenience)
        rest = np.maximum(p - (q if self.residual == "plain" else self.lenience * q), 0.0)
        return kept + max(1 - kept.sum(), 0.0) * rest / (rest.sum() or 1.0)

    def _choice(self, p: np.ndarray, q: np.ndarray) -> int:
        if self.rule == "mentored":
            return int(self.pi(p, q).argmax())
        drafted, best = q.argmax(), p.argmax()
        lenient = self.lenience < 1 and p[drafted] >= self.lenience * p[best]  # 1 forgives not even a tie
        return int(drafted if lenient else best)


def mentored(p: np.ndarray, q: np.ndarray, budget: float) -> np.ndarray:
    """The pi with KL(p || pi) <= budget (nats) that keeps most of q, sum min(q, pi), and nothing where p is 0.

    A smaller alpha keeps more of q and diverges more, so alpha is found by bisection. Given alpha, what is not kept
    goes to tokens with large p / q, which are lifted to p / beta. They take it up at beta = max over k of
    p(first k) / (q(first k) + what is not kept), tokens in descending order of p / q.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        order = np.argsort(-p / q)
        first_p, first_q = p[order].cumsum(), q[order].cumsum()

        def law(alpha: float) -> np.ndarray:
            upper = p / alpha
            missing = np.maximum(q - upper, 0.0).sum()  # 1 - sum min(q, upper) would lose what is tiny
            beta = np.nanmax(first_p / (first_q + missing))
            return np.clip(q, p / beta, upper)

        def excess(alpha: float) -> float:
            return float(np.where(p > 0, p * np.log(p / law(alpha)), 0.0).sum() - budget)

        if excess(1.0) > -NOISE:
            return p
        if excess(LEAST) <= 0:
            return law(LEAST)
        # On the log scale, for alpha may be tiny; and from the root to the side that keeps the budget.
        root = bisect(lambda log_alpha: excess(np.exp(log_alpha)), np.log(LEAST), 0.0)
        return law(float(np.exp(min(root + BRACKET, 0.0))))


def one_each(text: Text) -> OneEach | BeamSearch:
    """The rule of a chain whose tokens are drawn, or the most probable ones under greedy sampling."""
    return BeamSearch(1) if text.greedy else OneEach()


def verify_blend(text: Text, chain: Tree, p: Law, q: Law, blend: Blend, choice: Choice) -> Round:
    """Token-wise verification of a chain drawn from q, so that what is emitted has the law blend(p, q).

    After the last node q has no row, so there the law is p. Under greedy sampling every law is the point at the chosen
    token (after the last node: at the most probable one). Laws are blended only as far as tokens are accepted.
    """
    for node in range(len(chain) - 1):
        tokens, of_p, of_q = side_by_side(p, q, node)
        pi = point(choice(of_p, of_q), len(tokens)) if text.greedy else blend(of_p, of_q)
        place = int(np.searchsorted(tokens, chain.tokens[node + 1]))
        if text.luck.accept(text.start + node, text.start) >= pi[place] / of_q[place]:
            return close(text, chain, node, partial(draw, tokens, residual(pi, of_q)), Source.CORRECTED)
    last = len(chain) - 1
    return close(text, chain, last, lambda uniform: p.best(last) if text.greedy else p.draw(last, uniform))


def point(place: int, tokens: int) -> np.ndarray:
    """The law over so many tokens that is sure of one, float64 [tokens]."""
    law = np.zeros(tokens)
    law[place] = 1.0
    return law

"""Speculative cascades: the draft's law where a deferral rule finds it good enough, sampled speculatively.

Narasimhan, Jitkrittum, Rawat, Kim, Gupta, Menon, Kumar: "Faster Cascades via Speculative Decoding", arXiv 2405.19261.

    draft   x_1..x_gamma ~ q, one by one
    keep    K, the tokens for which the rule does not defer to the target:
            tokenv3  p(v) >= (1 - alpha) max p          chow  max q >= 1 - alpha, for all v or for none, as below
            tokenv2  p(v) >= max p - alpha              diff  max q >= max p - alpha
            tokenv1  q(v) >= max p - alpha              opt   max q >= max p - alpha TV(p, q)
    law     pi(v) = q(v) [v in K] + p(v) q(not K)
    accept  x_j while u_j < pi(x_j) / q(x_j)
    then    on a refusal a token from max(pi - q, 0), normalised; else one more from p

Lossy by design: a drafted position has the law pi, not p. A token outside K is never more probable than under p, one
inside by q(v) at most. A rule that keeps nothing is speculative decoding, token for token (every rule for alpha ->
-inf; tokenv3 for alpha < 0, since 0 keeps the argmax of p). One that keeps everything writes the draft's own text,
apart from the token of p that ends every fully accepted draft. In between, a token rule may even accept less than
speculative decoding: drafts outside K are accepted for p(v) q(not K) / q(v), and q(not K) is at most 1.

The paper's defaults: the token rules are its best, and alpha is varied; the authors' colab starts with tokenv3 and 0.5.
What differs: their rule sees the laws at temperature 1 without truncation, and temperature only enters the q and p of
pi. Here the rule sees the warped laws. Under greedy sampling it sees those at temperature 1, and the q and p of pi are
points, as theirs. The token after a fully accepted draft is p's (our reading: pi there would need one more forward of
the draft model; their colab drafts one token at a time and has no such token).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from baselines.lenience import one_each, verify_blend
from mtad.decoder import Rounds, Text
from mtad.drafting import grow
from mtad.options import at_least, one_of
from mtad.session import Reader

DeferralRule = Literal["tokenv3", "tokenv2", "tokenv1", "chow", "diff", "opt"]


@dataclass(frozen=True)
class Cascades:
    """Token-wise verification against pi.

    Attributes:
        gamma: draft length in tokens.
        rule: which tokens of the draft are kept; the first three decide token by token, the others for all at once.
        alpha: how much worse kept tokens may be; more keeps more.
    """

    gamma: int = 4
    rule: DeferralRule = "tokenv3"
    alpha: float = 0.5

    joint = True
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        one_of("rule", self.rule, DeferralRule)
        at_least("alpha", self.alpha, -math.inf)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        drafted = yield from grow(draft, one_each(text), min(self.gamma, text.room - 1), text)
        p = yield target.read(drafted.tree)
        return verify_blend(text, drafted.tree, p, drafted.law, self.pi, self._choice)

    def pi(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The law of a drafted position; p and q are probabilities over the same tokens."""
        kept = self._kept(p, q)
        return np.where(kept, q, 0.0) + p * q[~kept].sum()

    def _choice(self, p: np.ndarray, q: np.ndarray) -> int:
        drafted = q.argmax()
        return int(drafted if self._kept(p, q)[drafted] else p.argmax())

    def _kept(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Whether the rule keeps each token, bool [tokens]."""
        match self.rule:
            case "tokenv3":
                return np.asarray(p >= (1 - self.alpha) * p.max())
            case "tokenv2":
                return np.asarray(p >= p.max() - self.alpha)
            case "tokenv1":
                return np.asarray(q >= p.max() - self.alpha)
            case "chow":
                least = 1 - self.alpha
            case "diff":
                least = p.max() - self.alpha
            case "opt":
                least = p.max() - self.alpha * np.maximum(q - p, 0.0).sum()
        return np.full(p.shape, q.max() >= least)

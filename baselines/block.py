"""Block verification of a chain of drafts; lossless, and never shorter on average than token-wise verification.

Sun, Mendlovic, Leviathan, Aharoni, Ro, Beirami, Suresh: "Block Verification Accelerates Speculative Decoding",
arXiv 2403.10444.

    draft   x_1..x_gamma ~ q, one by one
    weigh   w_0 = 1,  w_i = min(1, w_i-1 p(x_i) / q(x_i)),  S_i = sum_x max(w_i p(x | x_1..x_i) - q(x | x_1..x_i), 0)
    accept  the longest x_1..x_i with u_i < h_i,  h_gamma = w_gamma,  h_i = S_i / (S_i + 1 - w_i) before that
    then    after the whole draft a token from p, after less of it one from max(w_i p - q, 0), normalised

A token that the target likes more than the draft does makes up for one before it that it likes less, which token-wise
verification forgets. The paper's defaults: gamma 4, 6 and 8 are measured.
What differs: a draft that an end token or the limit cuts short is a whole draft of its own length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from baselines.speculative import ratios, residual_draw, surplus
from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import OneEach, grow
from mtad.law import Law
from mtad.options import at_least
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree


@dataclass(frozen=True)
class Block:
    """Block verification.

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
        return verify_block(text, drafted.tree, p, drafted.law)


def verify_block(text: Text, chain: Tree, p: Law, q: Law) -> Round:
    """Block verification of a chain that was drawn from q.

    Args:
        p: a row for every node.
        q: a row for every node but the last.
    """
    ratio, depth = ratios(p, q, chain), len(chain) - 1
    w = [1.0]
    for node in range(1, depth + 1):
        w.append(min(1.0, w[-1] * float(ratio[node])))
    node, h = depth, w[depth]
    while node and text.luck.accept(text.start + node - 1, text.start) >= h:
        node -= 1
        h = restart(w[node], float(surplus(p, q, node, w[node])[1].sum()))
    if node == depth:
        return close(text, chain, node, partial(p.draw, node))
    return close(text, chain, node, partial(residual_draw, p, q, node, w=w[node]), Source.CORRECTED)


def restart(w: float, s: float) -> float:
    """S / (S + 1 - w): the probability of a prefix of weight w, once what was drafted after it is refused."""
    return s / (s + 1.0 - w) if w < 1 else 1.0

"""FLy: a mismatch is forgiven where the target is undecided and agrees with what the draft goes on to say.

Li, Xu, Li, Yang, Xu, Yin, Li, Ngai, Barsoum: "Training-Free Loosely Speculative Decoding: Accepting Semantically
Correct Drafts Beyond Exact Match", arXiv 2511.22972.

    draft   x_1..x_gamma = argmax q, one by one
    match   x_j = argmax p(. | text, x_1..x_j-1)
    accept  x_j if it matches; or if h_j >= theta and x_j+1..x_j+W are all drafted and all match
    then    the target's token at the first x_j not accepted, or after all of them

where h_j is the target's entropy there. Lossy by design: nothing bounds how improbable an accepted mismatch is. The
gate says only that p was not decided, the window only that the target did not object to the next W tokens.

The paper's defaults: theta 0.3, W 6; gamma is the 15 of the authors' configuration. A mismatch with fewer than W
drafted tokens behind it is refused, so gamma <= W is plain matching, and so is the end of every draft. The authors'
code demands W tokens behind, too, but matches only W - 1 of them; vLLM's matches W, and so does this.

What differs, and where the sources do: `entropy` is in nats over the three most probable tokens (the authors' code,
vLLM), or that of the whole law divided by the log of its support (how others render the paper: our reading). `match` is
what a match means at temperature 1: `drawn`, x_j = argmax q is what the target draws itself (the authors' code, whose
two draws make even that loose; one draw has the target's law), or `ratio`, x_j ~ q passes the test of speculative
decoding (vLLM, which also refuses tokens of p = 0; this does not). Entropies are those of the warped law (the authors'
code: of the plain one). The authors' n-gram drafts for the draft model are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from baselines.lenience import one_each
from baselines.speculative import ratios, residual_draw
from mtad.decoder import Rounds, Source, Text
from mtad.drafting import BeamSearch, grow
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree

Entropy = Literal["top3", "normalised"]
Match = Literal["drawn", "ratio"]


@dataclass(frozen=True)
class Fly:
    """Loose verification of a chain. A threshold that no entropy reaches leaves only native matches: with `drawn` and
    one draw that is autoregressive sampling, with `ratio` speculative decoding, token for token.

    Attributes:
        gamma: draft length in tokens.
        window: W, matches needed behind a mismatch; 0 needs none.
        threshold: theta; mismatches are refused where the target's entropy is below it.
        entropy: over which tokens, and in which unit.
        match: when a drafted token counts as the target's, at temperature 1.
        draws: how many draws of the target may match, for `drawn`; the first replaces a refused token.
    """

    gamma: int = 15
    window: int = 6
    threshold: float = 0.3
    entropy: Entropy = "top3"
    match: Match = "drawn"
    draws: int = 1

    joint = True
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("window", self.window, 0)
        at_least("threshold", self.threshold, 0)
        one_of("entropy", self.entropy, Entropy)
        one_of("match", self.match, Match)
        at_least("draws", self.draws, 1)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        rule = one_each(text) if self.match == "ratio" else BeamSearch(1)
        drafted = yield from grow(draft, rule, min(self.gamma, text.room - 1), text)
        chain, q = drafted.tree, drafted.law
        p = yield target.read(chain)
        native, ahead = self._matches(text, chain, p, q)
        undecided = [
            not matches and entropy(p, node, self.entropy) >= self.threshold for node, matches in enumerate(native)
        ]
        node = forgiven(native, ahead, undecided, self.window)

        def last(uniform: float) -> int:
            if text.greedy:
                return p.best(node)
            refused = node < len(native)
            return residual_draw(p, q, node, uniform) if refused and self.match == "ratio" else p.draw(node, uniform)

        return close(text, chain, node, last, Source.CORRECTED if node < len(native) else Source.TARGET)

    def _matches(self, text: Text, chain: Tree, p: Law, q: Law) -> tuple[list[bool], list[bool]]:
        """Whether each drafted token matches, on its own and as part of a window.

        Draws of a window need uniforms of their own: they may refuse an earlier token, and the next round must not meet
        them again as those of its positions.
        """
        nodes, luck, start = range(len(chain) - 1), text.luck, text.start
        if text.greedy:
            same = [p.best(node) == chain.tokens[node + 1] for node in nodes]
            return same, same
        if self.match == "ratio":
            ratio = ratios(p, q, chain)[1:]
            passes = [bool(luck.accept(start + node, start) < ratio[node]) for node in nodes]
            return passes, passes

        def drawn(node: int, uniforms: list[float]) -> bool:
            return chain.tokens[node + 1] in [p.draw(node, uniform) for uniform in uniforms]

        extra = [[luck.accept(start + node, start, index) for index in range(2 * self.draws - 1)] for node in nodes]
        native = [drawn(node, [luck.last(start + node), *extra[node][self.draws :]]) for node in nodes]
        return native, [drawn(node, extra[node][: self.draws]) for node in nodes]


def forgiven(native: list[bool], ahead: list[bool], undecided: list[bool], window: int) -> int:
    """How many drafted tokens are accepted: matches, and mismatches that the gate lets pass with their windows."""
    accepted, depth = 0, len(native)
    while accepted < depth:
        end = accepted + 1 + window
        if native[accepted]:
            accepted += 1
        elif undecided[accepted] and end <= depth and all(ahead[accepted + 1 : end]):
            accepted = end
        else:
            break
    return accepted


def entropy(law: Law, node: int, kind: Entropy) -> float:
    """The entropy after `node`: `top3` in nats, `normalised` in [0, 1]."""
    _, logp = law.row(node)
    if kind == "top3":
        logp = np.sort(logp)[-3:]
    nats = -float((np.exp(logp) * logp).sum())
    return nats if kind == "top3" or len(logp) < 2 else nats / float(np.log(len(logp)))

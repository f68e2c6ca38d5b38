"""BiLD, the big little decoder: the small model writes while it is sure, the large one steps in where it is not.

Kim, Mangalam, Moon, Malik, Mahoney, Gholami, Keutzer: "Speculative Decoding with Big Little Decoder", arXiv 2302.07863.

    draft   x_1, x_2, ... ~ q, one by one, while max q(. | text, x_1..x_j-1) >= fallback, at most gamma of them
    refuse  the first x_j with -log p(x_j | text, x_1..x_j-1) > rollback, and all after it
    then    one token from p after what is left, unless it ended the text

The paper's defaults: fallback 0.6, rollback 5 nats and at most 10 drafted tokens (the authors' code; they advise
rollbacks of 2 to 5). The distance is their code's, the cross-entropy of the large model at the small one's token.
Lossy: a kept token has p >= exp(-rollback), however much more probable the small model finds it; the token that
replaces a refused one comes from p itself, not from a residual. What differs here: the paper decodes greedily, which is
`sampling=greedy`; otherwise both models sample (our reading). After a refusal the authors' code lets the large model
write one token more by a forward of its own; here the next round begins. fallback > 1 drafts nothing and is
autoregressive sampling, token for token under counted randomness; so is a rollback of 0 wherever p < 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtad.decoder import Rounds, Source, Text
from mtad.drafting import Draw, grow
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree

DraftToken = Literal["sampled", "greedy"]
WhichLaw = Literal["warped", "raw"]


@dataclass(frozen=True)
class Bild:
    """Fallback and rollback, each a threshold on one model's own probabilities.

    Attributes:
        gamma: draft length in tokens, at most.
        fallback: the draft ends where the small model's largest probability is below this; 0 never, above 1 at once.
        rollback: a drafted token costs the large model at most so many nats.
        draft_token: how the small model takes its tokens: as the run samples, or by argmax (the paper).
        rollback_law: the large model's law that the rollback looks at: the sampling's, under which what truncation
            removed is always refused, or the untruncated one at temperature 1 (the authors' code).
    """

    gamma: int = 4
    fallback: float = 0.6
    rollback: float = 5.0
    draft_token: DraftToken = "sampled"
    rollback_law: WhichLaw = "warped"

    joint = True  # thresholds on p and q themselves, which greedy sampling must not turn into points
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("fallback", self.fallback, 0)
        at_least("rollback", self.rollback, 0)
        one_of("draft_token", self.draft_token, DraftToken)
        one_of("rollback_law", self.rollback_law, WhichLaw)

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        rule = WhileSure(self.fallback, "greedy" if text.greedy else self.draft_token)
        drafted = yield from grow(draft, rule, min(self.gamma, text.room - 1), text)
        chain = drafted.tree
        p = yield target.read(chain)
        judge = p if self.rollback_law == "warped" else (yield target.raw.read(chain))  # no second forward
        refused = np.flatnonzero(-np.array(judge.edges(chain))[1:] > self.rollback)
        node = int(refused[0]) if len(refused) else len(chain) - 1
        source = Source.CORRECTED if len(refused) else Source.TARGET
        return close(text, chain, node, lambda u: p.best(node) if text.greedy else p.draw(node, u), source)


@dataclass(frozen=True)
class WhileSure:
    """One child for the only beam, as long as its law has a token of at least `fallback`; then none."""

    fallback: float
    token: DraftToken

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        (beam,) = beams
        best = law.best(beam)
        if np.exp(law.of(beam, np.array([best])))[0] < self.fallback:
            return []
        return [tree.add(beam, best if self.token == "greedy" else law.draw(beam, draw(0)))]

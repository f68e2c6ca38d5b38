"""MJGD, multi-token joint greedy decoding: each round appends the most probable *block* of gamma tokens.

Qin et al., arXiv 2407.09722 (v1: MJGD; later versions: MTJD). The paper calls it infeasible, |V|^gamma continuations,
and stands in for it with beam search. Log-probabilities are <= 0, so best-first search over prefixes finds a true
argmax with a proof: every prefix left over is at most as probable as the block. With x* the best block, at most
1 / p(x*) prefixes of each depth have to be read.

    x* = argmax p(x_1..x_gamma | text);  ties: the smaller token ids

`assist: draft` is this project's own: the draft model grows a beam tree of depth gamma - 1, the target reads it in one
forward, and the search pays a forward only for prefixes that it still needs; these are read together with the
draft's continuation of each. Same output, fewer target forwards.
An end token is absorbing: a prefix that ends in one is complete, and competes with full blocks by its joint
probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from mtad.best_first import Search
from mtad.decoder import Round, Rounds, Source, Text
from mtad.drafting import BeamSearch, grow, lengthen
from mtad.options import at_least, one_of
from mtad.session import Reader
from mtad.tree import Tree

WhichLaw = Literal["raw", "warped"]
SearchKind = Literal["exact", "beam"]
Assist = Literal["none", "draft"]


@dataclass(frozen=True)
class Mjgd:
    """Joint greedy decoding in blocks.

    Attributes:
        gamma: block length in tokens; 1 is greedy decoding.
        law: maximise under the untruncated law at temperature 1 (`raw`) or under the warped one.
        search: `exact`, or the paper's stand-in, beam search of `width` on the target.
        assist: let the draft model propose what the exact search reads first.
        width: beams of the draft's tree, or of the beam search.
        budget: the exact search expands at most so many prefixes a block, whoever proposed what was read; then the best
            block found so far is the answer, not proven.
        batch: prefixes read in one forward.
    """

    gamma: int = 4
    law: WhichLaw = "warped"
    search: SearchKind = "exact"
    assist: Assist = "draft"
    width: int = 8
    budget: int = 1024
    batch: int = 8

    joint = True
    lossless = False

    def __post_init__(self) -> None:
        for name in ("gamma", "width", "budget", "batch"):
            at_least(name, getattr(self, name), 1)
        one_of("law", self.law, WhichLaw)
        one_of("search", self.search, SearchKind)
        one_of("assist", self.assist, Assist)

    @property
    def drafts(self) -> bool:
        """Only the assisted exact search needs the draft model."""
        return self.search == "exact" and self.assist == "draft"

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        gamma = min(self.gamma, text.room)
        if self.law == "raw":
            target, draft = target.raw, draft.raw
        if self.search == "beam":
            found = yield from grow(target, BeamSearch(self.width), gamma, text)
            block = tuple(found.tree.path(found.best()))
            return Round(block, (Source.TARGET,) * len(block))
        assisted = self.drafts and gamma > 1
        scout = partial(lengthen, draft, depth=gamma - 1, eos=text.eos) if assisted else None
        search = Search(gamma, text.eos, self.budget, self.batch, scout)
        tree = Tree()
        if assisted:
            tree = (yield from grow(draft, BeamSearch(self.width), gamma - 1, text)).tree
            search.learn(tree, (yield target.read(tree)))
        proof = yield from search.run(target)
        block = search.block
        proposed = {tuple(tree.path(node)) for node in range(len(tree))}
        accepted = sum(block[:end] in proposed for end in range(1, len(block) + 1))
        sources = (Source.DRAFT,) * accepted + (Source.TARGET,) * (len(block) - accepted)
        return Round(block, sources, max(tree.depths), accepted, len(tree) - 1, proof)

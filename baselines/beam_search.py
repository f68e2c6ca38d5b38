"""Beam search on the target over the whole output; deterministic, no draft.

The classic control for likelihood-seeking decoders (Graves, arXiv 1211.3711; see also Holtzman et al., arXiv
1904.09751, on what it does to text). Keeps the `width` most probable prefixes; a prefix that ends the text competes by
its joint probability, without length normalisation.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtad.decoder import Round, Source, Text
from mtad.drafting import BeamSearch as Largest
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.session import Read, Reader
from mtad.tree import ROOT, Tree

WhichLaw = Literal["raw", "warped"]


@dataclass(frozen=True)
class BeamSearch:
    """Writes a whole text.

    Attributes:
        width: beams.
        law: maximise under the untruncated law at temperature 1 (raw) or under the warped one.
    """

    width: int = 8
    law: WhichLaw = "raw"

    joint = True
    drafts = False
    lossless = False

    def __post_init__(self) -> None:
        at_least("width", self.width, 1)
        one_of("law", self.law, WhichLaw)

    def write(self, text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        reader, rule = target.raw if self.law == "raw" else target, Largest(self.width)
        tree, beams, ended, depth = Tree(), [ROOT], list[int](), 0
        while beams and depth < text.room:
            law = yield reader.read(tree)
            nodes = rule(tree, law, beams, lambda index: 0.0)
            joint, depth = tree.joint(law), depth + 1
            over = [node for node in nodes if text.ends(tree.path(node))]
            ended += over
            best_ended = max((joint[node] for node in ended), default=-float("inf"))
            beams = [node for node in nodes if node not in over and joint[node] > best_ended]
        best = max(ended + beams, key=lambda node: (joint[node], -node))
        return [Round((token,), (Source.TARGET,)) for token in tree.path(best)]

"""Beam search and beam sampling on the target over the whole output; no draft.

Beam search is the classic control for likelihood-seeking decoders (Graves, arXiv 1211.3711; see also Holtzman et al.,
arXiv 1904.09751, on what it does to text). Keeps the `width` most probable prefixes. Beam sampling (`do_sample` with
several beams in Hugging Face's `generate`; what the decoders of arXiv 2409.16560 and 2407.09722 draft by) draws them:

    draw    `width` pairs (beam, x) without replacement, with weights  p(beam) p(x | text, beam)
    emit    the text with the highest joint p among those that ended and those that reached the limit

In both, a prefix that ends the text competes by its joint probability, without length normalisation, and prefixes less
probable than one that ended are dropped, for they can no longer win.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtad.decoder import Round, Source, Text
from mtad.drafting import BeamSample as Drawn
from mtad.drafting import BeamSearch as Largest
from mtad.drafting import Rule
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.session import Read, Reader
from mtad.tree import ROOT, Tree

WhichLaw = Literal["raw", "warped"]


@dataclass(frozen=True)
class BeamSearch:
    """Writes a whole text; deterministic.

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
        reader, rule = target.raw if self.law == "raw" else target, self._rule(text)
        tree, beams, ended, depth = Tree(), [ROOT], list[int](), 0
        while beams and depth < text.room:
            law = yield reader.read(tree)
            position = text.start + depth
            nodes = rule(tree, law, beams, lambda index, at=position: text.luck.draft(at, text.start, index))  # type: ignore[misc]
            joint, depth = tree.joint(law), depth + 1
            over = [node for node in nodes if text.ends(tree.path(node))]
            ended += over
            best_ended = max((joint[node] for node in ended), default=-float("inf"))
            beams = [node for node in nodes if node not in over and joint[node] > best_ended]
        best = max(ended + beams, key=lambda node: (joint[node], -node))
        return [Round((token,), (Source.TARGET,)) for token in tree.path(best)]

    def _rule(self, text: Text) -> Rule:
        return Largest(self.width)


@dataclass(frozen=True)
class BeamSample(BeamSearch):
    """Writes a whole text; lossy but for width 1, which samples the law. Beam search under greedy sampling.

    Attributes:
        law: draw and compare under the warped law or under the untruncated one at temperature 1 (raw).
    """

    law: WhichLaw = "warped"

    def _rule(self, text: Text) -> Rule:
        return Largest(self.width) if text.greedy else Drawn(self.width)

"""Autoregressive decoding: one token a round, drawn from p(. | text). The baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from mtad.decoder import Round, Rounds, Source, Text
from mtad.session import Reader
from mtad.tree import ROOT, Tree


@dataclass(frozen=True)
class Autoregressive:
    """Sampling from the target alone; argmax under greedy sampling."""

    joint = False
    drafts = False
    lossless = True

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        return Round((p.draw(ROOT, text.luck.last(text.start)),), (Source.TARGET,))

"""Prompt lookup: drafts copied from the text itself, no draft model; lossless.

Saxena: "Prompt Lookup Decoding", 2023, github.com/apoorvumang/prompt-lookup-decoding; Yang et al.: "Inference with
Reference: Lossless Acceleration of Large Language Models", arXiv 2304.04487, which copies from references in this way.

    draft   for n = max_ngram, ..., min_ngram: if the last n tokens of the text stand further up in it, the up to gamma
            tokens x_1, x_2, ... that follow there
    accept  x_j while u_j < p(x_j)
    then    on a refusal a token from p without x_j, normalised; else one more from p

This is speculative decoding with a law q that is sure of its token. If nothing is found, the round is autoregressive.
The paper's defaults (Saxena's): gamma 10, max_ngram 3, min_ngram 1, and of several matches the earliest; here gamma 4,
to compare at equal draft lengths. Differs: the original drops a match with fewer than gamma tokens behind it, here the
draft is then shorter, as in transformers' own prompt lookup; a draft stops after an end token. `match: latest` takes
the last place with a whole draft behind it, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from baselines.speculative import verify
from mtad.decoder import Rounds, Text
from mtad.errors import UserError
from mtad.law import Law
from mtad.options import at_least, one_of
from mtad.session import Reader
from mtad.tree import Tree

Match = Literal["earliest", "latest"]


@dataclass(frozen=True)
class PromptLookup:
    """Speculative decoding whose draft is an n-gram match.

    Attributes:
        gamma: draft length in tokens, at most.
        max_ngram: how many of the last tokens are looked for first.
        min_ngram: how many at least.
        match: which of several places is copied from.
    """

    gamma: int = 4
    max_ngram: int = 3
    min_ngram: int = 1
    match: Match = "earliest"

    joint = False
    drafts = False
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("min_ngram", self.min_ngram, 1)
        at_least("max_ngram", self.max_ngram, 1)
        one_of("match", self.match, Match)
        if self.max_ngram < self.min_ngram:
            raise UserError(f"max_ngram ({self.max_ngram}) must be at least min_ngram ({self.min_ngram})")

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        copied = self._copied(text.tokens, min(self.gamma, text.room - 1))
        ends = (place + 1 for place, token in enumerate(copied) if token in text.eos)
        copied = copied[: next(ends, len(copied))]
        chain = Tree.chain(copied)
        p = yield target.read(chain)
        return verify(text, chain, p, Law.points(copied))

    def _copied(self, text: Sequence[int], length: int) -> list[int]:
        """Up to `length` tokens that followed where the end of `text` stood before; none if it is new."""
        tokens = np.array(text, dtype=np.int64)
        for n in range(min(self.max_ngram, len(tokens) - 1), self.min_ngram - 1, -1):
            windows = sliding_window_view(tokens[:-1], n)
            after = np.flatnonzero((windows == tokens[-n:]).all(axis=1)) + n  # where each match goes on
            if len(after):
                whole = after[after + length <= len(tokens)]
                place = whole[-1] if self.match == "latest" and len(whole) else after[0]
                return [int(token) for token in tokens[place : place + length]]
        return []

"""A judge: a third causal LM that reads what the pair wrote, outside any timed window.

Perplexity under the target is the very objective of joint decoders, so the target is no neutral judge of them. A judge
that shares the pair's vocabulary reads the emitted ids as they are, the end token included. Any other one reads the
text that they spell with its own tokenizer, which a record then calls `retokenised`: its perplexity is per token of
its own, and end tokens, which spell nothing, are not in it.

Knows models and tokenizers; refuses to know decoders, rows and the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from mtad.ending import Detokenise
from mtad.errors import UserError
from mtad.loading import speller
from mtad.model import CausalModel
from mtad.sources import ModelSpec, Origin, Source, find_model, read_tokenizer
from mtad.weights import read_weights

NO_CONTEXT = "in the judge's own tokens nothing of the prompt stands before the output"
NOT_FINITE = "the judge gives log-probabilities that are no finite numbers; a dtype with a wider range may mend that"


@dataclass(frozen=True)
class Judged:
    """A text as the judge sees it; fields as in a row.

    Attributes:
        log_likelihood: natural logarithm, of the whole output after its prompt, untruncated law at temperature 1.
        tokens: how many tokens of the output that is the likelihood of.
        retokenised: whether these are the judge's own and not the emitted ids.
        reason: why there is no likelihood; None if there is one.
    """

    log_likelihood: float | None
    tokens: int
    retokenised: bool
    reason: str | None = None


@dataclass(frozen=True)
class Judge:
    """A loaded judge.

    Attributes:
        tokenizer: the judge's own.
        detokenise: from the pair's tokens to text.
        retokenises: its vocabulary is not that of the pair.
        origin: of its weights.
    """

    model: CausalModel
    tokenizer: Any
    detokenise: Detokenise
    retokenises: bool
    origin: Origin

    def score(self, prompt: Sequence[int], outputs: Sequence[Sequence[int]]) -> list[Judged]:
        """Read several outputs of one prompt; all are token ids of the pair."""
        texts = [self._split(prompt, output) if self.retokenises else (prompt, output) for output in outputs]
        objections = [self._objection(*text) for text in texts]
        scores = iter(self.model.score([text for text, no in zip(texts, objections, strict=True) if no is None]))
        judged = []
        for (_, output), reason in zip(texts, objections, strict=True):
            total = None if reason else float(next(scores).log_likelihoods.sum())
            if total is not None and not isfinite(total):
                total, reason = None, NOT_FINITE
            judged.append(Judged(total, len(output), self.retokenises, reason))
        return judged

    def _split(self, prompt: Sequence[int], output: Sequence[int]) -> tuple[list[int], list[int]]:
        """Prompt and output in the judge's tokens.

        They are spelled and encoded as one text, as the judge would meet it. A token that spans both, since the
        tokenizer merged the end of the prompt with the output, belongs to the output.
        """
        spelled = self.detokenise(prompt), self.detokenise([*prompt, *output])
        alone, whole = ([int(token) for token in self.tokenizer(text)["input_ids"]] for text in spelled)
        shorter = min(len(alone), len(whole))
        shared = next((i for i in range(shorter) if alone[i] != whole[i]), shorter)
        return whole[:shared], whole[shared:]

    def _objection(self, prompt: Sequence[int], output: Sequence[int]) -> str | None:
        """Why the judge cannot read a text."""
        if not prompt:
            return NO_CONTEXT
        if len(prompt) + len(output) > self.model.max_positions:
            return f"prompt and output are longer than the {self.model.max_positions} positions of the judge"
        return None


def find_judge(spec: ModelSpec, device: torch.device) -> Source:
    """Find a judge to run on `device`, its weights not read yet. Raises UserError."""
    if spec.weights:
        raise UserError(f"judge.weights={spec.weights}: only weights that were trained can judge; leave it out")
    return find_model("judge", spec, device=device)


def load_judge(source: Source, pair_tokenizer: Any, device: torch.device) -> Judge:
    """Read a judge. Raises UserError."""
    tokenizer = read_tokenizer(source)
    table = tokenizer.get_vocab()
    vocabulary = max(table.values()) + 1
    if source.config.vocab_size < vocabulary:
        raise UserError(
            f"{source.name} has {source.config.vocab_size} rows of embeddings, fewer than the {vocabulary} tokens of "
            f"its tokenizer"
        )
    retokenises = table != pair_tokenizer.get_vocab()
    return Judge(
        CausalModel(read_weights(source, device), vocabulary),
        tokenizer,
        speller(pair_tokenizer),
        retokenises,
        source.origin,
    )

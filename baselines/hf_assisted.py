"""Transformers' assisted generation: its own speculative decoding with a draft model.

Leviathan, Kalman, Matias: "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192, in the code
of transformers (`generate` with `assistant_model`).

    draft   x_1..x_gamma ~ q, one by one
    accept  x_j while u_j <= p(x_j) / q(x_j); under greedy sampling, while x_j is the argmax of p
    then    on a refusal a token from max(p - q, 0), normalised; else one more from p

The paper's defaults: gamma is the reader's choice; transformers drafts up to 20 tokens, fewer as soon as the draft
model is unsure. What differs here: gamma is constant and no confidence threshold ends a draft. Transformers warps the
draft's logits twice (by its own settings and again by the target's processors), so q is temperature^2 and a narrower
top-p where ours is warped once; acceptance differs from `speculative` for that. Lossless nonetheless: q in the ratio is
the q that was sampled from (tests/test_engine_laws.py, transformers 5.23; issue 47932 there is about other drafters).
The draft model reads its last two tokens anew each round. Prefill, seeds and settings as in `hf_generate`; each model's
cache is given the prompt but its last token just before its first forward, which is then fed the rest only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import GenerationConfig

from baselines.hf_shared import Ends, Watch, model_of, prompt_ids, set_apart, settings
from mtad.decoder import Round, Source, Text, Written
from mtad.model import CausalModel
from mtad.options import at_least
from mtad.session import Reader


@dataclass(frozen=True)
class HfAssisted:
    """Assisted generation with a draft of constant length.

    Attributes:
        gamma: draft length in tokens; shorter only before an end token and before the limit.
    """

    gamma: int = 4

    joint = False
    drafts = True
    lossless = True

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        large, small = model_of(target), model_of(draft)
        if large.lm is small.lm:
            raise ValueError("assisted generation needs two models")
        ends, known = Ends(text), text.tokens[:-1]
        constant = GenerationConfig(
            num_assistant_tokens=self.gamma,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
        with (
            set_apart(text, {large: GenerationConfig(), small: constant}),
            _unpadded(large, small),
            Watch(large, known) as checks,
            Watch(small, known) as drafts,
        ):
            output = large.lm.generate(
                prompt_ids(text, large),
                generation_config=settings(text, target.warp, large),
                assistant_model=small.lm,
                stopping_criteria=[ends],
            )
        for model in (large, small):
            model.synchronise()
        tokens = output[0, text.start :].tolist()
        steps = zip(checks.fed, pairwise(ends.lengths), strict=True)
        rounds = [_round(fed, tokens[start:end]) for fed, (start, end) in steps]
        return Written(rounds, checks.counts, drafts.counts, checks.prefill_seconds + drafts.prefill_seconds)


def _round(fed: torch.Tensor, tokens: list[int]) -> Round:
    """From what the target was fed, the last token and the draft, and what became of it.

    A refused token is never drawn in its own place, so the common prefix is what was accepted.
    """
    draft = fed[0, 1:].tolist()
    accepted = next((i for i, (a, b) in enumerate(zip(draft, tokens, strict=False)) if a != b), None)
    accepted = min(len(draft), len(tokens)) if accepted is None else accepted
    last = Source.CORRECTED if accepted < len(draft) else Source.TARGET
    sources = (Source.DRAFT,) * accepted + (last,) * (len(tokens) - accepted)
    return Round(tuple(tokens), sources, len(draft), accepted, len(draft))


@contextmanager
def _unpadded(*models: CausalModel) -> Iterator[None]:
    """Within, logits and configs of the models have the real tokens only.

    Transformers takes models with unequally many rows of embeddings for models with two tokenizers.
    """
    configs = [model.lm.config.get_text_config() for model in models]
    rows = [config.vocab_size for config in configs]

    def cut(vocabulary: int) -> Callable[[Any, Any, Any], None]:
        def hook(lm: Any, args: Any, output: Any) -> None:
            output.logits = output.logits[..., :vocabulary]

        return hook

    hooks = [model.lm.register_forward_hook(cut(model.vocabulary)) for model in models]
    try:
        for model, config in zip(models, configs, strict=True):
            config.vocab_size = model.vocabulary
        yield
    finally:
        for config, padded in zip(configs, rows, strict=True):
            config.vocab_size = padded
        for hook in hooks:
            hook.remove()

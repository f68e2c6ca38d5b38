"""What the engines of transformers share: settings without leaks, seeds, prefill, ends, counted forwards.

Knows `generate` from outside only: arguments, stopping criteria and forward hooks. No code of it is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from transformers import Cache, GenerationConfig, StoppingCriteria
from transformers.utils import logging

from mtad.clock import Span
from mtad.counts import Counts
from mtad.decoder import Text
from mtad.errors import UserError
from mtad.law import Warp
from mtad.model import CausalModel
from mtad.session import PREFILL_CHUNK, Reader

PARALLEL = "TOKENIZERS_PARALLELISM"


def model_of(reader: Reader) -> CausalModel:
    """The model behind a reader. Raises UserError if it is none of transformers."""
    model = reader.session.model
    if not isinstance(model, CausalModel):
        raise UserError(f"this decoder runs transformers' own code and needs its models, not a {type(model).__name__}")
    return model


def settings(text: Text, warp: Warp, model: CausalModel, **more: Any) -> GenerationConfig:
    """The settings of a text: all that the run asks for, nothing else; padded rows of the embedding are impossible."""
    if not text.greedy:
        more |= {"temperature": float(warp.temperature), "top_k": warp.top_k, "top_p": float(warp.top_p)}
    return GenerationConfig(
        max_new_tokens=text.room,
        do_sample=not text.greedy,
        eos_token_id=sorted(text.eos) or None,
        pad_token_id=min(text.eos, default=None),
        suppress_tokens=list(range(model.vocabulary, embedding_rows(model))) or None,
        **more,
    )


def embedding_rows(model: CausalModel) -> int:
    """Rows of the embedding, padded ones included."""
    return int(model.lm.config.get_text_config().vocab_size)


@contextmanager
def set_apart(text: Text, configs: Mapping[CausalModel, GenerationConfig]) -> Iterator[None]:
    """Within, torch's generators start from the text's luck, the models' own generation configs (from which `generate`
    fills gaps) are `configs`, and transformers warns of nothing; after it all is as it was, but for a compiled forward,
    which stays with its model.
    """
    seed = int(text.luck.last(text.start) * 2**53)
    devices = list({model.device for model in configs if model.device.type == "cuda"})
    theirs = {model: model.lm.generation_config for model in configs}
    loud, parallel = logging.get_verbosity(), os.environ.get(PARALLEL)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        try:
            logging.set_verbosity_error()
            for model, config in configs.items():
                model.lm.generation_config = config
            yield
        finally:
            logging.set_verbosity(loud)
            os.environ.pop(PARALLEL, None)  # compiling sets it
            if parallel is not None:
                os.environ[PARALLEL] = parallel
            for model, config in theirs.items():
                model.lm.generation_config = config


def prompt_ids(text: Text, model: CausalModel) -> torch.Tensor:
    """The prompt as `generate` takes it, int64 [1, tokens]."""
    return torch.tensor([list(text.tokens)], device=model.device)


@torch.no_grad()
def fill(model: CausalModel, tokens: Sequence[int], cache: Cache) -> float:
    """Read `tokens` into an empty cache, in chunks as sessions do; returns the seconds, device synchronised.

    Calls `forward` itself, so that no hook sees it.
    """
    model.synchronise()
    started = perf_counter()
    ids = torch.tensor([list(tokens)], dtype=torch.long, device=model.device)
    places = torch.arange(len(tokens), device=model.device)[None]
    for start in range(0, len(tokens), PREFILL_CHUNK):
        chunk = slice(start, start + PREFILL_CHUNK)
        model.lm.forward(
            input_ids=ids[:, chunk],
            position_ids=places[:, chunk],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    model.synchronise()
    return perf_counter() - started


class Ends(StoppingCriteria):
    """Ends where our sessions end, looked at token by token; remembers how long the text was after each step."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.lengths = [0]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether the text has ended, bool [1]."""
        new = input_ids[0, self.text.start :].tolist()
        old = self.lengths[-1]
        self.lengths.append(len(new))
        ended = any(self.text.ends(new[:end]) for end in range(old + 1, len(new) + 1))
        return torch.tensor([ended], device=input_ids.device)


class Watch:
    """Counts and times the forwards of a model within a ``with``, by hooks that are removed after it.

    Attributes:
        counts: the forwards, prefill left out.
        fed: what each was fed, int64 [1, tokens].
        prefill_seconds: what reading `prompt` took.
    """

    def __init__(self, model: CausalModel, prompt: Sequence[int] = ()) -> None:
        """`prompt` is read into the cache of the first forward, just before it, which is then fed the rest only."""
        self.model = model
        self.prompt = prompt
        self.counts = Counts()
        self.fed: list[torch.Tensor] = []
        self.prefill_seconds = 0.0

    def __enter__(self) -> Watch:
        lm = self.model.lm
        self._hooks = [
            lm.register_forward_pre_hook(self._before, with_kwargs=True),
            lm.register_forward_hook(self._after),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, lm: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        if not self.fed and self.prompt:
            self.prefill_seconds = fill(self.model, self.prompt, kwargs["past_key_values"])
            rest = {key: kwargs[key][:, len(self.prompt) :] for key in ("input_ids", "position_ids")}
            kwargs = {**kwargs, **rest}
        self.fed.append(kwargs["input_ids"])
        self._started = self.model.mark()
        return args, kwargs

    def _after(self, lm: Any, args: Any, output: Any) -> None:
        self.counts.forward(self.fed[-1].shape[1], Span(self._started, self.model.mark()))

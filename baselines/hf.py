"""Transformers' own `generate` on the target: what users would otherwise run, eager or with a compiled forward.

Wolf et al.: "HuggingFace's Transformers: State-of-the-art Natural Language Processing", arXiv 1910.03771.

    x_t ~ p(. | x_<t)   one token a forward; argmax under greedy sampling

The paper's defaults: none; only the settings of the run are passed, and no processor or penalty of a checkpoint's own
generation config. What differs here: the prompt but its last token is read into the cache before `generate` is called,
as sessions read it, so that both have the same prefill (`prefill_seconds`: that reading, device synchronised). The
rest of the call is decoding, the setting up of `generate` included. Random numbers are torch's, seeded by the text's
luck. At the k-th place transformers keeps all tied tokens, our warp the one with the smallest id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from transformers import Cache, CompileConfig, DynamicCache, GenerationConfig, PreTrainedModel, StaticCache

from baselines.hf_shared import Ends, Watch, fill, model_of, prompt_ids, set_apart, settings
from mtad.counts import Counts
from mtad.decoder import Round, Source, Text, Written
from mtad.model import CausalModel
from mtad.options import at_least, one_of
from mtad.session import Reader

Compile = Literal["auto", "on", "off"]
TRIAL_TOKENS = 4  # a compiled forward compiles at the second token; CUDA graphs are recorded at the next ones
TRIALS = 2


@dataclass(frozen=True)
class HfGenerate:
    """`generate` as it comes: eager, dynamic cache."""

    joint = False
    drafts = False
    lossless = True

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        model = model_of(target)
        with set_apart(text, {model: GenerationConfig()}), Watch(model) as watch:
            cache = DynamicCache(config=model.lm.config.get_text_config(decoder=True))
            tokens, prefill = _generate(text, model, settings(text, target.warp, model), cache)
        model.synchronise()
        return Written(_one_each(tokens), watch.counts, Counts(), prefill)


@dataclass(frozen=True)
class HfStatic:
    """`generate` with a static cache, and a compiled forward where transformers compiles.

    The cache is kept from text to text, so that prompts of many lengths are served by one compiled forward. Compiling
    happens in trial texts outside every text's time; the first round's notes say what ran (`compiled`) and how long
    that took (`compile_seconds`, 0 where it was done before). Forwards are counted, not timed one by one: a mark
    within would break the compiled graph.

    Attributes:
        compile: auto leaves it to transformers, which compiles on accelerators only; on compiles on a CPU too; off
            does not compile.
        capacity: positions of the cache; doubled, and compiled anew, for a text that needs more. Every forward attends
            to all of them, so a generous one costs speed.
    """

    compile: Compile = "auto"
    capacity: int = 256

    joint = False
    drafts = False
    lossless = True

    def __post_init__(self) -> None:
        one_of("compile", self.compile, Compile)
        at_least("capacity", self.capacity, 1)

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        model = model_of(target)
        config = settings(text, target.warp, model, disable_compile=self.compile == "off")
        if self.compile == "on":
            config.compile_config = CompileConfig()
            config.compile_config._compile_all_devices = True
        started = perf_counter()
        with set_apart(text, {model: GenerationConfig()}):
            kept, key = _KEPT.setdefault(model.lm, {}), (self.compile, self._capacity(text.start + text.room))
            fresh = key not in kept
            cache = kept.get(key) or StaticCache(
                config=model.lm.config.get_text_config(decoder=True), max_cache_len=key[1]
            )
            # Transformers' own answer to whether `generate` compiles for this cache on this device.
            compiled = bool(model.lm._valid_auto_compile_criteria({"past_key_values": cache}, config))
            if compiled and fresh:
                _try(model, cache, config)
            kept[key] = cache  # only now: a trial that failed is none
        prepared = perf_counter() - started if compiled and fresh else 0.0
        with set_apart(text, {model: GenerationConfig()}):
            cache.reset()
            tokens, prefill = _generate(text, model, config, cache)
        notes = {"compiled": compiled, "compile_seconds": prepared}
        counts = Counts(timed=False)
        counts.reads[1] = len(tokens)
        return Written(_one_each(tokens, notes), counts, Counts(), prefill, prepared)

    def _capacity(self, positions: int) -> int:
        """Of a cache for at least so many positions."""
        capacity = self.capacity
        while capacity < positions:
            capacity *= 2
        return capacity


# By model, then by way of compiling and capacity; gone with the model.
_KEPT: WeakKeyDictionary[PreTrainedModel, dict[tuple[Compile, int], StaticCache]] = WeakKeyDictionary()


def _generate(text: Text, model: CausalModel, config: GenerationConfig, cache: Cache) -> tuple[list[int], float]:
    """The new tokens, and the seconds that reading the prompt but its last token took."""
    prefill = fill(model, text.tokens[:-1], cache)
    output = model.lm.generate(
        prompt_ids(text, model), generation_config=config, past_key_values=cache, stopping_criteria=[Ends(text)]
    )
    return output[0, text.start :].tolist(), prefill


def _try(model: CausalModel, cache: StaticCache, config: GenerationConfig) -> None:
    """Let transformers compile, outside any text: throw away texts of some tokens."""
    trial = GenerationConfig(max_new_tokens=TRIAL_TOKENS, do_sample=False, compile_config=config.compile_config)
    for _ in range(TRIALS):
        cache.reset()
        model.lm.generate(torch.zeros((1, 1), dtype=torch.long, device=model.device), trial, past_key_values=cache)
    model.synchronise()


def _one_each(tokens: Sequence[int], notes: dict[str, bool | float] | None = None) -> list[Round]:
    """A round for every token; the first bears the notes."""
    first, *rest = tokens
    return [
        Round((first,), (Source.TARGET,), notes=notes or {}),
        *(Round((token,), (Source.TARGET,)) for token in rest),
    ]

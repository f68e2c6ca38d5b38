"""A model pair, from hub ids or folders: what can be checked without weights first, the weights then.

Every reason not to load is a `UserError` of one line that says what to do, found within seconds and before any weight
is read where that is possible. Knows nothing of configurations, tasks and results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mtad.attention import check_trees
from mtad.ending import Detokenise
from mtad.errors import UserError
from mtad.model import CausalModel
from mtad.placement import ON_CPU, Placement, find_device, layer_devices
from mtad.recorded import Mode
from mtad.shared import check_shared, lead
from mtad.sources import ModelSpec, Origin, Source, end_tokens, find_model, read_tokenizer, same_rows, same_vocabulary
from mtad.weights import read_weights


@dataclass(frozen=True)
class Pair:
    """Two loaded models over one vocabulary.

    Attributes:
        eos: ids that end a text.
        max_positions: the longest text that both models take, in tokens.
        origins: of `target` and `draft`.
    """

    target: CausalModel
    draft: CausalModel
    tokenizer: Any
    eos: frozenset[int]
    max_positions: int
    origins: dict[str, Origin]


@dataclass(frozen=True)
class Blueprint:
    """A pair that passed every check which needs no weights; attributes as in `Pair`, `placement` is where it goes."""

    target: Source
    draft: Source
    tokenizer: Any
    vocabulary: int
    eos: frozenset[int]
    placement: Placement

    @property
    def max_positions(self) -> int:
        return int(min(source.config.max_position_embeddings for source in (self.target, self.draft)))

    @property
    def origins(self) -> dict[str, Origin]:
        return {"target": self.target.origin, "draft": self.draft.origin}

    @property
    def parameters(self) -> dict[str, int]:
        """How many each model has, by its configuration; tied ones count once."""
        return {"target": self.target.parameters, "draft": self.draft.parameters}

    @cached_property
    def layers(self) -> list[torch.device]:
        """The device of each of the target's layers; empty where they are all on one, or shared."""
        place = self.placement
        if len(place.devices) == 1:
            return []
        target, draft = self.target.parts(), self.draft.parts()
        last = target.head + (draft.total if place.draft == place.devices[-1] else 0)
        return layer_devices(target.layers, target.embeddings, last, place.devices, list(map(_share, place.devices)))

    def load(self, rows: int = 1, engine: Mode = "auto") -> Pair:
        """Read the weights onto their devices, with caches for `rows` texts, and forwards that run by `engine`."""
        place, vocabulary = self.placement, self.vocabulary
        if place.ranks > 1:
            target: CausalModel = lead(self.target, vocabulary, rows)
        else:
            target = CausalModel(read_weights(self.target, place.device, self.layers), vocabulary, rows, engine)
        draft = CausalModel(read_weights(self.draft, place.draft), vocabulary, rows, engine)
        return Pair(target, draft, self.tokenizer, self.eos, self.max_positions, self.origins)


def _share(device: torch.device) -> float:
    """How much of a model a device is to take, against others."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1.0


def speller(tokenizer: Any) -> Detokenise:
    """From token ids to the text that they spell, special tokens left out."""
    return lambda tokens: str(
        tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def load_pair(
    target: ModelSpec, draft: ModelSpec, device: str = "auto", dtype: str | None = None, rows: int = 1
) -> Pair:
    """Load a pair; `dtype` overrides both specs. Raises UserError."""
    return inspect_pair(target, draft, dtype, Placement.on(find_device(device))).load(rows)


def inspect_pair(
    target: ModelSpec, draft: ModelSpec, dtype: str | None = None, placement: Placement = ON_CPU
) -> Blueprint:
    """Find both models and compare what can be compared without weights. Raises UserError.

    Args:
        placement: where they are to run, which also decides what the dtype `auto` is.
    """
    sources = (
        find_model("model.target", target, dtype, placement.device),
        find_model("model.draft", draft, dtype, placement.draft),
    )
    if placement.ranks > 1:
        check_shared(sources[0], placement.ranks)
    for source in sources:
        check_trees(source.name, source.config)
        source.parameters  # noqa: B018  # a configuration that makes no model is found here
    real = [source for source in sources if not source.origin.random]
    tokenizers = [read_tokenizer(source) for source in real or sources[:1]]
    if real:
        same_vocabulary(real, tokenizers)
    else:
        same_rows([*sources])
    vocabulary = max(tokenizers[0].get_vocab().values()) + 1 if real else sources[0].config.vocab_size
    for source in sources:
        rows = source.config.vocab_size
        if rows < vocabulary:
            raise UserError(
                f"{source.name} has {rows} rows of embeddings, fewer than the {vocabulary} tokens of its tokenizer"
            )
    return Blueprint(*sources, tokenizers[0], vocabulary, end_tokens(sources[0], tokenizers[0]), placement)

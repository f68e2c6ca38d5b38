"""A target that the processes of torchrun share: the leader's model, and what the others do.

Knows models; how processes talk is `mtad.parallel`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from transformers.utils.logging import disable_progress_bar

from mtad.errors import UserError
from mtad.feeds import Feed
from mtad.model import SCORE_BATCH_TOKENS, CausalModel, Scored
from mtad.parallel import team
from mtad.sources import Source
from mtad.weights import read_shared

M = TypeVar("M", bound=CausalModel)


class Leader(CausalModel):
    """The leader's part of a shared model: whatever is asked of it is asked of all parts at once."""

    @property
    def fallback(self) -> str | None:
        """See `CausalModel.fallback`."""
        return "forwards run eagerly: its layers are shared among processes"

    def _together(self, name: str, *arguments: Any) -> Any:
        with team.telling((name, arguments)):
            return getattr(super(), name)(*arguments)

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        return self._together("forward", feeds)

    def prefill(self, feeds: Sequence[Feed]) -> None:
        self._together("prefill", feeds)

    def move(self, row: int, sources: list[int], start: int) -> None:
        self._together("move", row, sources, start)

    def copy(self, source: int, row: int) -> None:
        self._together("copy", source, row)

    def reserve(self, positions: int) -> None:
        if positions >= self.cache.capacity:  # else there is nothing to do
            self._together("reserve", positions)

    def score(
        self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = SCORE_BATCH_TOKENS
    ) -> list[Scored]:
        return self._together("score", texts, batch_tokens)


class _Followed:
    """What a process beside the leader does with what it is told."""

    def __init__(self) -> None:
        self._model: CausalModel | None = None

    def __call__(self, message: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = message
        if name == "load":
            self._model = None  # two large ones may not fit
            loaded = _load(CausalModel, *arguments)
            self._model = None if isinstance(loaded, str) else loaded
        else:
            getattr(self._model, name)(*arguments)


_followed = _Followed()  # one for all cells of a sweep, as the leader may keep its model over several


def follow() -> None:
    """What every process of torchrun does but the leader's."""
    disable_progress_bar()
    team.follow(_followed)


def lead(source: Source, vocabulary: int, rows: int) -> Leader:
    """Load a model on all processes. Raises UserError, with the reason of the first that cannot."""
    with team.telling(("load", (source, vocabulary, rows))):
        loaded = _load(Leader, source, vocabulary, rows)
    if isinstance(loaded, str):
        raise UserError(loaded)
    return loaded


def _load(kind: type[M], source: Source, vocabulary: int, rows: int) -> M | str:
    """This process's part, or why it or another process has none."""
    error = None
    try:
        model = kind(read_shared(source), vocabulary, rows, "eager")
    except UserError as caught:
        error = str(caught)
    errors = [found for found in team.gather(error) if found]
    return errors[0] if errors else model


def check_shared(source: Source, ranks: int) -> None:
    """Raises UserError where a model cannot be shared among so many processes; needs no weights."""
    advice = "spread its layers over GPUs with device_map=auto instead of tp_plan=auto"
    kind, config = source.config.model_type, source.config
    if not getattr(config, "base_model_tp_plan", None):
        raise UserError(f"{source.name}: transformers has no tensor-parallel plan for {kind}; {advice}")
    if source.origin.random:
        raise UserError(f"{source.name}: only weights that are read can be shared among processes; {advice}")
    if source.quantization:
        raise UserError(f"{source.name}: quantized weights are not shared among processes; leave bits out, or {advice}")
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None) or config.num_attention_heads
        if heads % ranks:
            raise UserError(f"{source.name}: {ranks} processes cannot share its {name}={heads} equally; start others")

"""CUDA graphs as far as a CPU can show them: fixed inputs, replays that know nothing else, outputs written in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtad.graphs import Graphs
from mtad.model import CausalModel
from mtad.recorded import CannotRecordError, Eager, Step, Tensors


class Replay:
    """A "graph": runs a module again on the tensors it was captured with, and writes over its first output."""

    def __init__(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> None:
        self.module, self.given = module, (*inputs, *slabs)
        self.output = module(*self.given)

    def replay(self) -> None:
        new = self.module(*self.given)
        for kept, found in zip(_each(self.output), _each(new), strict=True):
            kept.copy_(found)


class Replayed(Graphs):
    """The bookkeeping of `Graphs`, over replays.

    Attributes:
        captured: shape of tokens, and end, of all that was captured.
        refused: how many new tokens cannot be captured.
    """

    def __init__(self, step: Step, refused: int | None = None) -> None:
        Eager.__init__(self, step)
        self._graphs = {}
        self.captured: list[tuple[tuple[int, ...], int]] = []
        self.refused = refused

    def forget(self) -> None:
        self._graphs.clear()

    def _capture(self, module: nn.Module, inputs: Tensors, slabs: Tensors) -> Any:
        if inputs[0].shape[1] == self.refused:
            raise CannotRecordError("refused")
        self.captured.append((tuple(inputs[0].shape), inputs[3].shape[2]))
        static = tuple(given.clone() for given in inputs)
        graph = Replay(module, static, slabs)
        return graph, static, graph.output


class ReplayedModel(CausalModel):
    """A model on a CPU that behaves as one on a GPU: padded shapes, replays, and drafts grown on the device."""

    refused: int | None = None

    @classmethod
    def of(cls, model: CausalModel, rows: int = 1) -> ReplayedModel:
        """The same weights."""
        return cls(model.lm, model.vocabulary, rows)

    @property
    def replayed(self) -> Replayed:
        assert isinstance(self._forward, Replayed)
        return self._forward

    def record(self) -> None:
        if self._to_record and self.cache.slabs:
            self._to_record = False
            self._forward = Replayed(self._forward.step, self.refused)


def _each(output: Any) -> tuple[torch.Tensor, ...]:
    return (output,) if isinstance(output, torch.Tensor) else tuple(output)

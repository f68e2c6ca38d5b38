"""Models whose laws are known: a table, a slow recomputation of a real model, and tiny random Llama and OPT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from mtad.feeds import Feed
from mtad.model import CausalModel

VOCABULARY = 60  # of the tiny random models, whose embeddings have four padded rows more


class ContextModel:
    """Computes every law from the tokens that the mask shows, so a wrong mask, slot or move changes the law."""

    max_positions = 4096
    tolerance = 1e-3

    def __init__(self, vocabulary: int, rows: int = 1) -> None:
        self.vocabulary = vocabulary
        self.written: list[dict[int, tuple[int, int]]] = [{} for _ in range(rows)]  # cache position -> token, position
        self.batches: list[int] = []  # texts of each forward

    def logits(self, context: list[int]) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        self.batches.append(len(feeds))
        answers = []
        for feed in feeds:
            cache = self.written[feed.row]
            for i, token in enumerate(feed.tokens):
                cache[feed.start + i] = (token, feed.positions[i])
            rows = []
            for i in range(len(feed.tokens) - feed.keep, len(feed.tokens)):
                seen = [cache[place] for place in (*range(feed.known), *(feed.known + np.flatnonzero(feed.sees[i])))]
                assert [position for _, position in seen] == list(range(len(seen))), "positions do not run 0, 1, 2, ..."
                rows.append(self.logits([token for token, _ in seen]))
            answers.append(torch.stack(rows))
        return answers

    def prefill(self, feeds: Sequence[Feed]) -> None:
        self.forward(feeds)

    def move(self, row: int, sources: list[int], start: int) -> None:
        cache = self.written[row]
        moved = [cache[source] for source in sources]
        self.written[row] = {place: entry for place, entry in cache.items() if place < start}
        self.written[row].update({start + i: entry for i, entry in enumerate(moved)})

    def copy(self, source: int, row: int) -> None:
        self.written[row] = dict(self.written[source])

    def reserve(self, positions: int) -> None:
        pass

    def synchronise(self) -> None:
        pass

    def mark(self) -> float:
        return perf_counter()


class TableModel(ContextModel):
    """The law after a text depends on its last token alone: ``table[last]``, probabilities."""

    def __init__(self, table: Sequence[Sequence[float]], rows: int = 1) -> None:
        super().__init__(len(table), rows)
        self.table = np.array(table, dtype=np.float64)
        self.table /= self.table.sum(axis=1, keepdims=True)

    def logits(self, context: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.log(np.maximum(self.table[context[-1]], 1e-300)))


class StubModel(ContextModel):
    """A law chosen by a function of the whole context: ``law(context)`` gives the probabilities."""

    def __init__(self, vocabulary: int, law: Callable[[list[int]], Sequence[float]]) -> None:
        super().__init__(vocabulary)
        self.law = law

    def logits(self, context: list[int]) -> torch.Tensor:
        return torch.log(torch.tensor(self.law(context), dtype=torch.float64))


class Recomputed(ContextModel):
    """A real model without any cache: every law is computed afresh from its whole text."""

    def __init__(self, model: CausalModel) -> None:
        super().__init__(model.vocabulary)
        self.model = model

    @torch.inference_mode()
    def logits(self, context: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self.model.lm(input_ids=torch.tensor([context]), use_cache=False).logits
        return logits[0, -1, : self.vocabulary]


def llama(seed: int = 0, rows: int = 1) -> CausalModel:
    """A random Llama with grouped heads, spread out enough that its laws are neither flat nor certain."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY + 4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return CausalModel(LlamaForCausalLM(config), VOCABULARY, rows)


def opt(seed: int = 0, rows: int = 1) -> CausalModel:
    """A random OPT."""
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=VOCABULARY + 4,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        word_embed_proj_dim=32,
        init_std=0.3,
    )
    return CausalModel(OPTForCausalLM(config), VOCABULARY, rows)


def noisy(model: CausalModel, make: Callable[[int], CausalModel], scale: float = 0.03) -> CausalModel:
    """A draft for `model`: the same weights with noise."""
    draft = make(1)
    torch.manual_seed(2)
    with torch.no_grad():
        for theirs, ours in zip(draft.lm.parameters(), model.lm.parameters(), strict=True):
            theirs.copy_(ours + scale * torch.randn_like(ours))
    return draft

"""Next-token laws: from logits to log-probabilities on the host, after temperature, top-k and top-p.

A law keeps only the support that truncation leaves, so a row of a 128 k vocabulary costs ten numbers; decisions are
then made in float64 on the host, after one transfer a read. Rows are in order of token id, which makes a draw (the
inverse of the cumulative law at a uniform) insensitive to float noise between near ties.

Knows logits and numbers; refuses to know models, texts and decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mtad.errors import UserError
from mtad.tree import Tree

# Ties at the edge of the top k are settled by token id; this many further values are looked at for them.
TIE_MARGIN = 8


class Law:
    """Rows of log-probabilities over a shared or a truncated support.

    Attributes:
        ids: int64 [rows, k], ascending in each row, or None where column j is token j.
        logp: float64 [rows, k]; minus infinity for what truncation removed.
    """

    def __init__(self, ids: np.ndarray | None, logp: np.ndarray) -> None:
        self.ids = ids
        self.logp = logp

    @classmethod
    def points(cls, tokens: Sequence[int]) -> Law:
        """The law that is sure of one token in each row."""
        return cls(np.array(tokens, dtype=np.int64)[:, None], np.zeros((len(tokens), 1)))

    def __len__(self) -> int:
        return len(self.logp)

    def take(self, rows: list[int] | np.ndarray) -> Law:
        """The law of the named rows, in that order."""
        return Law(None if self.ids is None else self.ids[rows], self.logp[rows])

    def first(self, rows: int) -> Law:
        """The law of the first `rows` rows, not copied."""
        return Law(None if self.ids is None else self.ids[:rows], self.logp[:rows])

    def row(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their log-probabilities after `node`, the support only, ids ascending."""
        logp = self.logp[node]
        inside = np.flatnonzero(logp > -np.inf)
        return (inside if self.ids is None else self.ids[node][inside]), logp[inside]

    def of(self, node: int, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of each of `tokens` after `node`, float64 [tokens]."""
        if self.ids is None:
            return self.logp[node][tokens]
        ids, logp = self.ids[node], self.logp[node]
        places = np.searchsorted(ids, tokens).clip(max=len(ids) - 1)
        return np.where(ids[places] == tokens, logp[places], -np.inf)

    def edges(self, tree: Tree) -> np.ndarray:
        """Log-probability of every node given its parent, float64 [nodes]; 0 at the root."""
        edges = np.zeros(len(tree))
        parents, tokens = np.array(tree.parents[1:], dtype=np.int64), np.array(tree.tokens[1:], dtype=np.int64)
        if self.ids is None:
            edges[1:] = self.logp[parents, tokens]
        elif len(parents):
            hit = self.ids[parents] == tokens[:, None]
            edges[1:] = np.where(hit, self.logp[parents], -np.inf).max(axis=1)
        return edges

    def draw(self, node: int, uniform: float) -> int:
        """The token after `node` at which the cumulative law passes `uniform` (in [0, 1))."""
        logp = self.logp[node]
        column = inverse_cdf(np.exp(logp), uniform)
        return int(column if self.ids is None else self.ids[node][column])

    def best(self, node: int) -> int:
        """The most probable token after `node`; the smallest id among equals."""
        column = int(self.logp[node].argmax())
        return int(column if self.ids is None else self.ids[node][column])


def side_by_side(p: Law, q: Law, node: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both laws after `node` over the union of their supports: token ids ascending, probabilities of p and of q."""
    tokens = np.union1d(p.row(node)[0], q.row(node)[0])
    return tokens, np.exp(p.of(node, tokens)), np.exp(q.of(node, tokens))


def inverse_cdf(weights: np.ndarray, uniform: float) -> int:
    """Index drawn from unnormalised `weights` [n] at `uniform` in [0, 1); never one of weight zero."""
    total = weights.cumsum()
    place = int(np.searchsorted(total, uniform * total[-1], side="right"))
    return min(place, int(np.flatnonzero(weights)[-1]))


@dataclass(frozen=True)
class Warp:
    """Temperature, then top-k, then top-p, each renormalised (the order of Hugging Face's `generate`).

    Attributes:
        temperature: divides the logits; > 0.
        top_k: keep the k largest logits, ties by smaller token id; 0 keeps all.
        top_p: keep the smallest set of largest probabilities that reaches this mass; in (0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __call__(self, logits: torch.Tensor) -> Law:
        """The law of logits [rows, vocabulary], any float type, any device."""
        logits = logits.float()
        vocabulary = logits.shape[-1]
        if not self.top_k and self.top_p >= 1:
            return Law(None, torch.log_softmax(logits.double() / self.temperature, dim=-1).cpu().numpy())
        if self.top_k:
            values, ids = self._largest(logits, min(self.top_k, vocabulary))
        else:
            sorted_values, sorted_ids = logits.sort(dim=-1, descending=True, stable=True)
            values, ids = sorted_values.cpu().numpy(), sorted_ids.cpu().numpy()
        logp = _log_softmax(values.astype(np.float64) / self.temperature)
        if self.top_p < 1:
            p = np.exp(logp)
            logp = np.where(p.cumsum(axis=-1) - p < self.top_p, logp, -np.inf)
            kept = int((logp > -np.inf).sum(axis=-1).max())
            logp, ids = _log_softmax(logp[:, :kept]), ids[:, :kept]
        order = ids.argsort(axis=-1)
        return Law(np.take_along_axis(ids, order, -1), np.take_along_axis(logp, order, -1))

    @staticmethod
    def _largest(logits: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and ids of the k largest logits a row, largest first, equal ones by id."""
        found = logits.topk(min(k + TIE_MARGIN, logits.shape[-1]), dim=-1)
        values, ids = found.values.cpu().numpy(), found.indices.cpu().numpy()
        if values.shape[1] > k and (values[:, -1] == values[:, k - 1]).any():  # more ties than the margin holds
            ordered = logits.sort(dim=-1, descending=True, stable=True)
            return ordered.values[:, :k].cpu().numpy(), ordered.indices[:, :k].cpu().numpy()
        if (values[:, 1:] == values[:, :-1]).any():
            by_id = ids.argsort(axis=-1)
            values, ids = np.take_along_axis(values, by_id, -1), np.take_along_axis(ids, by_id, -1)
            by_value = (-values).argsort(axis=-1, kind="stable")
            values, ids = np.take_along_axis(values, by_value, -1), np.take_along_axis(ids, by_value, -1)
        return values[:, :k], ids[:, :k]


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


RAW = Warp()


@dataclass(frozen=True)
class Sampling:
    """What a user asks of sampling; both models of a pair get the same.

    `greedy` means argmax for decoders that decide token by token. Joint decoders keep their joints at temperature 1
    with the same top-k / top-p, draft by beam search and take the last token by argmax, because under a temperature
    going to 0 every one of them would degenerate into greedy decoding.
    """

    temperature: float = 1.0
    top_k: int = 10
    top_p: float = 0.9
    greedy: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"sampling.temperature must be > 0, not {self.temperature}; for argmax use sampling=greedy")
        if self.top_k < 0:
            raise UserError(f"sampling.top_k must be >= 0 (0 keeps all tokens), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p must be in (0, 1], not {self.top_p}")

    def warp(self, joint: bool) -> Warp:
        """The warp for a decoder of joints (`joint`) or for one that decides token by token."""
        warp = Warp(self.temperature, self.top_k, self.top_p)
        if not self.greedy:
            return warp
        return replace(warp, temperature=1.0) if joint else Warp(top_k=1)

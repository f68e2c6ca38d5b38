"""Next-token laws: from logits to log-probabilities on the host, after temperature, top-k and top-p.

A law keeps only the support that truncation leaves, so a row of a 128 k vocabulary costs ten numbers; decisions are
then made in float64 on the host, after one transfer a read. Rows are in order of token id, which makes a draw (the
inverse of the cumulative law at a uniform) insensitive to float noise between near ties.

Knows logits and numbers; refuses to know models, texts and decoders.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from operator import eq

import numpy as np
import torch

from mtad.errors import UserError
from mtad.tree import Tree

# Ties at the edge of the top k are settled by token id; this many further values are looked at for them.
TIE_MARGIN = 8
SHORT = 64  # tokens of a row that is held as plain numbers
FEW_ROWS = (
    40  # on a CPU plain numbers are also quicker at warping so many rows, after a forward that emptied its caches
)


Row = tuple[Sequence[int], Sequence[float]]


class Law:
    """Rows of log-probabilities over a shared or a truncated support.

    Short rows are held as plain numbers: on ten of them, and with caches that a large model has just swept, Python is
    several times faster than an array library. Arrays of them are made when asked for.

    Attributes:
        short: row by row the token ids of the support, ascending, and their log-probabilities; None where these are
            in arrays.
    """

    def __init__(self, ids: np.ndarray | None, logp: np.ndarray) -> None:
        """See the attributes `ids` and `logp`."""
        self.short: list[Row] | None = None
        self._ids = ids
        self._logp: np.ndarray | None = logp

    @classmethod
    def of_rows(cls, rows: list[Row]) -> Law:
        """A law of short rows."""
        law = cls.__new__(cls)
        law.short, law._ids, law._logp = rows, None, None
        return law

    @classmethod
    def points(cls, tokens: Sequence[int]) -> Law:
        """The law that is sure of one token in each row."""
        return cls.of_rows([((token,), (0.0,)) for token in tokens])

    @property
    def ids(self) -> np.ndarray | None:
        """int64 [rows, k], ascending in each row, or None where column j is token j."""
        self._make_arrays()
        return self._ids

    @property
    def logp(self) -> np.ndarray:
        """float64 [rows, k]; minus infinity for what truncation removed, and for padding."""
        self._make_arrays()
        assert self._logp is not None
        return self._logp

    def _make_arrays(self) -> None:
        if self._logp is not None or self.short is None:
            return
        width = max((len(ids) for ids, _ in self.short), default=0)
        self._ids = np.full((len(self.short), width), np.iinfo(np.int64).max)
        self._logp = np.full((len(self.short), width), -np.inf)
        for i, (ids, logp) in enumerate(self.short):
            self._ids[i, : len(ids)] = ids
            self._logp[i, : len(ids)] = logp

    def __len__(self) -> int:
        return len(self.logp) if self.short is None else len(self.short)

    def take(self, rows: list[int] | np.ndarray) -> Law:
        """The law of the named rows, in that order."""
        if self.short is not None:
            return Law.of_rows([self.short[row] for row in rows])
        return Law(None if self.ids is None else self.ids[rows], self.logp[rows])

    def part(self, start: int, end: int) -> Law:
        """The law of the rows from `start` to before `end`, not copied."""
        if self.short is not None:
            return self if (start, end) == (0, len(self.short)) else Law.of_rows(self.short[start:end])
        return Law(None if self.ids is None else self.ids[start:end], self.logp[start:end])

    def row(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their log-probabilities after `node`, the support only, ids ascending."""
        if self.short is not None:
            ids, logp = self.short[node]
            return np.array(ids), np.array(logp)
        inside = np.flatnonzero(self.logp[node] > -np.inf)
        return (inside if self.ids is None else self.ids[node][inside]), self.logp[node][inside]

    def of(self, node: int, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of each of `tokens` after `node`, float64 [tokens]."""
        if self.short is None and self.ids is None:
            return self.logp[node][tokens]
        ids, logp = self.row(node)
        places = np.searchsorted(ids, tokens).clip(max=len(ids) - 1)
        return np.where(ids[places] == tokens, logp[places], -np.inf)

    def edges(self, tree: Tree) -> list[float]:
        """Log-probability of every node given its parent; 0 at the root."""
        parents, tokens = tree.parents[1:], tree.tokens[1:]
        if self.short is not None:
            known = {parent: dict(zip(*self.short[parent], strict=True)) for parent in set(parents)}
            pairs = zip(parents, tokens, strict=True)
            return [0.0, *(known[parent].get(token, -math.inf) for parent, token in pairs)]
        if self.ids is None or not parents:
            return [0.0, *self.logp[parents, tokens].tolist()] if parents else [0.0]
        hit = self.ids[parents] == np.array(tokens)[:, None]
        return [0.0, *np.where(hit, self.logp[parents], -np.inf).max(axis=1).tolist()]

    def draw(self, node: int, uniform: float) -> int:
        """The token after `node` at which the cumulative law passes `uniform` (in [0, 1))."""
        if self.short is not None:
            ids, logp = self.short[node]
            return ids[inverse_cdf([math.exp(x) for x in logp], uniform)]
        column = inverse_cdf(np.exp(self.logp[node]), uniform)
        return int(column if self.ids is None else self.ids[node][column])

    def best(self, node: int) -> int:
        """The most probable token after `node`; the smallest id among equals."""
        if self.short is not None:
            ids, logp = self.short[node]
            return ids[logp.index(max(logp))]
        column = int(self.logp[node].argmax())
        return int(column if self.ids is None else self.ids[node][column])


def side_by_side(p: Law, q: Law, node: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both laws after `node` over the union of their supports: token ids ascending, probabilities of p and of q."""
    tokens = np.union1d(p.row(node)[0], q.row(node)[0])
    return tokens, np.exp(p.of(node, tokens)), np.exp(q.of(node, tokens))


def inverse_cdf(weights: np.ndarray | list[float], uniform: float) -> int:
    """Index drawn from unnormalised `weights` [n] at `uniform` in [0, 1); never one of weight zero."""
    if isinstance(weights, list):
        total = list(accumulate(weights))
        place = bisect_right(total, uniform * total[-1])
        return place if place < len(weights) else max(i for i, weight in enumerate(weights) if weight > 0)
    sums = weights.cumsum()
    place = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
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

    @torch.inference_mode()
    def __call__(self, logits: torch.Tensor) -> Law:
        """The law of logits [rows, vocabulary], any float type, any device; one transfer to the host."""
        vocabulary = logits.shape[-1]
        if not self.top_k:
            return self._of_all(logits.float())
        settings = (min(self.top_k, vocabulary), self.temperature, self.top_p)
        if logits.device.type == "cpu" and len(logits) <= FEW_ROWS and settings[0] <= SHORT:
            return self._few(logits.float(), settings[0])
        found = _truncate(logits.device)(logits, *settings).cpu().numpy()
        if found[:, -1].any():  # more ties than the margin holds
            ranks = logits.float().sort(dim=-1, descending=True, stable=True)
            found = ranked(ranks.values, ranks.indices, *settings).cpu().numpy()
        k = settings[0]
        ids, logp = found[:, :k].astype(np.int64), found[:, k : 2 * k]
        return Law(ids, logp) if k > SHORT else Law.of_rows(short_rows(ids, logp))

    def _few(self, logits: torch.Tensor, k: int) -> Law:
        """The law of a few rows on the host, by the arithmetic of `truncate` on plain numbers."""
        found = torch.topk(logits, min(k + 1, logits.shape[-1]), dim=-1)
        rows: list[Row] = []
        for values, ids, logit in zip(found.values.tolist(), found.indices.tolist(), logits, strict=True):
            if any(map(eq, values, values[1:])):
                if values[-1] == values[k - 1]:  # topk itself promises no order among equal ones
                    ids = logit.sort(descending=True, stable=True).indices[:k].tolist()
                    values = logit[ids].tolist()
                ordered = sorted((-value, token) for value, token in zip(values, ids, strict=True))
                values, ids = [-value for value, _ in ordered], [token for _, token in ordered]
            scaled = [(value - values[0]) / self.temperature for value in values[:k]]
            weights = [math.exp(x) for x in scaled]
            mass, kept = weights[0], 1
            if self.top_p < 1:
                edge = self.top_p * sum(weights)
                while kept < k and mass < edge:
                    mass += weights[kept]
                    kept += 1
            else:
                mass, kept = sum(weights), k
            total = math.log(mass)
            row = sorted(zip(ids[:kept], [x - total for x in scaled[:kept]], strict=True))
            rows.append(([token for token, _ in row], [logp for _, logp in row]))
        return Law.of_rows(rows)

    def _of_all(self, logits: torch.Tensor) -> Law:
        """Without top-k: over the whole vocabulary, or what top-p leaves of it."""
        if self.top_p >= 1:
            return Law(None, torch.log_softmax(logits.double() / self.temperature, dim=-1).cpu().numpy())
        sorted_values, sorted_ids = logits.sort(dim=-1, descending=True, stable=True)
        values, ids = sorted_values.cpu().numpy(), sorted_ids.cpu().numpy()
        logp = _log_softmax(values.astype(np.float64) / self.temperature)
        p = np.exp(logp)
        logp = np.where(p.cumsum(axis=-1) - p < self.top_p, logp, -np.inf)
        kept = int((logp > -np.inf).sum(axis=-1).max())
        logp, ids = _log_softmax(logp[:, :kept]), ids[:, :kept]
        order = ids.argsort(axis=-1)
        return Law(np.take_along_axis(ids, order, -1), np.take_along_axis(logp, order, -1))


def truncate(logits: torch.Tensor, k: int, temperature: float, top_p: float, margin: int = TIE_MARGIN) -> torch.Tensor:
    """Laws of logits [rows, vocabulary] after temperature, top-k and top-p, without asking the host anything.

    Returns:
        float64 [rows, 2 k + 1]: k token ids, ascending; their log-probabilities, minus infinity for what top-p removed;
        and whether so many logits tie at the edge of the top k that the right ones among them are not known.
    """
    values, ids = torch.topk(logits.float(), min(k + margin, logits.shape[-1]), dim=-1)
    # Largest first, equal ones by id: topk itself promises no order among these.
    ids, order = torch.sort(ids, dim=-1)
    values, order = torch.sort(values.gather(-1, order), dim=-1, descending=True, stable=True)
    return ranked(values, ids.gather(-1, order), k, temperature, top_p)


def ranked(values: torch.Tensor, ids: torch.Tensor, k: int, temperature: float, top_p: float) -> torch.Tensor:
    """As `truncate`, from logits and ids of at least k tokens a row, largest first, equal ones by id."""
    unsure = values[:, -1:] == values[:, k - 1 : k] if values.shape[-1] > k else torch.zeros_like(values[:, :1])
    logp = torch.log_softmax(values[:, :k].double() / temperature, dim=-1)
    if top_p < 1:
        p = logp.exp()
        logp = logp.masked_fill(p.cumsum(-1) - p >= top_p, float("-inf"))
        logp = torch.log_softmax(logp, dim=-1)
    ids, order = torch.sort(ids[:, :k], dim=-1)
    return torch.cat([ids.double(), logp.gather(-1, order), unsure.double()], dim=-1)


def short_rows(ids: np.ndarray, logp: np.ndarray) -> list[Row]:
    """Rows of plain numbers, what truncation removed left out."""
    rows: list[Row] = []
    for tokens, values in zip(ids.tolist(), logp.tolist(), strict=True):
        kept = [i for i, value in enumerate(values) if value > -math.inf]
        rows.append(([tokens[i] for i in kept], [values[i] for i in kept]))
    return rows


@cache
def _truncate(device: torch.device) -> Callable[..., torch.Tensor]:
    """`truncate`, on a CPU as TorchScript: twenty small operations cost more in Python than by themselves."""
    if device.type != "cpu":
        return truncate
    with warnings.catch_warnings():  # TorchScript is deprecated, and nothing else is as fast to begin
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(truncate)


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

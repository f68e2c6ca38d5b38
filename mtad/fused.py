"""A whole draft on the device: every level reads, warps, draws and prepares the next, and the host hears of it once.

What is drafted is what `mtad.drafting.grow` drafts level by level with the same rule and uniforms; that loop is the
definition, this is its fast form. Knows tensors; refuses to know texts and trees.

A level has `width` nodes for every text, in draw order. Where fewer can be drawn the rest are void: their score is
minus infinity. Nodes that end a text are kept, but get no children.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mtad.cache import TreeCache
from mtad.clock import Mark, mark
from mtad.feeds import Feed, Together, span_of, to_device
from mtad.growth import Grown, Growth
from mtad.law import truncate
from mtad.recorded import Forward, Step


class Level(nn.Module):
    """One level for all texts of a batch: from logits to the nodes below them."""

    def __init__(self, step: Step, growth: Growth, vocabulary: int) -> None:
        super().__init__()
        self.step = step
        self.growth = growth
        self.vocabulary = vocabulary
        self.k = min(growth.warp.top_k, vocabulary)

    def choose(self, logits: torch.Tensor, joint: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The children of a level of `beams` nodes.

        Args:
            logits: [batch, beams, vocabulary].
            joint: float64 [batch, beams]; minus infinity where nothing may follow.
            uniforms: float64 [batch, width].

        Returns:
            tokens, parents: int64 [batch, width].
            joint: as above, of these nodes.
            record: float64 [batch, 3 width + beams (2 k + 1)]: tokens, parents and scores; then the laws, row by row.
        """
        batch, beams = logits.shape[0], logits.shape[1]
        k, warp = self.k, self.growth.warp
        laws = truncate(logits.reshape(-1, self.vocabulary), k, warp.temperature, warp.top_p)
        pairs = laws.view(batch, beams, 2 * k + 1)
        ids = pairs[:, :, :k].reshape(batch, -1)
        scores = (joint[:, :, None] + pairs[:, :, k : 2 * k]).reshape(batch, -1)
        picks, possible = self._pick(scores, uniforms)
        tokens, parents = ids.gather(1, picks), picks // k
        scores = scores.gather(1, picks)
        if self.growth.forced:
            possible, scores = uniforms >= 0, torch.zeros_like(scores)
            given = uniforms.clamp(min=0)
            tokens, parents = given // self.growth.width, (given % self.growth.width).long()
        scores = scores.masked_fill(~possible, float("-inf"))
        ended = torch.zeros_like(possible)
        for token in sorted(self.growth.eos):
            ended = ended | (tokens == token)
        record = torch.cat([tokens, parents.double(), scores, laws.view(batch, -1)], dim=1)
        return tokens.long(), parents, scores.masked_fill(ended, float("-inf")), record

    def _pick(self, scores: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places of `width` pairs among scores [batch, pairs], and whether each could be picked at all."""
        width, size = self.growth.width, int(scores.shape[1])  # the same at every call
        if self.growth.draws == "largest":
            found, picks = torch.sort(scores, dim=1, descending=True, stable=True)
            void = (0, max(0, width - size))
            found = torch.nn.functional.pad(found[:, :width], void, value=float("-inf"))
            return torch.nn.functional.pad(picks[:, :width], void), found > float("-inf")
        weights = (scores - scores.amax(dim=1, keepdim=True).clamp(min=-1e300)).exp()
        if self.growth.draws == "with":
            total = weights.cumsum(1)
            picks = torch.searchsorted(total, uniforms * total[:, -1:], right=True).clamp(max=size - 1)
            return picks, weights.gather(1, picks) > 0
        drawn, possible = [], []
        for index in range(width):
            total = weights.cumsum(1)
            pick = torch.searchsorted(total, uniforms[:, index : index + 1] * total[:, -1:], right=True)
            pick = pick.clamp(max=size - 1)
            drawn.append(pick)
            possible.append(weights.gather(1, pick) > 0)
            weights = weights.scatter(1, pick, 0.0)
        return torch.cat(drawn, 1), torch.cat(possible, 1)


class First(Level):
    """The level below the root: reads what the model has not read of the text."""

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        sees: torch.Tensor,
        last: torch.Tensor,
        uniforms: torch.Tensor,
        *slabs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """As `Step.forward`; `last`, int64 [batch], is the place of each text's last token among the new ones.

        Returns logits [batch, 1, vocabulary], what `choose` returns, and what the root sees, [batch, 1, end].
        """
        logits = self.step(tokens, positions, places, sees, *slabs)
        row = last[:, None, None]
        root = logits.gather(1, row.expand(-1, 1, logits.shape[2]))[:, :, : self.vocabulary]
        joint = torch.zeros_like(last, dtype=torch.float64)[:, None]
        return root, *self.choose(root, joint, uniforms), sees.gather(1, row.expand(-1, 1, sees.shape[2]))


class Next(Level):
    """A level below others: reads the nodes of the level above it."""

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        above: torch.Tensor,
        parents: torch.Tensor,
        joint: torch.Tensor,
        own: torch.Tensor,
        uniforms: torch.Tensor,
        *slabs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """As `Step.forward`, of a level's nodes.

        Args:
            above: what the level above these nodes sees, bool [batch, nodes above, end].
            parents: int64 [batch, width], places in that level.
            joint: of the nodes, see `choose`.
            own: cache position of each node within its row, int64 [batch, width].

        Returns logits [batch, width, vocabulary], what `choose` returns, and what the nodes see.
        """
        sees = above.gather(1, parents[:, :, None].expand(-1, -1, above.shape[2])).scatter(2, own[:, :, None], 1)
        logits = self.step(tokens, positions, places, sees, *slabs)[:, :, : self.vocabulary]
        return logits, *self.choose(logits, joint, uniforms), sees


@dataclass(frozen=True)
class Drafts:
    """What a program drafted, text by text, and the device's time before the first level and after each."""

    each: list[Grown]
    marks: list[Mark]


class Program:
    """The levels of one way to grow, for any number of texts and levels."""

    def __init__(self, step: Step, growth: Growth, vocabulary: int) -> None:
        self.growth = growth
        self._first, self._next = First(step, growth, vocabulary), Next(step, growth, vocabulary)

    def __call__(
        self,
        forward: Forward,
        cache: TreeCache,
        feeds: Sequence[Feed],
        uniforms: Sequence[np.ndarray],
        device: torch.device,
    ) -> Drafts:
        """See `mtad.model.CausalModel.grow`; the cache has room for all levels."""
        width, levels = self.growth.width, max(map(len, uniforms))
        end = forward.end(max(feed.end for feed in feeds) + (levels - 1) * width, cache.capacity)
        new = forward.size(max(len(feed.tokens) for feed in feeds))
        batch = Together.of(feeds, new, end, cache.capacity, forward.span(span_of(feeds), cache.rows))
        slabs = cache.take_aim(batch.first, batch.rows)
        last, draws, below = self._host(batch, feeds, uniforms, levels, cache.capacity)
        last_, draws_ = to_device((last, draws), device)
        marks = [mark(device)]
        logits, *chosen, record, sees = forward(
            self._first, (*batch.inputs(device), last_, draws_[0].contiguous()), slabs
        )
        read, records = [logits], [record]
        for level in range(1, levels):
            marks.append(mark(device))
            tokens, parents, joint = chosen
            positions, places, own = to_device(below[level - 1], device)
            inputs = (tokens, positions, places, sees, parents, joint, own, draws_[level].contiguous())
            logits, *chosen, record, sees = forward(self._next, inputs, slabs)
            read.append(logits)
            records.append(record)
        marks.append(mark(device))
        found = torch.cat(records, 1).cpu().numpy()
        k = self._first.k
        rows = [feed.row - batch.first for feed in feeds]
        each = [
            _parse(found[row], [logits[row] for logits in read[: len(own)]], width, k, len(own))
            for row, own in zip(rows, uniforms, strict=True)
        ]
        return Drafts(each, marks)

    def _host(
        self, batch: Together, feeds: Sequence[Feed], uniforms: Sequence[np.ndarray], levels: int, capacity: int
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """What does not depend on what is drafted.

        Returns:
            The place of each text's last token among the new ones [rows]; uniforms [levels, rows, width]; and for each
            level but the first `positions` [rows, width], `places` [rows x width] and `own` [rows, width] of `Next`.
        """
        width = self.growth.width
        last = np.zeros(batch.rows, dtype=np.int64)
        draws = np.zeros((levels, batch.rows, width))
        ends = np.zeros((batch.rows, 1), dtype=np.int64)
        depths = np.ones((batch.rows, 1), dtype=np.int64)
        for feed, ours in zip(feeds, uniforms, strict=True):
            row = feed.row - batch.first
            last[row], ends[row], depths[row] = len(feed.tokens) - 1, feed.end, len(ours)
            draws[: len(ours), row] = ours
        idle = ends == 0
        starts = np.arange(batch.rows)[:, None] * capacity
        below = []
        for level in range(1, levels):
            own = np.where(idle, 0, ends + np.arange((level - 1) * width, level * width))
            places = np.where(idle, starts + capacity - 1, starts + own)
            # Texts with fewer levels idle along, at a position that the model has: they may be near their longest.
            positions = ends + np.minimum(level, depths - 1) - 1
            below.append((np.repeat(positions.clip(min=0), width, 1), places.ravel(), own))
        return last, draws, below


def _parse(found: np.ndarray, logits: list[torch.Tensor], width: int, k: int, levels: int) -> Grown:
    """One text's draft of `levels` levels from the records of its levels, one after the other, float64."""
    nodes, laws, at = [], [], 0
    for level in range(levels):
        after = at + 3 * width
        rows = width if level else 1
        nodes.append(found[at:after].reshape(3, width))
        at = after + rows * (2 * k + 1)
        laws.append(found[after:at].reshape(rows, 2 * k + 1))
    tokens, parents, scores = np.stack(nodes, axis=1)
    law = np.concatenate(laws)
    return Grown(
        tokens=tokens.astype(np.int64),
        parents=parents.astype(np.int64),
        scores=scores,
        ids=law[:, :k].astype(np.int64),
        logp=law[:, k : 2 * k],
        logits=logits,
        sure=not law[:, -1].any(),
    )

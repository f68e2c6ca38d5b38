"""Seconds of one read of n nodes, each model by itself.

A read is what a decoder waits for: the feed is made, the model computes, and the law comes to the host, through the
same `serve` and the same warp as in a run. n counts the tokens that the forward is fed, as a row's `reads` does: here
one token of the text and n - 1 nodes of a tree. Sizes and models come in an order shuffled anew for each repetition, so
that drift of the machine hits all alike.

Knows models and token ids. Refuses to know runs, rows and decoders: nothing here can be fitted to what it predicts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter

import numpy as np

from mtad.errors import UserError
from mtad.law import Warp
from mtad.session import Model, Reader, Session, serve
from mtad.tree import ROOT, Tree

BRANCHES = 8  # chains side by side in a timed tree, so that even 64 nodes need few positions of the text
SEED = 0  # of the order


@dataclass(frozen=True)
class Curve:
    """What reads of one model cost by their size; quartiles show the spread.

    Attributes:
        nodes: sizes, ascending.
        median, low, high: seconds of a read of each size; `low` and `high` are the quartiles.
    """

    nodes: tuple[int, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def seconds(self, nodes: float) -> float:
        """Of a read of so many nodes: linear between sizes, and past the last as between the last two.

        Below the first size it is that of the first, and past the last it never falls.
        """
        if nodes > self.nodes[-1] and len(self.nodes) > 1:
            slope = (self.median[-1] - self.median[-2]) / (self.nodes[-1] - self.nodes[-2])
            return self.median[-1] + max(slope, 0.0) * (nodes - self.nodes[-1])
        return float(np.interp(nodes, self.nodes, self.median))


def time_reads(
    target: Model, draft: Model, warp: Warp, prompt: Sequence[int], context: int, nodes: Sequence[int], repeats: int
) -> tuple[Curve, Curve]:
    """Time `repeats` reads of each size with `context` tokens in the cache on average: curves of target and draft.

    Args:
        warp: from logits to the law that a decoder sees.
        prompt: token ids that the text is made of, again and again.
        nodes: ascending sizes.

    Raises:
        UserError: text and tree exceed the positions of a model.
    """
    check_room(min(target.max_positions, draft.max_positions), context, nodes)
    trees = {size: branching(size - 1) for size in nodes}
    length = max(context + 1 - len(nodes) // 2, 1)  # each timed read lengthens the text by one, so the mean is right
    text = list(islice(cycle(prompt), length))
    sessions = {"target": Session(target), "draft": Session(draft)}
    order = [(role, size) for role in sessions for size in nodes]
    shuffler = random.Random(SEED)
    taken: dict[tuple[str, int], list[float]] = {step: [] for step in order}
    for sweep in range(repeats + 1):
        for session in sessions.values():
            session.open(text, len(nodes))
        shuffler.shuffle(order)
        for role, size in order:
            seconds = _timed(sessions[role], warp, trees[size])
            if sweep:  # the first sweep warms caches, threads and kernels up
                taken[role, size].append(seconds)
    of_target, of_draft = (_curve([taken[role, size] for size in nodes], nodes) for role in sessions)
    return of_target, of_draft


def branching(nodes: int) -> Tree:
    """A tree of up to `BRANCHES` chains that differ from their first tokens on; token 0 is no first one."""
    tree = Tree()
    for node in range(1, nodes + 1):
        tree.add(max(node - BRANCHES, ROOT), 1 + (node - 1) % BRANCHES)
    return tree


def check_room(positions: int, context: int, nodes: Sequence[int]) -> None:
    """Raises UserError unless a text of `context` tokens leaves room for the timed reads."""
    need = context + len(nodes) + -(-max(nodes) // BRANCHES) + 1
    if need > positions:
        raise UserError(
            f"reads of up to {max(nodes)} nodes after {context} tokens need {need} positions; the pair has "
            f"{positions}: lower cost.context or cost.nodes"
        )


def _timed(session: Session, warp: Warp, tree: Tree) -> float:
    """Seconds of a read; leaves one token of the text to be read, as a round does."""
    reader = Reader(session, warp)
    session.model.synchronise()
    started = perf_counter()
    serve([reader.read(tree)])
    session.model.synchronise()
    seconds = perf_counter() - started
    session.commit([0])
    return seconds


def _curve(seconds: Sequence[Sequence[float]], nodes: Sequence[int]) -> Curve:
    low, median, high = np.percentile(np.array(seconds), [25, 50, 75], axis=1).tolist()
    return Curve(tuple(nodes), tuple(median), tuple(low), tuple(high))


def curve_record(curve: Curve) -> list[Mapping[str, float]]:
    """A curve as JSON data."""
    columns = zip(curve.nodes, curve.median, curve.low, curve.high, strict=True)
    keys = ("nodes", "seconds_median", "seconds_quartile_1", "seconds_quartile_3")
    return [dict(zip(keys, column, strict=True)) for column in columns]

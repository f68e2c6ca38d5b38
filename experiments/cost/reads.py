"""Seconds of one read of n nodes, each model by itself.

A read is what a decoder waits for: the feed is made, the model computes, and the law comes to the host, through the
same `serve` and the same warp as in a run. n counts the tokens that the forward is fed, as a row's `reads` does: here
one token of the text and n - 1 nodes of a tree.

What a read costs depends on what the processor did before: its caches may hold this model's weights, or the other's.
So reads come in bursts, target and draft by turns. The first of a burst is one after the other model, as when a draft
is verified; the last is one after its own kind, as in autoregressive decoding. Sizes come in an order shuffled anew for
each repetition, so that drift of the machine hits all alike.

Knows models and token ids. Refuses to know runs, rows and decoders: nothing here can be fitted to what it predicts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter

import numpy as np

from mtad.errors import UserError
from mtad.feeds import Model
from mtad.law import Warp
from mtad.serving import serve
from mtad.session import Reader, Session
from mtad.tree import ROOT, Tree

BRANCHES = 8  # chains side by side in a timed tree, so that even 64 nodes need few positions of the text
BURST = 3  # reads of one model and size in a row
SEED = 0  # of the order


@dataclass(frozen=True)
class Curve:
    """What reads of one model cost by their size.

    The lower quartile counts: whatever else runs on the machine can only lengthen a read, and on a busy one the median
    falls now among the disturbed reads, now among the others. Median and upper quartile show how busy it was.

    Attributes:
        nodes: sizes, ascending.
        low, median, high: quartiles of the seconds of a read of each size.
    """

    nodes: tuple[int, ...]
    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]

    def seconds(self, nodes: float) -> float:
        """Of a read of so many nodes: linear between sizes, and past the last as between the last two.

        Below the first size it is that of the first, and past the last it never falls.
        """
        if nodes > self.nodes[-1] and len(self.nodes) > 1:
            slope = (self.low[-1] - self.low[-2]) / (self.nodes[-1] - self.nodes[-2])
            return self.low[-1] + max(slope, 0.0) * (nodes - self.nodes[-1])
        return float(np.interp(nodes, self.nodes, self.low))


@dataclass(frozen=True)
class Pace:
    """What reads of one model cost, by what came before.

    Attributes:
        steady: after reads of the same model and size.
        switched: after reads of the other model.
    """

    steady: Curve
    switched: Curve


Paces = tuple[Pace, Pace]  # of target and draft


def time_reads(
    target: Model,
    draft: Model,
    warps: Sequence[Warp],
    prompt: Sequence[int],
    context: int,
    nodes: Sequence[int],
    repeats: int,
    seed: int = SEED,
) -> dict[Warp, Paces]:
    """Time `repeats` bursts of each size and law with `mean_context(context, nodes)` tokens in the cache on average.

    Args:
        warps: from logits to the law that a decoder sees; the paces of each.
        prompt: token ids that the text is made of, again and again.
        nodes: ascending sizes.
        seed: of the order of sizes.

    Raises:
        UserError: text and tree exceed the positions of a model.
    """
    check_room(min(target.max_positions, draft.max_positions), context, nodes)
    steps, length = BURST * len(nodes), _length(context, nodes)
    text = list(islice(cycle(prompt), length))
    sessions = Session(target), Session(draft)
    trees = {size: branching(size - 1) for size in nodes}
    taken: dict[tuple[Warp, int, int], list[list[float]]] = {}  # seconds of the bursts of a warp, model and size
    order, shuffler = list(nodes), random.Random(seed)
    for sweep in range(repeats + 1):
        for warp in warps:
            for session in sessions:
                session.open(text, steps)
            shuffler.shuffle(order)
            for size in order:
                for role, session in enumerate(sessions):
                    burst = [_timed(session, warp, trees[size]) for _ in range(BURST)]
                    if sweep:  # the first sweep warms caches, threads and kernels up
                        taken.setdefault((warp, role, size), []).append(burst)

    def pace(warp: Warp, role: int) -> Pace:
        bursts = np.array([taken[warp, role, size] for size in nodes])  # [sizes, repeats, BURST]
        return Pace(steady=_curve(bursts[:, :, -1], nodes), switched=_curve(bursts[:, :, 0], nodes))

    return {warp: (pace(warp, 0), pace(warp, 1)) for warp in warps}


def branching(nodes: int) -> Tree:
    """A tree of up to `BRANCHES` chains that differ from their first tokens on; token 0 is no first one."""
    tree = Tree()
    for node in range(1, nodes + 1):
        tree.add(max(node - BRANCHES, ROOT), 1 + (node - 1) % BRANCHES)
    return tree


def mean_context(context: int, nodes: Sequence[int]) -> float:
    """Tokens in the cache of a timed read, on average: `context` if that is at least half of a sweep's reads."""
    return _length(context, nodes) - 1 + (BURST * len(nodes) - 1) / 2


def _length(context: int, nodes: Sequence[int]) -> int:
    """Tokens of the text that a sweep begins with; each timed read lengthens it by one."""
    return max(context + 1 - BURST * len(nodes) // 2, 1)


def check_room(positions: int, context: int, nodes: Sequence[int]) -> None:
    """Raises UserError unless texts with `context` tokens on average leave room for the timed reads."""
    longest = _length(context, nodes) + BURST * len(nodes) - 1  # the last read's text, the root of its tree included
    need = longest + max(branching(max(nodes) - 1).depths)
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


def _curve(seconds: np.ndarray, nodes: Sequence[int]) -> Curve:
    """Of seconds [sizes, repeats]."""
    low, median, high = np.percentile(seconds, [25, 50, 75], axis=1).tolist()
    return Curve(tuple(nodes), tuple(low), tuple(median), tuple(high))


def pace_record(pace: Pace) -> list[dict[str, float]]:
    """Both curves as JSON data, a mapping for each size."""
    points: list[dict[str, float]] = [{"nodes": nodes} for nodes in pace.steady.nodes]
    for name, curve in (("steady", pace.steady), ("switched", pace.switched)):
        for point, low, median, high in zip(points, curve.low, curve.median, curve.high, strict=True):
            point[f"{name}_seconds_quartile_1"] = low
            point[f"{name}_seconds_median"] = median
            point[f"{name}_seconds_quartile_3"] = high
    return points

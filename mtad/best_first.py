"""Best-first search for the most probable block, with a certificate. The machinery of `mtad.mjgd`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator

import numpy as np

from mtad.decoder import Proof
from mtad.law import Law
from mtad.session import Read, Reader
from mtad.tree import Tree

Prefix = tuple[int, ...]
Scout = Callable[[Tree], Generator[Read, Law, None]]
FIRST_CHILDREN = 64  # so many best children of a prefix are sorted at first, all of them when these are used up


class Children:
    """The children of a prefix, most probable first, equal ones by token id; sorted as far as they are asked for.

    Most prefixes that are read are never asked for more than their best child, which needs no sorting.
    """

    def __init__(self, law: Law, node: int) -> None:
        self._law, self._node = law, node
        self._tokens: list[int] = []
        self._logp: list[float] = []
        self._complete = False

    def best(self) -> tuple[int, float]:
        """The first child; a law has at least one token."""
        column = int(self._law.logp[self._node].argmax())
        ids = self._law.ids
        return (column if ids is None else int(ids[self._node, column])), float(self._law.logp[self._node, column])

    def get(self, rank: int) -> tuple[int, float] | None:
        """Token and log-probability of the child of that rank, or None if there are no more."""
        while rank >= len(self._tokens) and not self._complete:
            self._sort()
        return (self._tokens[rank], self._logp[rank]) if rank < len(self._tokens) else None

    def _sort(self) -> None:
        """The best children the first time, all of them the second time."""
        tokens, logp = self._law.row(self._node)
        self._complete = bool(self._tokens) or len(logp) <= FIRST_CHILDREN
        if not self._complete:
            kept = logp >= np.partition(logp, -FIRST_CHILDREN)[-FIRST_CHILDREN]
            tokens, logp = tokens[kept], logp[kept]
        order = np.argsort(-logp, kind="stable")
        self._tokens, self._logp = tokens[order].tolist(), logp[order].tolist()


class Search:
    """One search for the block of `gamma` tokens (fewer at an end token) with the highest joint log-probability.

    The queue holds open prefixes, most probable first, ties by token ids. A prefix's next-best sibling is queued when
    it is popped itself, so nothing is cut off. The incumbent is the best complete block known; what cannot beat it is
    never queued.

    Attributes:
        scout: lengthens the paths of a tree that is about to be read, so that one forward may settle several depths.
        rows: the prefixes whose laws are known.
        block: the answer, after `run`.
    """

    def __init__(self, gamma: int, eos: frozenset[int], budget: int, batch: int, scout: Scout | None = None) -> None:
        self.gamma, self.eos, self.budget, self.batch, self.scout = gamma, eos, budget, batch, scout
        self.rows: dict[Prefix, Children] = {}
        self.block: Prefix = ()
        self._joint = -np.inf  # of the block
        self._runner_up = -np.inf  # best joint among losing blocks and prefixes that were not queued
        self._queue: list[tuple[float, Prefix, float, Prefix, int]] = []  # -joint, prefix, parent's joint, parent, rank
        self._expanded = 0

    def learn(self, tree: Tree, law: Law) -> None:
        """Take the laws of all nodes of a tree that the target has read; the best full block below them may lead."""
        joint = tree.joint(law)
        for node in range(len(tree)):
            prefix = tuple(tree.path(node))
            if prefix in self.rows or (prefix and prefix[-1] in self.eos) or joint[node] == -np.inf:
                continue
            self.rows[prefix] = Children(law, node)
            if len(prefix) == self.gamma - 1:
                self._offer_best(prefix, joint[node])

    def run(self, target: Reader) -> Generator[Read, Law, Proof]:
        """Search until the block is proven or the budget is spent."""
        if not self.block:
            yield from self._descend(target)
        self._queue_from(0.0, (), 0)
        while self._queue and self._queue[0][:2] < (-self._joint, self.block):
            if self._expanded == self.budget:
                return self._proof(target, proven=False)
            if self._queue[0][1] not in self.rows:
                yield from self._read_best(target)
            self._expanded += 1
            cost, prefix, parent_joint, parent, rank = heapq.heappop(self._queue)
            self._queue_from(parent_joint, parent, rank + 1)
            self._queue_from(-cost, prefix, 0)
        return self._proof(target, proven=True)

    def _queue_from(self, parent_joint: float, parent: Prefix, rank: int) -> None:
        """Queue the best child from `rank` on that is open and may still win; offer complete ones on the way."""
        while (child := self.rows[parent].get(rank)) is not None:
            prefix, joint = (*parent, child[0]), parent_joint + child[1]
            complete = len(prefix) == self.gamma or child[0] in self.eos
            if joint < self._joint:
                self._runner_up = max(self._runner_up, joint)
                return
            if complete:
                self._offer(joint, prefix)
            elif joint > self._joint or prefix < self.block:
                heapq.heappush(self._queue, (-joint, prefix, parent_joint, parent, rank))
                return
            else:
                self._runner_up = max(self._runner_up, joint)
            rank += 1

    def _offer(self, joint: float, block: Prefix) -> None:
        """Let a complete block compete: the higher joint wins, then the smaller token ids."""
        if block == self.block:
            return
        if not self.block or (-joint, block) < (-self._joint, self.block):
            joint, self._joint, self.block = self._joint, joint, block
        self._runner_up = max(self._runner_up, joint)

    def _offer_best(self, prefix: Prefix, joint: float) -> None:
        token, logp = self.rows[prefix].best()
        self._offer(joint + logp, (*prefix, token))

    def _descend(self, target: Reader) -> Generator[Read, Law, None]:
        """A first incumbent: the greedy block, read token by token where its laws are not known."""
        prefix: Prefix = ()
        joint = 0.0
        while not self.block:
            if prefix not in self.rows:
                tree = Tree.chain(prefix)
                self.learn(tree, (yield target.read(tree)))
                if self.block:
                    return
            token, logp = self.rows[prefix].best()
            prefix, joint = (*prefix, token), joint + logp
            if len(prefix) == self.gamma or token in self.eos:
                self._offer(joint, prefix)

    def _read_best(self, target: Reader) -> Generator[Read, Law, None]:
        """One forward for the best open prefixes whose laws are not known, up to `batch` of them."""
        best = [prefix for _, prefix, *_ in heapq.nsmallest(4 * self.batch, self._queue)]
        tree = Tree.of_paths([prefix for prefix in best if prefix not in self.rows][: self.batch])
        if self.scout:
            yield from self.scout(tree)
        self.learn(tree, (yield target.read(tree)))

    def _proof(self, target: Reader, proven: bool) -> Proof:
        rest = -self._queue[0][0] if self._queue else -np.inf
        runner_up = max(self._runner_up, rest)
        lead = float(self._joint - runner_up) if proven and runner_up > -np.inf else None
        # A log-probability moves by up to twice what a logit does; a block has gamma of them, and two are compared.
        tolerance = 4 * self.gamma * target.session.model.tolerance / target.warp.temperature
        return Proof(
            proven=proven,
            lead=lead,
            decisive=proven and (lead is None or lead > tolerance),
            shortfall=0.0 if proven else max(float(rest - self._joint), 0.0),
            expansions=self._expanded,
        )

"""Drafting: one loop, `grow`, and the rules that choose the nodes of a level."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from heapq import nsmallest
from typing import ClassVar, Protocol

import numpy as np

from mtad.decoder import Text
from mtad.growth import Drafted, Draws, Growth
from mtad.law import Law, inverse_cdf
from mtad.session import Begin, Grow, Read, Reader
from mtad.tree import ROOT, Tree

Draw = Callable[[int], float]  # the index-th uniform of a level


class Rule(Protocol):
    """Adds one level below `beams` and returns its nodes in the order in which they were drawn."""

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]: ...


@dataclass(frozen=True)
class Draft:
    """A drafted tree.

    Attributes:
        tree: its nodes stand level by level, each level in draw order.
        law: the drafting model's law; a row for every node that has children.
        ends: complete candidates: the last level's nodes and those that ended before in an end token.
    """

    tree: Tree
    law: Law
    ends: list[int]

    def best(self) -> int:
        """The complete candidate with the highest joint probability under the drafting model; the first of equals."""
        joint = self.tree.joint(self.law)
        return max(self.ends, key=lambda node: (joint[node], -node))


def grow(reader: Reader, rule: Rule, depth: int, text: Text) -> Generator[Read, Law, Draft]:
    """Grow a tree of `depth` levels; nodes that end the text are set aside and not grown further."""
    tree, beams, ended = Tree(), [ROOT], list[int]()
    law = Law(None, np.zeros((0, 0)))
    for level in range(depth):
        law = yield reader.read(tree) if level else _whole(reader, rule, depth, text)
        if isinstance(law, Drafted):
            return Draft(law.tree, law, law.ends)
        position = text.start + level
        nodes = rule(tree, law, beams, lambda index, at=position: text.luck.draft(at, text.start, index))  # type: ignore[misc]
        ended += [node for node in nodes if tree.tokens[node] in text.eos]
        beams = [node for node in nodes if tree.tokens[node] not in text.eos]
        if not beams:
            break
    return Draft(tree, law, ended + beams)


def _whole(reader: Reader, rule: Rule, depth: int, text: Text) -> Read:
    """Asks for the whole draft at once where the rule can be done on the device, else for the root."""
    if not isinstance(rule, OneEach | BeamSample | BeamSearch) or not reader.warp.top_k:
        return reader.read(Tree())
    growth = Growth(rule.width, rule.draws, reader.warp, text.eos)
    if not reader.grows:
        return Begin(reader, Tree(), growth, depth)
    uniforms = np.zeros((depth, rule.width))
    if rule.draws != "largest":
        draft, start = text.luck.draft, text.start
        uniforms[:] = [[draft(start + level, start, i) for i in range(rule.width)] for level in range(depth)]
    return Grow(reader, Tree(), growth, depth, uniforms)


def lengthen(reader: Reader, tree: Tree, depth: int, eos: frozenset[int]) -> Generator[Read, Law, None]:
    """Continue every leaf of `tree` by the most probable token, again and again, to `depth` or an end token."""
    leaves = tree.leaves()
    while leaves := [leaf for leaf in leaves if tree.depths[leaf] < depth and tree.tokens[leaf] not in eos]:
        law = yield reader.read(tree)
        leaves = [tree.add(leaf, law.best(leaf)) for leaf in leaves]


@dataclass(frozen=True)
class OneEach:
    """One child for every beam, drawn from its law: chains."""

    width = 1
    draws: ClassVar[Draws] = "without"

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        return [tree.add(beam, law.draw(beam, draw(index))) for index, beam in enumerate(beams)]


@dataclass(frozen=True)
class Branch:
    """Several children for every beam, drawn from its law one after the other.

    Attributes:
        branching: how many at depth 1, 2, ...; one at each depth beyond.
        replacement: draw them independently, so that equal siblings occur; without replacement no more are drawn than
            the support that truncation leaves.
    """

    branching: tuple[int, ...]
    replacement: bool = False

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        depth, nodes = tree.depths[beams[0]], list[int]()
        children = self.branching[depth] if depth < len(self.branching) else 1
        for place, beam in enumerate(beams):
            tokens, logp = law.row(beam)
            weights = np.exp(logp)
            possible = int(np.count_nonzero(weights))  # the support, but for what is too improbable for a number
            for child in range(children if self.replacement else min(children, possible)):
                pick = inverse_cdf(weights, draw(place * children + child))
                nodes.append(tree.add(beam, int(tokens[pick])))
                if not self.replacement:
                    weights[pick] = 0.0
        return nodes


@dataclass(frozen=True)
class BranchLargest:
    """The most probable children of every beam, largest first, equal ones by token id; never more than the support.

    Attributes:
        branching: how many at depth 1, 2, ...; one at each depth beyond.
    """

    branching: tuple[int, ...]

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        depth, nodes = tree.depths[beams[0]], list[int]()
        children = self.branching[depth] if depth < len(self.branching) else 1
        for beam in beams:
            tokens, logp = law.row(beam)
            order = np.argsort(-logp, kind="stable")[:children]
            nodes += [tree.add(beam, int(token)) for token in tokens[order]]
        return nodes


@dataclass(frozen=True)
class BeamSample:
    """`width` (beam, token) pairs drawn from the normalised joint weights, without replacement unless asked for.

    Without replacement, no more are drawn than the support that truncation leaves.
    """

    width: int
    replacement: bool = False

    @property
    def draws(self) -> Draws:
        return "with" if self.replacement else "without"

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        parents, tokens, logw = _pairs(tree, law, beams)
        weights = _exp(logw)
        nodes = []
        draws = self.width if self.replacement else min(self.width, int(np.count_nonzero(weights)))
        for index in range(draws):
            pick = inverse_cdf(weights, draw(index))
            nodes.append(tree.add(int(parents[pick]), int(tokens[pick])))
            if not self.replacement:
                weights[pick] = 0.0
        return nodes


@dataclass(frozen=True)
class BeamSearch:
    """The `width` (beam, token) pairs with the largest joint weights; equal ones by beam, then token id."""

    width: int

    draws: ClassVar[Draws] = "largest"

    def __call__(self, tree: Tree, law: Law, beams: list[int], draw: Draw) -> list[int]:
        parents, tokens, logw = _pairs(tree, law, beams)
        if isinstance(logw, list):
            order: Ids = nsmallest(self.width, range(len(logw)), key=lambda i: -logw[i])  # equal ones stay in order
        else:
            order = _largest(logw, self.width)
        return [tree.add(int(parents[i]), int(tokens[i])) for i in order if logw[i] > -math.inf]


Ids = np.ndarray | list[int]
Numbers = np.ndarray | list[float]


def _pairs(tree: Tree, law: Law, beams: list[int]) -> tuple[Ids, Ids, Numbers]:
    """Every (beam, token) of the support: parents, tokens, joint log-weights; by beam, then token id."""
    joint = tree.joint(law)
    if law.short is None:
        rows = [law.row(beam) for beam in beams]
        parents = np.repeat(beams, [len(ids) for ids, _ in rows])
        logw = [joint[beam] + logp for beam, (_, logp) in zip(beams, rows, strict=True)]
        return parents, np.concatenate([ids for ids, _ in rows]), np.concatenate(logw)
    short = [(beam, float(joint[beam]), *law.short[beam]) for beam in beams]
    return (
        [beam for beam, _, ids, _ in short for _ in ids],
        [token for _, _, ids, _ in short for token in ids],
        [before + x for _, before, _, logp in short for x in logp],
    )


def _exp(logw: Numbers) -> Numbers:
    """Weights from log-weights, the largest 1."""
    if isinstance(logw, list):
        top = max(logw)
        return [math.exp(x - top) for x in logw]
    return np.exp(logw - logw.max())


def _largest(logw: np.ndarray, number: int) -> np.ndarray:
    """Places of the largest, equal ones in their order, without the full sort of a vocabulary."""
    if len(logw) <= number:
        return np.argsort(-logw, kind="stable")
    kept = np.flatnonzero(logw >= np.partition(logw, -number)[-number])
    return kept[np.argsort(-logw[kept], kind="stable")[:number]]

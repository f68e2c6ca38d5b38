"""DSBD, dynamic-width speculative beam decoding: beam sampling on the target, its beams drafted by a small model.

Qin, He, Prakriya, Cong, Sun: "Dynamic-Width Speculative Beam Decoding for LLM Inference", arXiv 2409.16560. With P the
law of the target's next pair, P(b, x) ~ p(b) p(x | b) over its present beams b and tokens x, and Q that of the draft:

    draft   gamma layers of `width` pairs drawn from Q, each layer below the one before
    need    of a layer: the largest n with Pr(at least n of its drafts are accepted) >= tau, but at least min_width
    accept  one draft after the other while u < R(b, x) / Q(b, x), where R = P at first and after each acceptance, and
            R = max(R - Q, 0), normalised, after a refusal; a pair below a beam that was not kept is refused
    keep    the accepted pairs, once they are `need`, as the beams of the next layer
    else    beside those accepted one pair from R and then others from P, `width` beams in all; the round ends
    then    after the last layer `width` pairs from P

So each accepted pair, or else the one from R, has the law P. The beams that live on have not, where fewer than `width`
are kept: an accepted layer commits to what was drafted, a refused one lets others compete, so texts lean to the draft.
Emitted is the text with the highest joint p among those that ended and those that reached the limit. Lossy, as beam
sampling is; width 1 is speculative sampling and lossless.

The paper's defaults: tau 0.7 or 0.9, gamma 3, widths 2 to 6, min_width 1 to 3 (the grid of the authors' code,
GitHub ZongyueQin/DSBD, which the rule is read from). What differs from that code: drafts are drawn with replacement, as
the correction by Q supposes (theirs: without); `need` follows from the residuals as they are (theirs takes Q off
twice); equal drafts count one by one towards `need` but are one beam, so that fewer beams than `need`, down to
min_width, live on where the models are sure; the filling avoids beams already there; pairs are not truncated once more
by top-k and top-p; and the winner is found without length normalisation, as in beam search. Left out: the variant that
ends every round with one beam to save memory, and the width by expectation. Greedy sampling is our reading: the largest
pairs of Q and of P in place of draws; of P's ranking is kept, from the top, as much as was drafted, if it is min_width
at least.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from mtad.decoder import Round, Source, Text
from mtad.errors import UserError
from mtad.law import Law, inverse_cdf
from mtad.options import at_least, one_of
from mtad.session import Read, Reader
from mtad.tree import ROOT, Tree

Weights = Literal["equal", "target"]
Kept = dict[int, Source]  # pairs, and where each comes from
PARENT = 1 << 32  # a pair is one number, parent * PARENT + token, so that a law of pairs is a law of one row


@dataclass(frozen=True)
class Beam:
    """A prefix of the output: its tokens, where each comes from, and their joint log p."""

    tokens: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()
    joint: float = 0.0

    def extended(self, token: int, source: Source, logp: float) -> Beam:
        return Beam((*self.tokens, token), (*self.sources, source), self.joint + logp)


@dataclass(frozen=True)
class Layer:
    """One layer of the draft: the law of pairs it was drawn from, the pairs drawn, in order, and their nodes."""

    law: Law
    drawn: list[int]
    nodes: dict[int, int]


@dataclass(frozen=True)
class Dsbd:
    """Writes a whole text. Its rounds are those of the beam that won; later ones are in the forwards only.

    A round's `accepted` counts the winner's tokens that were drafted and accepted in it, its `nodes` all drafted ones.

    Attributes:
        gamma: layers of the draft.
        width: beams at most, and drafts in a layer.
        min_width: beams to keep in a layer at least, if P has so many pairs; a layer with fewer ends the round.
        tau: how probable it has to be that a layer accepts so many; 0 asks for all `width`, above 1 for `min_width`.
        start: the weights that the draft gives to the target's beams: equal ones (the authors' code), or their joint p.
    """

    gamma: int = 4
    width: int = 4
    min_width: int = 1
    tau: float = 0.7
    start: Weights = "equal"

    joint = True
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("width", self.width, 1)
        at_least("min_width", self.min_width, 1)
        at_least("tau", self.tau, 0)
        one_of("start", self.start, Weights)
        if self.min_width > self.width:
            raise UserError(f"min_width ({self.min_width}) must not exceed width ({self.width})")

    def write(self, text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        live, ended, rounds = [Beam()], list[Beam](), list[tuple[int, int, int]]()
        while live and len(live[0].tokens) < text.room and joint(live) > joint(ended):
            depth, tree = len(live[0].tokens), Tree.of_paths(beam.tokens for beam in live)
            beams, given = dict(zip(tree.leaves(), live, strict=True)), len(tree)
            layers = yield from self._draft(text, tree, beams, draft)
            p = yield target.read(tree)
            rounds.append((depth, len(layers), len(tree) - given))
            live, over = self._verify(text, beams, layers, p, text.start + depth)
            ended += over
        best = max(ended + live, key=lambda beam: beam.joint)  # the first of equals
        return list(rounds_of(best, rounds))

    def _draft(
        self, text: Text, tree: Tree, beams: Mapping[int, Beam], draft: Reader
    ) -> Generator[Read, Law, list[Layer]]:
        """Add up to gamma layers below `beams`; nodes that end the text are not drafted further."""
        weights = {node: beam.joint if self.start == "target" else 0.0 for node, beam in beams.items()}
        depth, layers = tree.depths[max(beams)], list[Layer]()
        start = text.start + depth
        for position in range(start, start + min(self.gamma, text.room - depth - 1)):
            q = yield draft.read(tree)
            law = pair_law(q, weights)
            if text.greedy:
                drawn = largest(law, self.width)
            else:
                drawn = [law.draw(ROOT, text.luck.draft(position, start, i)) for i in range(self.width)]
            nodes = {pair: tree.add(*divmod(pair, PARENT)) for pair in dict.fromkeys(drawn)}
            layers.append(Layer(law, drawn, nodes))
            grown, edges = [node for node in nodes.values() if tree.tokens[node] not in text.eos], q.edges(tree)
            if not grown:
                break
            weights = {node: weights[tree.parents[node]] + edges[node] for node in grown}
        return layers

    def _verify(
        self, text: Text, beams: Mapping[int, Beam], layers: list[Layer], p: Law, start: int
    ) -> tuple[list[Beam], list[Beam]]:
        """The beams that live on after the round, all of one length, and those that ended in it."""
        ended = list[Beam]()
        for position, layer in enumerate([*layers, None], start):
            law = pair_law(p, {node: beam.joint for node, beam in beams.items()})
            enough, kept = (self._ranked if text.greedy else self._accepted)(text, law, layer, position, start)
            live = dict[int, Beam]()
            for pair, source in kept.items():
                parent, token = divmod(pair, PARENT)
                beam = beams[parent].extended(token, source, float(p.of(parent, np.array([token]))[0]))
                if text.ends(beam.tokens):
                    ended.append(beam)
                else:
                    live[pair] = beam
            if not enough or not live or layer is None:
                break
            beams = {layer.nodes[pair]: beam for pair, beam in live.items()}
        return list(live.values()), ended

    def _accepted(self, text: Text, p: Law, layer: Layer | None, position: int, start: int) -> tuple[bool, Kept]:
        """Whether a layer accepts enough of its drafts, and the pairs it keeps; where nothing is drafted, from P."""
        kept, residual, source = Kept(), np.exp(p.logp[ROOT]), Source.TARGET
        if layer:
            q = np.exp(layer.law.of(ROOT, p.row(ROOT)[0]))
            at_least_n = accepted_law(residual, q, len(layer.drawn))[::-1].cumsum()[::-1]
            need = max(self.min_width, int(np.flatnonzero(at_least_n >= self.tau).max(initial=0)))
            drawn = places(p, layer.drawn)
            accepted, residual = accept(residual, q, drawn, need, lambda i: text.luck.accept(position, start, i))
            kept, source = {layer.drawn[i]: Source.DRAFT for i in accepted}, Source.CORRECTED
            if len(accepted) == need and len(kept) >= min(self.min_width, len(q)):
                return True, kept
        pairs, weights = p.row(ROOT)[0], np.exp(p.logp[ROOT])
        kept.setdefault(int(pairs[inverse_cdf(residual, text.luck.last(position))]), source)
        weights[places(p, list(kept))] = 0.0
        for index in range(min(self.width - len(kept), int(np.count_nonzero(weights)))):
            pick = inverse_cdf(weights, text.luck.draft(position, start, self.width + index))
            kept[int(pairs[pick])], weights[pick] = Source.TARGET, 0.0
        return False, kept

    def _ranked(self, text: Text, p: Law, layer: Layer | None, position: int, start: int) -> tuple[bool, Kept]:
        """The same without draws: P's largest pairs, of which those from the top that were drafted are accepted."""
        ranking = largest(p, self.width)
        drawn = layer.drawn if layer else []
        agreed = next((n for n, pair in enumerate(ranking) if pair not in drawn), len(ranking))
        enough = agreed >= self.min_width
        kept = {pair: Source.DRAFT if n < agreed else Source.TARGET for n, pair in enumerate(ranking)}
        return enough, {pair: kept[pair] for pair in ranking[: agreed if enough else self.width]}


def pair_law(law: Law, beams: Mapping[int, float]) -> Law:
    """The law of the next pair below `beams`, node -> joint log-weight; one row, its support only, pairs ascending."""
    nodes = sorted(beams)
    rows = [law.row(node) for node in nodes]
    pairs = np.concatenate([node * PARENT + tokens for node, (tokens, _) in zip(nodes, rows, strict=True)])
    logw = np.concatenate([beams[node] + logp for node, (_, logp) in zip(nodes, rows, strict=True)])
    return Law(pairs[None], (logw - np.logaddexp.reduce(logw))[None])


def places(law: Law, pairs: Sequence[int]) -> list[int]:
    """The column of each pair in a law of pairs, -1 outside its support."""
    ids = law.row(ROOT)[0]
    found = np.searchsorted(ids, pairs).clip(max=len(ids) - 1)
    return [int(place) for place in np.where(ids[found] == pairs, found, -1)]


def largest(law: Law, count: int) -> list[int]:
    """The most probable pairs; equal ones by parent, then by token id."""
    ids, logp = law.row(ROOT)
    return [int(pair) for pair in ids[np.argsort(-logp, kind="stable")[:count]]]


def accept(
    p: np.ndarray, q: np.ndarray, drawn: Sequence[int], need: int, uniform: Callable[[int], float]
) -> tuple[list[int], np.ndarray]:
    """Which of pairs drawn from q with replacement are accepted, at most `need`, and what the next is to be drawn from.

    Args:
        p, q: probabilities of the pairs that the target may keep; q may sum to less than 1.
        drawn: where each drafted pair stands in them, -1 if the target may not keep it.
    """
    accepted, residual = list[int](), p
    for index, place in enumerate(drawn):
        if len(accepted) == need:
            break
        if place >= 0 and uniform(index) < residual[place] / q[place]:
            accepted.append(index)
            residual = p
        else:
            residual = refused(p, q, residual)
    return accepted, residual


def accepted_law(p: np.ndarray, q: np.ndarray, draws: int) -> np.ndarray:
    """Probability that 0, 1, ..., `draws` of so many drafts are accepted, float64 [draws + 1]."""
    residual, none, first, laws = p, 1.0, list[float](), [np.ones(1)]
    for draw in range(1, draws + 1):
        chance = float(np.minimum(residual, q).sum())
        first.append(none * chance)  # that this one is the first to be accepted
        none *= 1.0 - chance
        law = np.zeros(draw + 1)
        law[0] = none
        for i, probability in enumerate(first, 1):
            law[1 : draw - i + 2] += probability * laws[draw - i]
        laws.append(law)
        residual = refused(p, q, residual)
    return laws[-1]


def refused(p: np.ndarray, q: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The residual after one more refusal; p where nothing is left."""
    left = np.maximum(residual - q, 0.0)
    return left / left.sum() if left.any() else p


def joint(beams: Sequence[Beam]) -> float:
    """The highest joint log p."""
    return max((beam.joint for beam in beams), default=-np.inf)


def rounds_of(beam: Beam, rounds: Sequence[tuple[int, int, int]]) -> Iterator[Round]:
    """The rounds in which a beam grew; `rounds` holds depth at the beginning, drafted layers and drafted nodes."""
    for (depth, drafted, nodes), (end, _, _) in pairwise([*rounds, (len(beam.tokens), 0, 0)]):
        tokens, sources = beam.tokens[depth:end], beam.sources[depth:end]
        if tokens:
            yield Round(tokens, sources, drafted, sources.count(Source.DRAFT), nodes)

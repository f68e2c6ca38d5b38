"""How far a decoder's blocks are from the best ones: what each round chose beside the exact optimum from the same text.

The best block is that of an exact search, of the same length and under the same law as the decoder's: the joint law
after temperature, top-k and top-p, or the raw one where `mjgd` asks for it. An end token is absorbing in the search: a
block that ends in one is complete, and competes with those of full length. So the decoder's own block is always among
the candidates, and its gap is never negative, but for float noise and for searches that ran out of budget.

Two blocks of a round are compared: the *accepted* draft tokens, which are what the decoder promises something of, and
all that it *emitted*, one more token from the target included. A block that a stop string has cut was decided as a
longer one; it is left out and counted. The limit cuts no block of these decoders, since they draft no further than it.

Knows decoders, sessions and token ids; refuses to know rows, runs and clocks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log
from typing import TypeGuard, TypeVar

import numpy as np

from mtad.decoder import Decoder, Text
from mtad.law import RAW, Law, Sampling
from mtad.luck import Luck
from mtad.mjgd import Mjgd
from mtad.mtad import Mmtad, Mtad
from mtad.options import at_least
from mtad.serving import serve
from mtad.session import Read, Reader, Session
from mtad.tree import Tree

NOTHING_ACCEPTED = "no draft token was accepted"
ALL_CHOSEN = "the search chooses all of a block, there is no token after it"
IMPOSSIBLE = "read anew, a token of the block falls just outside the truncated law"
NO_PROMISE_TAU = "tau=0 promises nothing"
NO_PROMISE_REFERENCE = "reference=final measures a node against the joint q of another"
NO_PROMISE_MJGD = "no draft is tested against a threshold"

T = TypeVar("T")


@dataclass(frozen=True)
class ApproximationSettings:
    """What the pass over the rounds may cost.

    Attributes:
        budget: an exact search expands at most so many prefixes; then the gap is a lower bound, and not proven.
        rounds: at most so many of a text, evenly spread; None takes all.
    """

    budget: int = 4096
    rounds: int | None = None

    def __post_init__(self) -> None:
        at_least("budget", self.budget, 1)
        if self.rounds is not None:
            at_least("rounds", self.rounds, 1)


@dataclass(frozen=True)
class Decided:
    """What a round has written.

    Attributes:
        index: of the round in its text.
        start: how many tokens of the output stand before it.
        tokens: what it appended.
        accepted: how many of these are accepted draft tokens.
        room: how many it might have written.
    """

    index: int
    start: int
    tokens: tuple[int, ...]
    accepted: int
    room: int


@dataclass(frozen=True)
class Compared:
    """A block beside the best one of its length; natural logarithms of joint probabilities.

    Attributes:
        length: that was searched; an end token makes shorter blocks complete.
        gap: best_log_p - log_p; None for the reason given.
        proven: the best one is, because the search ended within its budget.
        shortfall: if not proven, how much more probable the best block may be at most; else 0.
        forwards: target forwards that the search took; what the round's earlier search has read is not read again.
    """

    length: int
    log_p: float | None
    best_log_p: float
    gap: float | None
    proven: bool
    shortfall: float
    forwards: int
    reason: str | None = None


@dataclass(frozen=True)
class Measured:
    """One round; fields as in approximation.jsonl.

    Attributes:
        entropy: of the first token's law, in nats.
        log_q: joint log-probability of the accepted block under the draft model.
        bound: what acceptance guarantees that the accepted block's gap is below: best_log_p - log_q - log tau.
    """

    round: int
    entropy: float
    emitted: Compared
    accepted: Compared | None
    accepted_reason: str | None
    log_q: float | None
    bound: float | None
    bound_reason: str | None


def measurable(decoder: Decoder) -> TypeGuard[Mtad | Mjgd]:
    """Whether this knows what the decoder's blocks are."""
    return isinstance(decoder, Mtad | Mjgd)


def was_cut(decoder: Mtad | Mjgd, step: Decided, eos: frozenset[int]) -> bool:
    """Whether a stop string cut the block."""
    if step.tokens[-1] in eos:
        return False
    if isinstance(decoder, Mjgd):
        return len(step.tokens) < min(decoder.gamma, step.room)
    return step.accepted == len(step.tokens)  # else one more token would follow


def spread(count: int, most: int | None) -> list[int]:
    """Which of `count` rounds are measured: all, or `most` of them at even distances."""
    if most is None or count <= most:
        return list(range(count))
    return [int((i + 0.5) * count / most) for i in range(most)]


class Yardstick:
    """Exact search beside one decoder on a pair; not thread-safe, for it uses the models' caches.

    Attributes:
        law: the one that blocks are compared under, `raw` or `warped`.

    `mjgd` is searched for as it searches itself, assisted or not, so that its forwards are those of its decoding;
    for all others the search is unassisted.
    """

    def __init__(
        self,
        decoder: Mtad | Mjgd,
        sampling: Sampling,
        target: Session,
        draft: Session,
        eos: frozenset[int],
        budget: int,
    ) -> None:
        self.decoder, self.eos = decoder, eos
        own = decoder if isinstance(decoder, Mjgd) else Mjgd(assist="none")
        self._search = replace(own, search="exact", assist=own.assist if own.drafts else "none", budget=budget)
        self._sessions = (target, draft) if isinstance(decoder, Mtad) or own.drafts else (target,)
        self.law = self._search.law
        warp = RAW if self.law == "raw" else sampling.warp(joint=True)
        self._target, self._draft = Reader(target, warp), Reader(draft, warp)

    def text(self, prompt: Sequence[int], steps: Sequence[Decided], chosen: Sequence[int]) -> Iterator[Measured]:
        """Measure the `chosen` ones of a text's rounds, given in order."""
        for session in self._sessions:
            session.open(prompt, sum(len(step.tokens) for step in steps))
        for step in steps:
            if step.index in chosen:
                yield self._round(step)
            for session in self._sessions:
                session.commit(step.tokens)

    def _round(self, step: Decided) -> Measured:
        if isinstance(self.decoder, Mjgd):  # a short block that ends the text has won against blocks of full length
            emitted = self._compare(step.tokens, min(self.decoder.gamma, step.room))
            entropy = self._entropy()
            return Measured(step.index, entropy, emitted, None, ALL_CHOSEN, None, None, NO_PROMISE_MJGD)
        emitted = self._compare(step.tokens, len(step.tokens))
        entropy = self._entropy()
        if not step.accepted:
            return Measured(step.index, entropy, emitted, None, NOTHING_ACCEPTED, None, None, NOTHING_ACCEPTED)
        block = step.tokens[: step.accepted]
        accepted = emitted if len(block) == len(step.tokens) else self._compare(block, len(block))
        log_q = self._joint(self._draft, block)
        no_promise = unpromised(self.decoder)
        if not isfinite(log_q):
            return Measured(step.index, entropy, emitted, accepted, None, None, None, no_promise or IMPOSSIBLE)
        bound = None if no_promise else accepted.best_log_p - log_q - log(self.decoder.tau)
        return Measured(step.index, entropy, emitted, accepted, None, log_q, bound, no_promise)

    def _compare(self, block: tuple[int, ...], length: int) -> Compared:
        """Beside the best block of `length`; searched for first, so that the search reads all that it needs itself."""
        counts = self._target.session.counts
        before = counts.forwards
        search = replace(self._search, gamma=length)
        luck = Luck(0, "an exact search draws nothing")
        text = Text(self._target.session.text, length, self.eos, luck, greedy=True, ends=lambda new: False)
        found = _served(search.round(text, self._target, self._draft))
        forwards = counts.forwards - before
        assert found.proof is not None, "the search is exact"
        best, ours = self._joint(self._target, found.tokens), self._joint(self._target, block)
        possible = isfinite(ours)
        return Compared(
            length=length,
            log_p=ours if possible else None,
            best_log_p=best,
            gap=best - ours if possible else None,
            proven=found.proof.proven,
            shortfall=found.proof.shortfall,
            forwards=forwards,
            reason=None if possible else IMPOSSIBLE,
        )

    def _joint(self, reader: Reader, block: Sequence[int]) -> float:
        """Joint log-probability of a block; its last token is not read, so that a next round starts as in decoding."""
        chain = Tree.chain(block[:-1])
        law = _served(_once(reader, chain))
        whole = Tree.chain(block)
        return float(whole.joint(law)[-1])

    def _entropy(self) -> float:
        _, logp = _served(_once(self._target, Tree())).row(0)
        return float(-(np.exp(logp) * logp).sum())


def unpromised(decoder: Mtad) -> str | None:
    """Why acceptance by this decoder bounds no gap; None if it does."""
    if decoder.tau == 0:
        return NO_PROMISE_TAU
    return NO_PROMISE_REFERENCE if isinstance(decoder, Mmtad) and decoder.reference == "final" else None


def _once(reader: Reader, tree: Tree) -> Generator[Read, Law, Law]:
    return (yield reader.read(tree))


def _served(reads: Generator[Read, Law, T]) -> T:
    """What a generator of reads returns, each of its reads served by itself."""
    try:
        read = next(reads)
        while True:
            read = reads.send(serve([read])[0])
    except StopIteration as end:
        value: T = end.value
        return value

"""What a decoder is.

A decoder of rounds reads, decides and returns a `Round`; a decoder of whole texts writes a text by itself. Neither
commits, truncates, stops, times or counts: `mtad.generate` does. Both kinds are generators that yield the reads they
need, so that a scheduler can serve the reads of many texts in one forward. An engine is other people's code, which
reads by itself; it is measured by the same ruler.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from mtad.counts import Counts
from mtad.law import Law
from mtad.luck import Luck
from mtad.session import Read, Reader

Note = float | int | str | bool | None


class Source(StrEnum):
    """Where a token came from."""

    DRAFT = "draft"  # drafted, and accepted by the target
    TARGET = "target"  # chosen by the target on its own
    CORRECTED = "corrected"  # drawn by the target in place of a refused draft token


@dataclass(frozen=True)
class Proof:
    """The certificate of an exact search for the best block.

    Attributes:
        proven: the search ended within its budget, so the block is the argmax.
        lead: lower bound, in nats, of the block's lead over the runner-up; None if there is no other block.
        decisive: whether the lead exceeds what the logits' tolerance can move; under a truncated law this holds up to
            tokens at the very edge of the truncation.
        shortfall: if not proven, how much more probable (nats) the best open prefix is than the block; else 0.
        expansions: prefixes that the search took from its queue, bounded by the budget.
    """

    proven: bool
    lead: float | None
    decisive: bool
    shortfall: float
    expansions: int


@dataclass(frozen=True)
class Round:
    """What one round decided.

    Attributes:
        tokens: the new tokens, at least one.
        sources: where each came from.
        drafted: length of the draft (depth of its tree) in tokens.
        accepted: how many of the new tokens, counted from the first, are accepted draft tokens.
        nodes: different drafted nodes that the target was asked about.
        proof: the certificate of an exact search.
        notes: what else this kind of decoder has to say.
    """

    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    drafted: int = 0
    accepted: int = 0
    nodes: int = 0
    proof: Proof | None = None
    notes: Mapping[str, Note] = field(default_factory=dict)

    def cut(self, length: int) -> Round:
        """The round with only its first `length` tokens, as emitted."""
        if length == len(self.tokens):
            return self
        return replace(
            self, tokens=self.tokens[:length], sources=self.sources[:length], accepted=min(self.accepted, length)
        )


@dataclass(frozen=True)
class Text:
    """What a round may know of the text it continues.

    Attributes:
        tokens: prompt and output so far; not to be changed.
        room: how many tokens may still be written; no draft needs to be deeper.
        eos: ids that end the text; empty under `ignore_eos`.
        luck: the uniforms of this text.
        greedy: last tokens are taken by argmax, beams by search.
        ends: whether the text would end with the last of some new tokens (end token or stop string).
        stop: the stop strings, for engines that cannot ask `ends`.
    """

    tokens: Sequence[int]
    room: int
    eos: frozenset[int]
    luck: Luck
    greedy: bool
    ends: Callable[[Sequence[int]], bool]
    stop: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The position of the next token."""
        return len(self.tokens)


Rounds = Generator[Read, Law, Round]


@runtime_checkable
class RoundDecoder(Protocol):
    """A decoder that works in rounds.

    Attributes:
        joint: decides by joint probabilities (see `Sampling.warp`).
        drafts: needs the draft model.
        lossless: samples the target's own law, and under greedy sampling writes what autoregressive decoding writes.
    """

    @property
    def joint(self) -> bool: ...

    @property
    def drafts(self) -> bool: ...

    @property
    def lossless(self) -> bool: ...

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        """One pure round: ``law = yield target.read(tree)``, decide, return a `Round`."""


@runtime_checkable
class WholeDecoder(Protocol):
    """A decoder that writes a whole text by itself; attributes as in `RoundDecoder`."""

    @property
    def joint(self) -> bool: ...

    @property
    def drafts(self) -> bool: ...

    @property
    def lossless(self) -> bool: ...

    def write(self, text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        """All rounds of the text; whatever they hold past the end is cut."""


@dataclass(frozen=True)
class Written:
    """A text as an engine wrote it, and what it took.

    Attributes:
        rounds: up to the end of the text or beyond; what is beyond is cut.
        target, draft: the forwards behind these rounds, prefill not counted.
        prefill_seconds: how much of the time was spent on reading the prompt but its last token, with both models.
        prepare_seconds: how much was spent on what serves all texts, such as compiling; no text is charged for it.
    """

    rounds: Sequence[Round]
    target: Counts
    draft: Counts
    prefill_seconds: float
    prepare_seconds: float = 0.0


@runtime_checkable
class Engine(Protocol):
    """Code of others that writes a whole text in one go, with caches of its own; attributes as in `RoundDecoder`.

    It cannot share forwards with other texts. Of the readers it may use the warp and the session's model, no reads.
    """

    @property
    def joint(self) -> bool: ...

    @property
    def drafts(self) -> bool: ...

    @property
    def lossless(self) -> bool: ...

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        """Write until ``text.ends(new tokens)`` or the room is used up; may raise UserError before the first token."""


Decoder = RoundDecoder | WholeDecoder | Engine
Write = Callable[[Text, Reader, Reader], Generator[Read, Law, Sequence[Round]]]

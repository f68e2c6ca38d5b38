"""What a decoder is, and `generate`, which runs one.

A decoder of rounds reads, decides and returns a `Round`; a decoder of whole texts writes a text by itself. Neither
commits, truncates, stops, times or counts: `generate` alone owns the prompt, the commits on both sessions, the set of
end tokens, stop strings, the limit and the counters. Both kinds are generators that yield the reads they need, so
that a scheduler can serve the reads of many texts in one forward (`drive`).

Knows token ids, and text only to find stop strings in it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from time import perf_counter
from typing import Protocol, runtime_checkable

from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.session import Counts, Read, Reader, Session, serve

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
        decisive: whether the lead exceeds the logits' tolerance.
        shortfall: if not proven, how much more probable (nats) the best open prefix is than the block; else 0.
        expansions: prefixes whose laws the search used.
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
        nodes: drafted nodes that the target was asked about.
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
        ends: whether an output, given as all its tokens after the present text, ends here (end token or stop string).
    """

    tokens: Sequence[int]
    room: int
    eos: frozenset[int]
    luck: Luck
    greedy: bool
    ends: Callable[[Sequence[int]], bool]

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
    """

    @property
    def joint(self) -> bool: ...

    @property
    def drafts(self) -> bool: ...

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        """One pure round: ``law = yield target.read(tree)``, decide, return a `Round`."""


@runtime_checkable
class WholeDecoder(Protocol):
    """A decoder that writes a whole text by itself; attributes as in `RoundDecoder`."""

    @property
    def joint(self) -> bool: ...

    @property
    def drafts(self) -> bool: ...

    def write(self, text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        """All rounds of the text; whatever they hold past the end is cut."""


Decoder = RoundDecoder | WholeDecoder
Write = Callable[[Text, Reader, Reader], Generator[Read, Law, Sequence[Round]]]


@dataclass(frozen=True)
class Limits:
    """When a text ends.

    Attributes:
        max_new_tokens: at most so many tokens, >= 1.
        eos: ids that end a text; the one met is emitted and counted.
        stop: strings that end a text; the token that completes one is emitted and counted, the text is cut before it.
        ignore_eos: write up to the limit whatever comes (for fixed-length arms).
    """

    max_new_tokens: int
    eos: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be >= 1, not {self.max_new_tokens}")
        if "" in self.stop:
            raise UserError("a stop string must not be empty")


@dataclass(frozen=True)
class Output:
    """A generated text and what it took.

    Attributes:
        tokens: emitted ids, cut at the end token (included), stop string or limit: the one ruler for tokens.
        text: the tokens as text, end token and stop string left out.
        finish: "eos", "stop" or "limit".
        rounds: as emitted, that is, the last one cut.
        target, draft: forwards, nodes and seconds of the two sessions, prefill not counted.
        prefill_seconds, decode_seconds: wall clock, device synchronised at both edges.
        commit_seconds: the part of `decode_seconds` spent in commits.
    """

    tokens: tuple[int, ...]
    text: str
    finish: str
    rounds: tuple[Round, ...]
    target: Counts
    draft: Counts
    prefill_seconds: float
    decode_seconds: float
    commit_seconds: float


Detokenise = Callable[[Sequence[int]], str]


def generate(
    decoder: Decoder,
    target: Session,
    draft: Session,
    prompt: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    luck: Luck,
    detokenise: Detokenise,
) -> Output:
    """Continue `prompt` with `decoder`.

    Raises:
        UserError: prompt and limit exceed the maximum positions of the pair.
    """
    return drive([writing(decoder, target, draft, prompt, limits, sampling, luck, detokenise)])[0]


def drive(texts: Sequence[Generator[Read, Law, Output]]) -> list[Output]:
    """Advance several texts together: the reads that they wait for are served in one forward per model."""
    outputs: dict[int, Output] = {}
    waiting: dict[int, Read] = {}

    def resume(i: int, law: Law | None) -> None:
        try:
            waiting[i] = next(texts[i]) if law is None else texts[i].send(law)
        except StopIteration as end:
            outputs[i] = end.value

    for i in range(len(texts)):
        resume(i, None)
    while waiting:
        served, reads = list(waiting), list(waiting.values())
        waiting.clear()
        for i, law in zip(served, serve(reads), strict=True):
            resume(i, law)
    return [outputs[i] for i in range(len(texts))]


def writing(
    decoder: Decoder,
    target: Session,
    draft: Session,
    prompt: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    luck: Luck,
    detokenise: Detokenise,
) -> Generator[Read, Law, Output]:
    """`generate` as a generator of reads, for `drive`."""
    sessions = (target, draft) if decoder.drafts else (target,)
    if decoder.drafts and target.model is draft.model and target.row == draft.row:
        raise ValueError("target and draft need a cache row each")
    longest = min(session.model.max_positions for session in sessions)
    if len(prompt) + limits.max_new_tokens > longest:
        raise UserError(
            f"prompt ({len(prompt)} tokens) and max_new_tokens ({limits.max_new_tokens}) exceed the {longest} "
            f"positions of the pair; shorten the prompt or lower max_new_tokens"
        )
    ending = Ending(limits, detokenise)
    started = perf_counter()
    for session in sessions:
        session.open(prompt)
        session.model.synchronise()
    prefilled = perf_counter()
    warp = sampling.warp(decoder.joint)
    write = _one_round(decoder) if isinstance(decoder, RoundDecoder) else decoder.write
    readers = Reader(target, warp), Reader(draft, warp)
    output: list[int] = []
    rounds: list[Round] = []
    finish, commit_seconds = None, 0.0
    while finish is None:
        text = Text([*prompt, *output], limits.max_new_tokens - len(output), ending.eos, luck, sampling.greedy, ending)
        for step in (yield from write(text, *readers)):
            length, finish = ending.cut(output, step.tokens)
            rounds.append(step.cut(length))
            output += rounds[-1].tokens
            if finish:
                break
        else:
            committing = perf_counter()
            fresh = output[len(text.tokens) - len(prompt) :]
            for session in sessions:
                session.commit(fresh)
            commit_seconds += perf_counter() - committing
    target.model.synchronise()
    decode_seconds = perf_counter() - prefilled
    return Output(
        tokens=tuple(output),
        text=ending.text(output),
        finish=finish,
        rounds=tuple(rounds),
        target=target.counts,
        draft=draft.counts if decoder.drafts else Counts(),
        prefill_seconds=prefilled - started,
        decode_seconds=decode_seconds,
        commit_seconds=commit_seconds,
    )


def _one_round(decoder: RoundDecoder) -> Write:
    """A decoder of rounds in the shape of one of whole texts."""

    def write(text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        return [(yield from decoder.round(text, target, draft))]

    return write


class Ending:
    """Where an output ends: the end tokens, the stop strings and the limit, checked on whole blocks."""

    def __init__(self, limits: Limits, detokenise: Detokenise) -> None:
        self.limits = limits
        self.eos = frozenset() if limits.ignore_eos else limits.eos
        self._detokenise = detokenise
        # Every token but a special one spells at least a byte, so a stop string lies within so many last tokens; four
        # more keep apart the first token, whose leading space some tokenizers drop.
        self._reach = max((len(stop.encode()) for stop in limits.stop), default=0) + 4

    def __call__(self, output: Sequence[int]) -> bool:
        """Whether an output ends with its last token."""
        return bool(output) and (output[-1] in self.eos or self._stops(output, 1))

    def cut(self, output: Sequence[int], block: Sequence[int]) -> tuple[int, str | None]:
        """How much of `block` after `output` is emitted, and the reason if the text ends there."""
        if not block:
            raise RuntimeError("a decoder returned a round without tokens")
        length, finish = len(block), None
        room = self.limits.max_new_tokens - len(output)
        if length >= room:
            length, finish = room, "limit"
        for i, token in enumerate(block[:length]):
            if token in self.eos:
                length, finish = i + 1, "eos"
                break
        if self._stops([*output, *block[:length]], length):
            for end in range(1, length + 1):
                if self._stops([*output, *block[:end]], end):
                    return end, "stop"
        return length, finish

    def text(self, output: Sequence[int]) -> str:
        """The output as text, without the end token and from the first stop string on."""
        if output and output[-1] in self.eos:
            output = output[:-1]
        text = self._detokenise(output)
        return text[: min((text.find(stop) for stop in self.limits.stop if stop in text), default=len(text))]

    def _stops(self, output: Sequence[int], fresh: int) -> bool:
        """Whether a stop string ends within the last `fresh` tokens."""
        if not self.limits.stop:
            return False
        tail = self._detokenise(output[-(fresh + self._reach) :])
        return any(stop in tail for stop in self.limits.stop)

"""`generate` runs a decoder: it alone owns the prompt, the commits, the end, the limit and the counters.

`drive` advances several texts together, the reads that they wait for in one forward per model. Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeVar

from mtad.counts import Counts
from mtad.decoder import Decoder, Engine, Round, RoundDecoder, Text, Write
from mtad.ending import Detokenise, Ending, Limits
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.recording import Recording, Step
from mtad.serving import serve
from mtad.session import Read, Reader, Session

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """A generated text and what it took.

    Attributes:
        tokens: emitted ids, cut at the end token (included), stop string or limit: the one ruler for tokens.
        text: the tokens as text, end token and stop string left out.
        finish: "eos", "stop" or "limit".
        rounds: as emitted, that is, the last one cut.
        target, draft: what the two sessions did, prefill not counted.
        prefill_seconds, decode_seconds: wall clock, device synchronised at both edges; the search for stop strings,
            which turns tokens into text, is left out, and so is what an engine does once for all texts.
        steps: what was read and committed, in order; None of an engine, which reads by itself.
    """

    tokens: tuple[int, ...]
    text: str
    finish: str
    rounds: tuple[Round, ...]
    target: Counts
    draft: Counts
    prefill_seconds: float
    decode_seconds: float
    steps: tuple[Step, ...] | None = None

    @property
    def phases(self) -> dict[str, float | None]:
        """`decode_seconds` split: in forwards of `target` and `draft`, in commits, and `decide`, all else.

        The first three are by the device's clock: on a GPU CUDA events, so that no forward is waited for. None where
        an engine's forwards were not timed one by one.
        """
        target, draft = self.target.seconds, self.draft.seconds
        commit = self.target.commit_seconds + self.draft.commit_seconds
        decide = None if target is None or draft is None else self.decode_seconds - target - draft - commit
        return {"target": target, "draft": draft, "decide": decide, "commit": commit}


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


def drive(texts: Sequence[Generator[Read, Law, T]]) -> list[T]:
    """Advance several texts together: the reads that they wait for are served in one forward per model."""
    outputs: dict[int, T] = {}
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
    sessions = _sessions(decoder, target, draft, len(prompt), limits.max_new_tokens)
    if isinstance(decoder, Engine):
        return _run(decoder, target, draft, prompt, limits, sampling, luck, detokenise)
    ending = Ending(limits, detokenise)
    started = perf_counter()
    for session in sessions:
        session.open(prompt, limits.max_new_tokens)
        session.model.synchronise()
    prefilled = perf_counter()
    warp = sampling.warp(decoder.joint)
    write = _one_round(decoder) if isinstance(decoder, RoundDecoder) else decoder.write
    readers = Reader(target, warp), Reader(draft, warp)
    recording = Recording(draft, warp)
    output: list[int] = []
    rounds: list[Round] = []
    finish = None
    whole = [*prompt]  # one list for all rounds, which grows: a round costs as much as its block, not as its text
    text = Text(whole, limits.max_new_tokens, ending.eos, luck, sampling.greedy, partial(_ends, ending, output))
    while finish is None:
        start = len(output)
        asking = write(replace(text, room=limits.max_new_tokens - start), *readers)
        for step in (yield from recording.of(asking, len(rounds))):
            length, finish = ending.cut(output, step.tokens)
            rounds.append(step.cut(length))
            output += rounds[-1].tokens
            if finish:
                break
        else:
            fresh = output[start:]
            whole += fresh
            for session in sessions:
                session.commit(fresh)
    for session in sessions:
        session.model.synchronise()
    decode_seconds = perf_counter() - prefilled - ending.seconds
    return Output(
        tokens=tuple(output),
        text=ending.text(output),
        finish=finish,
        rounds=tuple(rounds),
        target=target.counts,
        draft=draft.counts if decoder.drafts else Counts(),
        prefill_seconds=prefilled - started,
        decode_seconds=decode_seconds,
        steps=recording.steps(rounds),
    )


def _run(
    engine: Engine,
    target: Session,
    draft: Session,
    prompt: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    luck: Luck,
    detokenise: Detokenise,
) -> Output:
    """A text by an engine: under the same clock, cut by the same ruler; the sessions stay as they are."""
    ending = Ending(limits, detokenise)
    warp = sampling.warp(engine.joint)
    ends = partial(_ends, ending, [])
    text = Text(prompt, limits.max_new_tokens, ending.eos, luck, sampling.greedy, ends, limits.stop)
    models = (target.model, draft.model) if engine.drafts else (target.model,)
    started = perf_counter()
    written = engine.run(text, Reader(target, warp), Reader(draft, warp))
    for model in models:
        model.synchronise()
    seconds = perf_counter() - started - ending.seconds - written.prepare_seconds
    output: list[int] = []
    rounds: list[Round] = []
    finish = None
    for step in written.rounds:
        length, finish = ending.cut(output, step.tokens)
        rounds.append(step.cut(length))
        output += rounds[-1].tokens
        if finish:
            break
    if finish is None:
        raise RuntimeError(f"{type(engine).__name__} stopped before the text ended")
    return Output(
        tokens=tuple(output),
        text=ending.text(output),
        finish=finish,
        rounds=tuple(rounds),
        target=written.target,
        draft=written.draft,
        prefill_seconds=written.prefill_seconds,
        decode_seconds=seconds - written.prefill_seconds,
    )


def _sessions(decoder: Decoder, target: Session, draft: Session, prompt: int, new: int) -> tuple[Session, ...]:
    """The sessions that the decoder needs, after a check that the text fits both models."""
    longest = min(session.model.max_positions for session in (target, draft))
    if prompt + new > longest:
        raise UserError(
            f"prompt ({prompt} tokens) and max_new_tokens ({new}) exceed the {longest} positions of the pair; "
            f"shorten the prompt or lower max_new_tokens"
        )
    if not decoder.drafts:
        return (target,)
    if target.model is draft.model and target.row == draft.row:
        raise ValueError("target and draft need a cache row each")
    return target, draft


def _ends(ending: Ending, output: Sequence[int], new: Sequence[int]) -> bool:
    """Whether `output`, which may have grown since, ends with the last of some new tokens."""
    return ending([*output, *new] if ending.limits.stop or not new else new)


def next_round(
    decoder: RoundDecoder,
    target: Session,
    draft: Session,
    prompt: Sequence[int],
    written: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    luck: Luck,
    detokenise: Detokenise,
) -> tuple[int, ...]:
    """The tokens of the one round that follows `written`, which follows `prompt`; cut where the text ends."""
    ending, whole, output = Ending(limits, detokenise), [*prompt, *written], list(written)
    room = limits.max_new_tokens - len(written)
    for session in (target, draft)[: 1 + decoder.drafts]:
        session.open(whole, room)
    text = Text(whole, room, ending.eos, luck, sampling.greedy, partial(_ends, ending, output))
    warp = sampling.warp(decoder.joint)
    step = drive([decoder.round(text, Reader(target, warp), Reader(draft, warp))])[0]
    return step.tokens[: ending.cut(output, step.tokens)[0]]


def _one_round(decoder: RoundDecoder) -> Write:
    """A decoder of rounds in the shape of one of whole texts."""

    def write(text: Text, target: Reader, draft: Reader) -> Generator[Read, Law, Sequence[Round]]:
        return [(yield from decoder.round(text, target, draft))]

    return write

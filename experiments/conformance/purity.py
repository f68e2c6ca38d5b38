"""Checks of a round: it yields tokens within its room, its accounts add up, and it leaves everything as it was."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from experiments.build import build
from experiments.conformance.finding import Finding, Subject, inapplicable, judged
from experiments.conformance.laws import PAIRS
from experiments.conformance.models import TableModel
from experiments.conformance.texts import GREEDY, PURE, write
from mtad.decoder import Decoder, Engine, Round, RoundDecoder, Rounds, Source, Text
from mtad.errors import UserError
from mtad.generate import drive
from mtad.luck import Luck
from mtad.session import Reader, Session

SEEDS = range(5)
LIMITS = (1, 2, 5, 17)


@dataclass(frozen=True)
class Watched:
    """A decoder of rounds, and what its rounds were given and returned; `faults` names the first rule each broke."""

    decoder: RoundDecoder
    faults: list[str] = field(default_factory=list)

    @property
    def joint(self) -> bool:
        return self.decoder.joint

    @property
    def drafts(self) -> bool:
        return self.decoder.drafts

    @property
    def lossless(self) -> bool:
        return self.decoder.lossless

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        """The decoder's own."""
        open_ = [target.session, draft.session] if self.drafts else [target.session]
        steps = self.decoder.round(text, target, draft)
        try:
            read = next(steps)
            while True:
                if not any(read.reader.session is session for session in open_):
                    self.faults.append("a round reads a session that is not open for it")
                read = steps.send((yield read))
        except StopIteration as end:
            step: Round = end.value
        self.faults.extend(broken(step, text.room))
        return step


def broken(step: Round, room: int) -> Iterator[str]:
    """What is wrong with a round as it was returned."""
    if not 1 <= len(step.tokens) <= room:
        yield f"a round of {len(step.tokens)} tokens, where {room} may be written"
    if len(step.sources) != len(step.tokens):
        yield f"{len(step.tokens)} tokens have {len(step.sources)} sources"
    if not 0 <= step.accepted <= min(step.drafted, len(step.tokens)):
        yield f"{step.accepted} tokens accepted of {step.drafted} drafted and {len(step.tokens)} emitted"
    if any(source is not Source.DRAFT for source in step.sources[: step.accepted]):
        yield "accepted tokens have another source than the draft"


def rounds(subject: Subject) -> Finding:
    """Every round yields from 1 to `room` tokens, reads open sessions only, and its counts add up to the output's."""
    decoder, texts, many = subject.make(), 0, 0
    if isinstance(decoder, Engine):
        return inapplicable("an engine's rounds are its own; what is emitted of them is checked by ends")
    watched = Watched(decoder) if isinstance(decoder, RoundDecoder) else None
    faults = watched.faults if watched else []
    for target, draft in PAIRS.values():
        for sampling, limit, seed in ((s, limit, n) for s in (PURE, GREEDY) for limit in LIMITS for n in SEEDS):
            found = write(
                watched or decoder,
                *(TableModel(target), TableModel(draft)),
                (1, 0),
                limit,
                [1] if seed % 2 else [],
                sampling=sampling,
                seed=subject.seed + seed,
            )
            texts, many = texts + 1, many + len(found.rounds)
            if [token for step in found.rounds for token in step.tokens] != list(found.tokens):
                faults.append("rounds do not add up to the output")
            if watched is None:
                faults += [fault for step in found.rounds for fault in broken(step, limit)]
    return judged(next(iter(faults), None), "rounds keep to their room and add up", texts=texts, rounds=many)


def purity(subject: Subject) -> Finding:
    """A round changes no session's text, no global generator and not itself; made again it is the same round."""
    decoder, fault, many = subject.make(), None, 0
    if isinstance(decoder, Engine):
        return inapplicable("an engine keeps caches and generators of its own")
    if not getattr(decoder, "__dataclass_params__", None) or not decoder.__dataclass_params__.frozen:  # type: ignore[union-attr]
        fault = "it is no frozen dataclass"
    for target, draft in PAIRS.values():
        for sampling, seed in ((sampling, seed) for sampling in (PURE, GREEDY) for seed in SEEDS):
            warp, tokens = sampling.warp(decoder.joint), [0, 1, 0]
            sessions = Session(TableModel(target)), Session(TableModel(draft))
            luck = Luck(subject.seed + seed, "prompt")
            text = Text(tokens, 9, frozenset(), luck, sampling.greedy, lambda new: False)
            made = []
            for _ in range(2):
                for session in sessions:
                    session.open(tokens, 9)
                before = _state(decoder)
                made.append(_made(decoder, text, *(Reader(session, warp) for session in sessions)))
                many += 1
                if changed := [what for what, value in _state(decoder).items() if value != before[what]]:
                    fault = fault or f"a round changes {changed[0]}"
                if any(session.text != [0, 1, 0] for session in sessions) or tokens != [0, 1, 0]:
                    fault = fault or "a round changes the text"
            if made[0] != made[1]:
                fault = fault or "the same round, made twice, differs"
    return judged(fault, "rounds leave everything as it was, and can be made again", rounds=many)


def _made(decoder: Decoder, text: Text, target: Reader, draft: Reader) -> Sequence[Round]:
    if isinstance(decoder, RoundDecoder):
        return drive([decoder.round(text, target, draft)])
    assert not isinstance(decoder, Engine)
    return list(drive([decoder.write(text, target, draft)])[0])


def _state(decoder: Decoder) -> dict[str, Any]:
    """What a round must leave as it was, comparable."""
    names = (
        [one.name for one in dataclasses.fields(decoder)] if dataclasses.is_dataclass(decoder) else list(vars(decoder))
    )
    return {
        "the state of Python's random": random.getstate(),
        "the state of numpy's random": str(np.random.get_state()),
        "the state of torch's random": torch.get_rng_state().tolist(),
        **{f"its own field {name}": copy.deepcopy(getattr(decoder, name)) for name in names},
    }


def options(subject: Subject) -> Finding:
    """An unknown option is refused, and so is a number that is none: each in one clear line."""
    asked = ["no_such_option"]
    faults = [] if _refused(subject, "no_such_option", 1) else ["an unknown option is taken"]
    for name, value in dataclasses.asdict(subject.make()).items():  # type: ignore[call-overload]
        if isinstance(value, float):
            asked.append(name)
            if not _refused(subject, name, float("nan")):
                faults.append(f"{name}=nan is taken")
    return judged(next(iter(faults), None), "illegal options are refused in one line", tried=len(asked))


def _refused(subject: Subject, name: str, value: object) -> bool:
    try:
        build(subject.name, {**subject.config, name: value})
    except UserError as error:
        return "\n" not in str(error)
    return False

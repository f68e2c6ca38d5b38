"""Checks on models that are sure: where a text ends, and what comes of a target that never or always agrees.

Where target and draft are sure of the same text there is only one text to write, lossless or not.
"""

from __future__ import annotations

from typing import Any

from experiments.conformance.engines import engine_ends
from experiments.conformance.finding import Finding, Subject, inapplicable, judged
from experiments.conformance.models import StubModel, TableModel
from experiments.conformance.texts import GREEDY, PURE, spell, write
from mtad.decoder import Decoder, Engine

LETTERS = 26
PLACES = range(1, 20)  # tokens after which a text is made to end: within, at the end of and across blocks
A, B = 0, 1
LIMIT = 20


def ring() -> TableModel:
    """Sure that after a letter comes the next of the alphabet; after z comes a."""
    return TableModel([[float(column == (row + 1) % LETTERS) for column in range(LETTERS)] for row in range(LETTERS)])


def ends(subject: Subject) -> Finding:
    """The text ends at the end token, the stop string or the limit, wherever in a block that is, and not before."""
    decoder, texts, fault = subject.make(), 0, None
    if isinstance(decoder, Engine):
        return engine_ends(decoder, subject.seed)
    alphabet = spell(range(LETTERS))
    for sampling in (PURE, GREEDY):
        for place in PLACES:
            last = place - 1  # the token there
            cases: dict[str, tuple[dict[str, Any], int, str, int]] = {
                "end token": ({"eos": [last]}, place, "eos", place - 1),
                "second of two end tokens": ({"eos": [25, last]}, place, "eos", place - 1),
                "stop string": ({"stop": [alphabet[last]]}, place, "stop", place - 1),
                "stop string of two tokens": ({"stop": [alphabet[last : place + 1]]}, place + 1, "stop", place - 1),
                "limit": ({"limit": place}, place, "limit", place),
                "limit under ignore_eos": ({"limit": place, "eos": [0], "ignore_eos": True}, place, "limit", place),
            }
            for case, (ending, length, finish, shown) in cases.items():
                asked: dict[str, Any] = {"limit": 30, **ending}
                found = write(decoder, ring(), ring(), (25,), sampling=sampling, seed=subject.seed, **asked)
                texts += 1
                right = (tuple(range(length)), finish, alphabet[:shown])
                if (found.tokens, found.finish, found.text) != right and fault is None:
                    fault = f"{case} at token {place}: wrote {found.text!r} ({found.finish}), not {alphabet[:shown]!r}"
    return judged(fault, "it ends where end tokens, stop strings and the limit say", texts=texts)


def never(subject: Subject) -> Finding:
    """A lossless decoder accepts nothing of a draft that the target refuses for sure, so a round yields one token."""
    decoder = subject.make()
    if reason := _no_bound(decoder):
        return inapplicable(reason)
    target, draft = StubModel(2, lambda context: (0.0, 1.0)), StubModel(2, lambda context: (1.0, 0.0))
    found = write(decoder, target, draft, limit=LIMIT, seed=subject.seed)
    per_round, accepted = len(found.tokens) / len(found.rounds), sum(step.accepted for step in found.rounds)
    fault = None
    if set(found.tokens) != {B}:
        fault = "it wrote tokens that are impossible under the target"
    elif accepted or per_round != 1:
        fault = f"{accepted} refused tokens count as accepted, {per_round:.2f} tokens a round"
    says = "a target that never agrees yields one token a round"
    return judged(fault, says, tokens_a_round=per_round, accepted=accepted, forwards=found.target.forwards)


def always(subject: Subject) -> Finding:
    """With a draft that is always right a lossless decoder saves forwards, and writes the only possible text."""
    decoder = subject.make()
    if reason := _no_bound(decoder):
        return inapplicable(reason)
    target, draft = StubModel(2, lambda context: (1.0, 0.0)), StubModel(2, lambda context: (1.0, 0.0))
    found = write(decoder, target, draft, limit=LIMIT, seed=subject.seed)
    per_forward = len(found.tokens) / found.target.forwards
    fault = None
    if set(found.tokens) != {A}:
        fault = "it wrote tokens that are impossible under the target"
    elif per_forward <= 1:
        fault = f"a draft that is always right saves no forward: {per_forward:.2f} tokens a forward"
    says = "a target that always agrees yields several tokens a forward"
    return judged(fault, says, tokens_a_forward=per_forward)


def _no_bound(decoder: Decoder) -> str | None:
    """Why no bound is owed."""
    if isinstance(decoder, Engine):
        return "an engine needs a real model, which is never so sure"
    if not decoder.lossless:
        return "it says lossless = False, so what it accepts of a refused draft is its own affair"
    return None if decoder.drafts else "it asks no draft model"

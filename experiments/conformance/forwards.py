"""Checks of what must not matter: the cache, the other texts of a batch, and everything but the address of the luck."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from experiments.batch_equal import first_difference
from experiments.conformance.engines import few_tokens
from experiments.conformance.finding import Finding, Subject, inapplicable, judged
from experiments.conformance.models import Recomputed, TableModel, llama, noisy, opt
from experiments.conformance.texts import PURE, spell, write
from mtad.batch import Start, write_batch
from mtad.decoder import Decoder, Engine, RoundDecoder
from mtad.ending import Limits
from mtad.feeds import Model
from mtad.generate import Output, writing
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.margin import decided, varies
from mtad.session import Session

PROMPTS, NEW = ((5, 9, 2), (1,)), 10  # and how many tokens follow
TABLE = [[1, 2, 3, 4, 2] * 3, [3, 1, 4, 1, 5] * 3, [2, 7, 1, 8, 2] * 3] * 5  # fifteen tokens
EVEN = [[2, 1, 1] * 5] * 15
BATCH = (((1, 2, 3, 4), 20), ((9,), 3), ((5, 6, 7, 8, 9, 10), 11), ((3, 3), 30), ((12, 4, 1), 8))  # prompt, limit


def cached(subject: Subject) -> Finding:
    """A text from the tree cache is that with every law computed afresh from its whole text, on Llama and OPT.

    Where the two part, the decision there is made again under logits moved by as much as rounding may: it counts as a
    difference only if it then stands firm.
    """
    decoder, texts, fault, rounding = subject.make(), 0, None, 0
    if isinstance(decoder, Engine):
        return inapplicable("an engine keeps caches of its own; what it writes is checked by law and greedy")
    for make in (llama, opt):
        target = make(0)
        models = target, noisy(target, make)
        for prompt in PROMPTS:
            name = str(prompt)
            run = partial(
                write, decoder, prompt=prompt, limit=NEW, eos=[7], sampling=Sampling(), seed=subject.seed, name=name
            )
            quick, slow = run(*models), run(*map(Recomputed, models))
            texts += 1
            if quick.tokens == slow.tokens:
                continue
            if _hangs(decoder, prompt, quick, slow, Luck(subject.seed, name), models):
                rounding += 1
            elif fault is None:
                where = f"{make.__name__}, prompt {list(prompt)}"
                fault = f"{where}: {list(quick.tokens)} from the cache, {list(slow.tokens)} computed afresh"
    says = "texts from the cache are those with every law computed afresh"
    return judged(fault, says, texts=texts, within_rounding=rounding)


def _hangs(
    decoder: Decoder, prompt: tuple[int, ...], one: Output, other: Output, luck: Luck, models: tuple[Model, Model]
) -> bool:
    """Whether less than the logits' tolerance decides where two outputs part."""
    found = first_difference([step.tokens for step in one.rounds], [step.tokens for step in other.rounds])
    if found is None:
        return False
    first = 1 + (found.offset if isinstance(decoder, RoundDecoder) else found.position)
    limits = Limits(NEW, frozenset([7]))
    return varies(decided(decoder, prompt, found.written, limits, Sampling(), luck, spell, first), *models)


def luck(subject: Subject) -> Finding:
    """A text is a function of seed, prompt and repeat: of no global state; another seed may write another text."""
    decoder = subject.make()
    models: tuple[Model, Model] = TableModel(TABLE), TableModel(EVEN)
    if isinstance(decoder, Engine):
        models = few_tokens()

    def texts(seed: int, state: int) -> tuple[int, ...]:
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        return write(decoder, *models, (0,), 8, seed=seed).tokens

    fault, different = kept_state(lambda: _same(texts, subject.seed))
    if decoder.lossless and different == 1:
        fault = fault or "every seed writes the same text, though the target's law is spread"
    says = "the same address writes the same text" if different > 1 else "it writes one text, whatever the seed"
    return judged(fault, says, seeds=8, different_texts=different)


def _same(texts: Callable[[int, int], tuple[int, ...]], seed: int) -> tuple[str | None, int]:
    each = {one: {texts(one, state) for state in (1, 2)} for one in range(seed, seed + 8)}
    unlike = [one for one, found in each.items() if len(found) > 1]
    fault = (
        f"seed {unlike[0]} writes another text when the global generators of random numbers differ" if unlike else None
    )
    return fault, len({text for found in each.values() for text in found})


def kept_state(work: Callable[[], tuple[str | None, int]]) -> tuple[str | None, int]:
    """Do `work`, and leave the global generators of random numbers as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return work()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def batch(subject: Subject) -> Finding:
    """A text in a batch is the text alone: rows of 2 to 4, texts of other lengths that enter at other times."""
    decoder = subject.make()
    if isinstance(decoder, Engine):
        return inapplicable("an engine cannot share forwards with other texts")
    target, draft, fault, texts = TableModel(TABLE, rows=4), TableModel(EVEN, rows=4), None, 0

    def start(prompt: tuple[int, ...], limit: int) -> Start[Output]:
        limits, address = Limits(limit, frozenset([0])), Luck(subject.seed, str(prompt))
        return lambda one, other: writing(decoder, one, other, prompt, limits, PURE, address, spell)

    alone = [
        write(decoder, target, draft, prompt, limit, [0], seed=subject.seed, name=str(prompt))
        for prompt, limit in BATCH
    ]
    for rows in (2, 3, 4):
        places = [(Session(target, row), Session(draft, row)) for row in range(rows)]
        together = write_batch([start(*one) for one in BATCH], places).outputs
        for (prompt, _), own, other in zip(BATCH, alone, together, strict=True):
            texts += 1
            if (own.tokens, own.finish, own.target.forwards) != (other.tokens, other.finish, other.target.forwards):
                fault = fault or f"prompt {list(prompt)} in {rows} rows: {list(other.tokens)}, alone {list(own.tokens)}"
    return judged(fault, "a text in a batch is the text alone", texts=texts)

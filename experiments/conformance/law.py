"""Checks of the law: a lossless decoder samples the target's own, and under greedy sampling writes its argmax.

Where a decoder's draws can be followed one by one its law is computed, over as many rounds as a short text takes;
whole texts are tested by chi-square besides, with room for drafts of full length.
"""

from __future__ import annotations

from collections import Counter

from baselines.autoregressive import Autoregressive
from experiments.conformance.engines import engine_greedy, engine_law
from experiments.conformance.finding import Figure, Finding, Subject, inapplicable, judged
from experiments.conformance.laws import (
    LENGTH,
    PAIRS,
    REFUTED,
    TEXTS,
    WARPS,
    P,
    Q,
    Table,
    exact,
    p_value,
    write_all,
)
from experiments.conformance.models import TableModel, llama, noisy, opt
from experiments.conformance.outcomes import UnfollowedError, whole_law
from experiments.conformance.texts import GREEDY, PURE, write
from mtad.decoder import Decoder, Engine
from mtad.feeds import Model
from mtad.law import Sampling

FEWER = TEXTS // 4  # texts of a case besides the first
SPARE = 16  # tokens that a text may have beyond those that are looked at, so that drafts have their full length
OUTCOMES = 1500  # followed at most, of one exact law: a second or so
EQUAL = 1e-9  # total variation that rounding in float64 can make
Case = tuple[tuple[Model, Model], tuple[int, ...], tuple[int, ...], int]  # pair, prompt, end tokens, limit

EXACT = (("two tokens", PURE, 3), ("peaked draft", WARPS[0], 2), ("three tokens", PURE, 2))
# A target that is undecided after 0 alone, and a draft that leans to one side there: rules that forgive a mismatch for
# the agreement behind it are caught here, and on no table where mismatches come close together.
FOLLOWS = ((1, 2), (3,), (3,), (4,), (5,), (6,), (7,), (0,))  # what the target may write after each token
RING: tuple[Table, Table] = (
    [[float(column in after) for column in range(len(FOLLOWS))] for after in FOLLOWS],
    [[90.0 if column == after[0] else 1.0 for column in range(len(FOLLOWS))] for after in FOLLOWS],
)
SAMPLED = (
    *((*PAIRS["three tokens"], warp, LENGTH, 0) for warp in WARPS),
    *((*tables, PURE, LENGTH, 0) for pair, tables in PAIRS.items() if pair != "three tokens"),
    (*PAIRS["two tokens"], PURE, 6, SPARE),
    (*RING, PURE, 2, SPARE),
)


def law(subject: Subject) -> Finding:
    """A decoder that says lossless samples the target's law, whatever the tables and the warp."""
    decoder = subject.make()
    if isinstance(decoder, Engine):
        return engine_law(decoder, subject.seed)
    if not decoder.lossless:
        return _distance(decoder, subject.seed)
    figures: dict[str, Figure] = {}
    fault = _followed(decoder, figures)
    tables = [(*PAIRS["three tokens"], PURE, LENGTH, 0, TEXTS)]
    tables += [(*case, FEWER) for case in SAMPLED]
    least, texts = 1.0, 0
    for target, draft, warp, length, spare, count in tables:
        found = p_value(decoder, warp, count, target, draft, length, spare, subject.seed * TEXTS)
        least, texts = min(least, found), texts + count
        if found < REFUTED:
            fault = fault or f"texts under {_words(warp)} do not have the target's law: p = {found:.1e}"
            break
    figures |= {"least_p": least, "texts": texts}
    return judged(fault, "it samples the target's law over several rounds", **figures)


def _followed(decoder: Decoder, figures: dict[str, Figure]) -> str | None:
    """The exact laws, as far as they can be had: their largest distance goes into the figures."""
    furthest, fault = 0.0, None
    figures["exact_laws"] = 0
    for pair, warp, length in EXACT:
        target, draft = PAIRS[pair]
        try:
            found = whole_law(decoder, length, warp, target, draft, OUTCOMES)
        except (UnfollowedError, TypeError):  # a forked uniform is no number, so arithmetic with it is a TypeError
            continue
        distance = total_variation(found, exact(target, warp.warp(decoder.joint), length))
        furthest, figures["exact_laws"] = max(furthest, distance), int(figures["exact_laws"]) + 1
        if distance > EQUAL and fault is None:
            fault = f"texts of {length} tokens on {pair} are {distance:.2g} in total variation from the target's law"
    if figures["exact_laws"]:
        figures["largest_total_variation"] = furthest
    return fault


def _distance(decoder: Decoder, seed: int) -> Finding:
    """How far the texts of a lossy decoder are from the target's law, beside what chance alone makes of it."""
    right = exact(P, PURE.warp(decoder.joint), 3)
    near = [[p / sum(ps) + q / sum(qs) for p, q in zip(ps, qs, strict=True)] for ps, qs in zip(P, Q, strict=True)]

    def distance(writer: Decoder) -> float:
        seen = Counter(write_all(writer, P, near, PURE, TEXTS, 3, seed=seed * TEXTS))
        return total_variation({tokens: count / TEXTS for tokens, count in seen.items()}, right)

    found, chance = distance(decoder), distance(Autoregressive())
    says = f"it says lossless = False: {found:.2f} in total variation from the target's law, {chance:.2f} by chance"
    return inapplicable(says, total_variation=found, of_exact_sampler=chance, texts=TEXTS)


def total_variation(one: dict[tuple[int, ...], float], other: dict[tuple[int, ...], float]) -> float:
    """Half the summed absolute difference, from 0 to 1."""
    return 0.5 * sum(abs(one.get(tokens, 0.0) - other.get(tokens, 0.0)) for tokens in {*one, *other})


def greedy(subject: Subject) -> Finding:
    """Under greedy sampling a lossless decoder writes what autoregressive decoding writes."""
    decoder = subject.make()
    if not decoder.lossless:
        return inapplicable("it says lossless = False")
    if isinstance(decoder, Engine):
        return engine_greedy(decoder, subject.seed)
    fault, texts = None, 0
    pairs: list[tuple[Model, Model]] = [(TableModel(target), TableModel(draft)) for target, draft in PAIRS.values()]
    cases: list[Case] = [(pair, (first,), eos, 9) for pair in pairs for first, eos in ((0, ()), (1, (0,)))]
    for make in (llama, opt):
        target = make(0)
        both = target, noisy(target, make)
        cases += [(both, (0, 3), (7,), 16), (both, (2, 3), tuple(range(0, 60, 4)), 12)]  # the second ends in a draft
    for models, prompt, eos, limit in cases:
        alone, own = (
            write(one, *models, prompt, limit, eos, sampling=GREEDY, seed=subject.seed)
            for one in (Autoregressive(), decoder)
        )
        texts += 1
        if (own.tokens, own.finish) != (alone.tokens, alone.finish):
            fault = fault or f"text {texts} is {list(own.tokens)}, autoregressive decoding's {list(alone.tokens)}"
    return judged(fault, "under greedy sampling it writes what autoregressive decoding writes", texts=texts)


def _words(sampling: Sampling) -> str:
    return f"temperature {sampling.temperature:g}, top-k {sampling.top_k}, top-p {sampling.top_p:g}"

"""What the texts of one variant are like, apart from the task's score: probability, variety, length, divergence.

Knows rows; refuses to know models, and how figures are compared or printed. Tokens are the emitted ids, the end token
included. A function that finds nothing to measure answers None, and `quality` says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from sacrebleu.metrics.bleu import BLEU

from experiments.figure import figure, mean
from experiments.journal import Row

SMOOTHING = "exp"  # of self-BLEU: an n-gram order without a match halves the next smallest precision (NIST)
ONE_TEXT = "self-BLEU compares the repeats of a prompt, and no prompt has two"
NO_GAPS = "the gap between the two largest logits is recorded only under greedy sampling"
TOO_LARGE = "the perplexity is too large for a number"
NO_DIVERGENCE = "no text differs"
NO_JUDGE = "no judge model was given (judge.path or judge.id)"
SHOWN = 10  # divergences that are listed one by one
ASKED = "prompt_token_ids"  # of rows whose prompt holds answers of the decoder to earlier turns


def quality(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of one variant, each with the reason if it is null."""
    unscored = next((row["log_likelihoods_reason"] for row in rows if row["log_likelihoods_reason"]), None)
    if replayed(rows):
        return {**_of_a_trace(unscored), **_judged(rows), **_lengths(rows)}
    return {
        **figure("perplexity", perplexity(rows), unscored or TOO_LARGE),
        **figure("perplexity_prompt_mean", perplexity_prompt_mean(rows), unscored or TOO_LARGE),
        **_judged(rows),
        **figure("distinct_2", distinct_2(rows), "no text has two tokens"),
        **figure("repeated_4", repeated_4(rows), "no text has four tokens"),
        **figure("self_bleu", self_bleu(rows), ONE_TEXT),
        **_lengths(rows),
    }


def replayed(rows: Iterable[Row]) -> bool:
    """Whether some texts are those of a trace, replayed for their cost: they say nothing about the pair that reads."""
    return any(row.get("replay") for row in rows)


def _of_a_trace(reason: str | None) -> dict[str, Any]:
    """No figures of quality, for this reason."""
    names = ("perplexity", "perplexity_prompt_mean", "distinct_2", "repeated_4", "self_bleu")
    return {key: value for name in names for key, value in figure(name, None, reason).items()}


def _lengths(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "mean_tokens": mean([len(row["token_ids"]) for row in rows]),
        "eos_rate": mean([row["finish"] == "eos" for row in rows]),
        "stop_rate": mean([row["finish"] == "stop" for row in rows]),
    }


def log_likelihood(row: Row) -> float | None:
    """Of the whole text under the target, in nats; None if that of a token is undefined, or the text was not scored."""
    values: list[float | None] = row["log_likelihoods"] or [None]
    return math.fsum(value for value in values if value is not None) if None not in values else None


def perplexity(rows: Sequence[Row]) -> float | None:
    """exp(-sum L / sum n) under the target's untruncated law at temperature 1: every token weighs alike."""
    logps = [log_likelihood(row) for row in rows]
    return _perplexity(logps, [len(row["token_ids"]) for row in rows])


def perplexity_prompt_mean(rows: Sequence[Row]) -> float | None:
    """exp(-mean (L / n)): every text weighs alike, as in arXiv 2407.09722."""
    logps = [log_likelihood(row) for row in rows]
    means = [None if logp is None else logp / len(row["token_ids"]) for logp, row in zip(logps, rows, strict=True)]
    return _perplexity(means, [1] * len(rows))


def distinct_2(rows: Sequence[Row]) -> float | None:
    """Distinct pairs of neighbouring tokens over all such pairs of a text, mean over texts that have any."""
    return _mean_or_none([share for row in rows if (share := _distinct(row["token_ids"], 2)) is not None])


def repeated_4(rows: Sequence[Row]) -> float | None:
    """Share of a text's 4-grams of tokens that stood in it before, mean over texts that have any.

    The seq-rep-4 of Welleck et al., arXiv 1908.04319: 1 - distinct / all.
    """
    return _mean_or_none([1 - share for row in rows if (share := _distinct(row["token_ids"], 4)) is not None])


def self_bleu(rows: Sequence[Row]) -> float | None:
    """How much the repeats of a prompt resemble each other, 0 to 1; None without repeats.

    The BLEU-4 of each text against the other repeats of its turn as references, mean over these repeats, then over a
    prompt's turns, then over prompts (Zhu et al., arXiv 1802.01886, who compare all samples of a model; across prompts
    that would measure the prompts). sacreBLEU's sentence BLEU with token ids as words, effective order and
    `SMOOTHING`, divided by 100.
    """
    prompts = defaultdict[str, list[float]](list)
    asked = itemgetter("prompt_id", "turn")
    for (prompt, _), group in groupby(sorted(rows, key=asked), asked):
        texts = tuple(" ".join(map(str, row["token_ids"])) for row in group)
        if len(texts) > 1:
            prompts[prompt].append(_repeats_self_bleu(texts))
    return _mean_or_none([mean(turns) for turns in prompts.values()])


@lru_cache(maxsize=65536)
def _repeats_self_bleu(texts: tuple[str, ...]) -> float:
    """Mean over the repeats of a turn; the frontier asks again for what the figures have asked for."""
    bleu = BLEU(tokenize="none", effective_order=True, smooth_method=SMOOTHING)
    others = ((text, [*texts[:i], *texts[i + 1 :]]) for i, text in enumerate(texts))
    return mean([bleu.sentence_score(text, rest).score / 100 for text, rest in others])


def divergence(rows: Sequence[Row], baseline: Sequence[Row]) -> dict[str, Any]:
    """Where the texts of a lossless decoder first leave those of `baseline`, greedy autoregressive decoding.

    Under greedy sampling a lossless decoder writes the very same tokens, but for near ties of the two largest logits,
    which float noise may turn over when a text is read in another shape. So the gap between these two at the first
    difference tells noise from a bug: within the noise of the number type it is the former, beyond it the latter.
    Up to there both texts are the same, and so is the law. A later turn that was asked after other answers is no
    divergence of its own, and is left out.

    Returns:
        texts: pairs of the same prompt, turn and repeat that were compared; other_answers: how many were left out,
        since the answers to earlier turns in their prompts differ; diverged: how many texts differ; first: up to
        `SHOWN` of these, the largest gap first, since it is the most suspicious: prompt_id, turn, repeat, position (of
        the first different token in the output, from 0) and gap (a difference of logits); largest_gap.
    """
    place = itemgetter("prompt_id", "turn", "repeat")
    texts = {place(row): row for row in baseline}
    found = [(row, texts[place(row)]) for row in rows if place(row) in texts]
    pairs = [(row, base) for row, base in found if row.get(ASKED) == base.get(ASKED)]
    first = [left for row, base in pairs if (left := _first_difference(row, base))]
    first.sort(key=lambda left: math.inf if left["gap"] is None else left["gap"], reverse=True)
    gaps = [left["gap"] for left in first]
    largest = None if None in gaps else max(gaps, default=None)
    return {
        "texts": len(pairs),
        "other_answers": len(found) - len(pairs),
        "diverged": len(first),
        "first": first[:SHOWN],
        **figure("largest_gap", largest, NO_GAPS if first else NO_DIVERGENCE),
    }


def _first_difference(row: Row, base: Row) -> dict[str, Any] | None:
    """The first position at which two texts differ; one that ends where the other goes on differs there too."""
    ours, theirs = row["token_ids"], base["token_ids"]
    if ours == theirs:
        return None
    shorter = min(len(ours), len(theirs))
    position = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    longer = base if position < len(theirs) else row  # has a token there, and so a gap
    gap = None if longer["gaps"] is None else longer["gaps"][position]
    return {**{key: row[key] for key in ("prompt_id", "turn", "repeat")}, "position": position, "gap": gap}


def _judged(rows: Sequence[Row]) -> dict[str, Any]:
    """exp(-sum L / sum n) under the judge, and whether its own tokens were counted instead of the emitted ids."""
    judged = [judge for row in rows if (judge := row.get("judge"))]
    unread = [judge["reason"] for judge in judged if judge["log_likelihood"] is None]
    if len(judged) < len(rows):
        reason = f"{len(rows) - len(judged)} of {len(rows)} texts were not judged" if judged else NO_JUDGE
        value, retokenised = None, None
    else:
        reason = f"{len(unread)} of {len(rows)} texts: {unread[0]}" if unread else "the judge sees no token in any text"
        value = _perplexity([judge["log_likelihood"] for judge in judged], [judge["tokens"] for judge in judged])
        retokenised = any(judge["retokenised"] for judge in judged)
    return {**figure("judge_perplexity", value, reason), **figure("judge_retokenised", retokenised, reason)}


def _perplexity(log_likelihoods: Sequence[float | None], tokens: Sequence[int]) -> float | None:
    """None if it is too large for a number, or a text has no likelihood: the others would be a sample by failure."""
    known = [value for value in log_likelihoods if value is not None]
    if len(known) < len(log_likelihoods) or not sum(tokens):
        return None
    try:
        return math.exp(-math.fsum(known) / sum(tokens))
    except OverflowError:
        return None


def _distinct(tokens: Sequence[int], n: int) -> float | None:
    """Distinct n-grams over all n-grams; None if there is none."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _mean_or_none(values: Sequence[float]) -> float | None:
    return mean(values) if values else None

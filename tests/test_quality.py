"""Scores of texts in batches, and the figures made of them, against answers counted by hand or computed one by one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative
from experiments import quality
from experiments.journal import Row
from mtad.law import Sampling
from mtad.model import CausalModel, Scored
from tests.fakes import VOCABULARY, llama, noisy, opt
from tests.helpers import write

MAKERS = {"llama": llama, "opt": opt}
Texts = list[tuple[list[int], list[int]]]


def row(prompt: str = "p", repeat: int = 0, tokens: list[int] | None = None, **changes: Any) -> Row:
    """A text of likelihood exp(-1) a token; changes replace keys."""
    ids = [1, 2, 3, 4] if tokens is None else tokens
    return {
        "prompt_id": prompt,
        "turn": 0,
        "repeat": repeat,
        "prompt_token_ids": None,
        "token_ids": ids,
        "finish": "limit",
        "log_likelihoods": [-1.0] * len(ids),
        "log_likelihoods_reason": None,
        "gaps": None,
        **changes,
    }


def ragged(seed: int = 0) -> Texts:
    """Texts of very different lengths, among them a prompt of one token, an output of one and an empty one."""
    chance = random.Random(seed)
    lengths = [(1, 9), (40, 1), (7, 30), (1, 1), (3, 0), (25, 25), (2, 60)]
    return [([chance.randrange(VOCABULARY) for _ in range(n)] for n in pair) for pair in lengths]  # type: ignore[misc]


def one_by_one(model: CausalModel, prompt: list[int], output: list[int]) -> tuple[list[float], list[float]]:
    """Likelihoods and gaps of a text, a forward of its own for every token, no mask, no padding."""
    found = []
    for i, token in enumerate(output):
        with torch.inference_mode():
            logits = model.lm(input_ids=torch.tensor([prompt + output[:i]]), use_cache=False).logits[0, -1]
        law = logits[: model.vocabulary].double().numpy()
        largest = np.sort(law)[::-1]
        logp = law[token] - largest[0] - np.log(np.exp(law - largest[0]).sum())
        found.append((float(logp), float(largest[0] - largest[1])))
    return tuple(map(list, zip(*found, strict=True))) if found else ([], [])  # type: ignore[return-value]


def assert_same(scored: Scored, expected: tuple[list[float], list[float]]) -> None:
    assert scored.log_likelihoods.dtype == scored.gaps.dtype == np.float64
    assert scored.log_likelihoods == pytest.approx(expected[0], abs=1e-5)
    assert scored.gaps == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_batch_of_ragged_texts_scores_as_one_by_one(make: Callable[[], CausalModel]) -> None:
    model = make()
    texts = [(list(prompt), list(output)) for prompt, output in ragged()]
    expected = [one_by_one(model, *text) for text in texts]
    for tokens in (10**6, 100, 1):  # all together, some together, each alone
        for scored, wanted in zip(model.score(texts, batch_tokens=tokens), expected, strict=True):
            assert_same(scored, wanted)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_text_as_long_as_the_model_takes_is_scored(make: Callable[[], CausalModel]) -> None:
    model = make()
    prompt, output = [5] * (model.max_positions - 4), [7, 8, 9, 10]
    (scored, _) = model.score([(prompt, output), ([5], [7])])
    assert_same(scored, one_by_one(model, prompt, output))


def test_a_forward_holds_no_more_tokens_than_asked_unless_a_text_alone_does() -> None:
    model, shapes = llama(), list[tuple[int, int]]()
    handle = model.lm.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    texts = [(list(prompt), list(output)) for prompt, output in ragged()]
    model.score(texts, batch_tokens=60)
    handle.remove()
    assert sum(count for count, _ in shapes) == len(texts)
    assert all(count * length <= 60 for count, length in shapes if count > 1)
    assert len(shapes) < len(texts)


def test_a_flat_law_has_no_gap() -> None:
    model = llama()
    with torch.no_grad():
        head = model.lm.get_output_embeddings().weight
        head[:] = 0.0
    (scored,) = model.score([([3], [0, 1, 0])])
    assert scored.gaps.tolist() == [0, 0, 0]
    assert scored.log_likelihoods == pytest.approx([-math.log(VOCABULARY)] * 3)


def test_nothing_to_score_is_no_error_but_an_empty_prompt_is() -> None:
    model = llama()
    assert model.score([]) == []
    assert [len(scored.gaps) for scored in model.score([([1], []), ([1, 2], [])])] == [0, 0]
    with pytest.raises(ValueError, match="at least one token"):
        model.score([([], [1])])


# -- figures ---------------------------------------------------------------------------------------------------


def test_perplexity_weighs_tokens_or_texts() -> None:
    rows = [row(log_likelihoods=[-1.0, -3.0], tokens=[1, 2]), row("q", tokens=[1, 2, 3, 4], finish="eos")]
    assert quality.perplexity(rows) == pytest.approx(math.exp(8 / 6))
    assert quality.perplexity_prompt_mean(rows) == pytest.approx(math.exp((2 + 1) / 2))
    figures = quality.quality(rows)
    assert (figures["mean_tokens"], figures["eos_rate"], figures["stop_rate"]) == (3, 0.5, 0)


def test_a_text_without_likelihood_leaves_no_perplexity_of_the_others() -> None:
    rows = [row(), row("q", log_likelihoods=[None, -1.0, -1.0, -1.0], log_likelihoods_reason="overflow")]
    figures = quality.quality(rows)
    for name in ("perplexity", "perplexity_prompt_mean"):
        assert (figures[name], figures[f"{name}_reason"]) == (None, "overflow")


def test_repeated_4_counts_what_stood_in_the_text_before() -> None:
    assert quality.repeated_4([row(tokens=[1, 2, 3, 4, 1, 2, 3, 4])]) == pytest.approx(1 / 5)
    assert quality.repeated_4([row(tokens=[7] * 13)]) == pytest.approx(9 / 10)
    mixed = [row(tokens=[7] * 13), row("q", tokens=[1, 2, 3, 4]), row("r", tokens=[1, 2, 3])]
    assert quality.repeated_4(mixed) == pytest.approx(0.9 / 2), "a text without 4-grams does not count as 0"
    assert quality.repeated_4([row(tokens=[1, 1, 1])]) is None


def test_distinct_2_is_that_of_a_text_not_of_all_together() -> None:
    rows = [row(tokens=[5, 6, 5, 6]), row("q", tokens=[1, 2, 3, 4, 5, 1]), row("r", tokens=[5])]
    assert quality.distinct_2(rows) == pytest.approx((2 / 3 + 1) / 2)


def test_self_bleu_is_1_for_equal_texts_0_for_disjoint_ones() -> None:
    same = [row(repeat=i, tokens=[1, 22, 3, 4, 5]) for i in range(3)]
    assert quality.self_bleu(same) == pytest.approx(1)
    short = [row(repeat=i, tokens=[7, 8]) for i in range(2)]
    assert quality.self_bleu(short) == pytest.approx(1), "orders that a short text does not have do not count"
    disjoint = [row("q", i, tokens=[10 * i + 100, 10 * i + 101, 10 * i + 102]) for i in range(3)]
    assert quality.self_bleu(disjoint) == 0
    assert quality.self_bleu(same + disjoint) == pytest.approx(0.5), "prompts weigh alike"


def test_self_bleu_of_two_texts_is_that_of_the_formula() -> None:
    # Precisions 4/5, 3/4, 2/3, 1/2 either way, no brevity penalty; ids of several digits are one word each.
    rows = [row(tokens=[11, 12, 13, 14, 15]), row(repeat=1, tokens=[11, 12, 13, 14, 16])]
    assert quality.self_bleu(rows) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_self_bleu_compares_repeats_and_not_prompts() -> None:
    rows = [row("p", 0), row("q", 0), row("r", 0)]
    assert quality.self_bleu(rows) is None
    figures = quality.quality(rows)
    assert "repeats" in figures["self_bleu_reason"]
    rows += [row("p", 1, tokens=[50, 51, 52, 53])]
    assert quality.self_bleu(rows) == 0


def test_self_bleu_compares_repeats_of_one_turn_and_prompts_weigh_alike() -> None:
    def turn(number: int, repeat: int, first: int) -> Row:
        return row("long", repeat, tokens=[first, first + 1, first + 2, first + 3], turn=number)

    one_text_a_turn = [turn(0, 0, 1), turn(1, 0, 1)]
    assert quality.self_bleu(one_text_a_turn) is None, "the turns of a dialogue are no repeats of each other"
    same_then_not = [turn(0, 0, 1), turn(0, 1, 1), turn(1, 0, 50), turn(1, 1, 60)]
    assert quality.self_bleu(same_then_not) == pytest.approx(0.5)
    single = [row("short", repeat) for repeat in range(2)]
    assert quality.self_bleu([*same_then_not, *single]) == pytest.approx((0.5 + 1) / 2)


def test_every_null_has_a_reason_and_all_is_json() -> None:
    figures = quality.quality([row(tokens=[5])])
    null = {name for name, value in figures.items() if value is None and not name.endswith("_reason")}
    assert null == {"distinct_2", "repeated_4", "self_bleu", "judge_perplexity", "judge_retokenised"}
    assert all(figures[f"{name}_reason"] for name in null)
    json.dumps(figures, allow_nan=False)


# -- divergence ------------------------------------------------------------------------------------------------


def test_the_first_difference_is_found_with_the_gap_at_it() -> None:
    base = [row("p", tokens=[1, 2, 3], gaps=[9.0, 0.001, 5.0]), row("q", gaps=[1.0] * 4), row("r", gaps=[1.0] * 4)]
    ours = [row("p", tokens=[1, 4, 3], gaps=[9.0, 0.001, 7.0]), row("q", gaps=[1.0] * 4), row("s", gaps=[1.0] * 4)]
    assert quality.divergence(ours, base) == {
        "texts": 2,
        "other_answers": 0,
        "diverged": 1,
        "first": [{"prompt_id": "p", "turn": 0, "repeat": 0, "position": 1, "gap": 0.001}],
        "largest_gap": 0.001,
        "largest_gap_reason": None,
    }


def test_a_turn_asked_after_other_answers_is_no_divergence_of_its_own() -> None:
    def dialogue(first: int, history: list[int] | None) -> list[Row]:
        """Two turns; the second is answered after `history`, or after replies that the task gives."""
        return [
            row(tokens=[first, 2], gaps=[0.5, 1.0]),
            row(tokens=[7 + first], gaps=[3.0], turn=1, prompt_token_ids=history),
        ]

    left = quality.divergence(dialogue(1, [9, 1, 2]), dialogue(0, [9, 0, 2]))
    assert (left["texts"], left["other_answers"], left["diverged"], left["largest_gap"]) == (1, 1, 1, 0.5)
    given = quality.divergence(dialogue(1, None), dialogue(0, None))
    assert (given["texts"], given["other_answers"], given["diverged"]) == (2, 0, 2)
    assert given["first"][0]["turn"] == 1, "it has the larger gap"
    same = quality.divergence(dialogue(1, [9, 1, 2]), dialogue(1, [9, 1, 2]))
    assert (same["texts"], same["other_answers"], same["diverged"]) == (2, 0, 0)


def test_a_text_that_ends_too_early_or_too_late_differs_where_the_shorter_ends() -> None:
    short, long = row(tokens=[1, 2], gaps=[1.0, 2.0]), row(tokens=[1, 2, 3], gaps=[1.0, 2.0, 3.0])
    for ours, base in ((short, long), (long, short)):
        (found,) = quality.divergence([ours], [base])["first"]
        assert (found["position"], found["gap"]) == (2, 3.0)


def test_the_most_suspicious_divergences_are_listed_first_and_never_hidden() -> None:
    base = [row(f"p{i}", tokens=[1], gaps=[float(i)]) for i in range(30)]
    ours = [row(f"p{i}", tokens=[2], gaps=[float(i)]) for i in range(30)]
    found = quality.divergence(ours, base)
    assert (found["texts"], found["diverged"], found["largest_gap"]) == (30, 30, 29.0)
    assert [one["gap"] for one in found["first"]] == [float(29 - i) for i in range(10)]


def test_without_gaps_or_differences_the_largest_gap_is_null_with_a_reason() -> None:
    unknown = quality.divergence([row(tokens=[1])], [row(tokens=[2])])
    assert unknown["diverged"] == 1 and unknown["first"][0]["gap"] is None
    assert unknown["largest_gap"] is None and "greedy" in unknown["largest_gap_reason"]
    same = quality.divergence([row()], [row()])
    assert (same["diverged"], same["largest_gap"], same["largest_gap_reason"]) == (0, None, quality.NO_DIVERGENCE)


def test_speculative_decoding_of_a_real_model_does_not_diverge_and_another_model_does() -> None:
    target, other = llama(), llama(3)

    def rows(model: CausalModel, decoder: Any) -> list[Row]:
        texts = [([i, i + 1], i) for i in range(4)]
        written = [write(decoder, model, noisy(model, llama), p, 12, sampling=Sampling(greedy=True)) for p, _ in texts]
        scores = model.score([(p, list(output.tokens)) for (p, _), output in zip(texts, written, strict=True)])
        return [
            row(f"p{i}", tokens=list(output.tokens), gaps=scored.gaps.tolist())
            for (_, i), output, scored in zip(texts, written, scores, strict=True)
        ]

    greedy = rows(target, Autoregressive())
    assert quality.divergence(rows(target, Speculative()), greedy)["diverged"] == 0
    wrong = quality.divergence(rows(other, Speculative()), greedy)
    assert wrong["diverged"] == 4 and wrong["largest_gap"] > 0.01

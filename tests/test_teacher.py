"""Teacher forcing: every token once, exact where the law is known, windows that overlap as stated."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.tasks.sql import Sql
from experiments.teacher import Forced, figures, force, windows
from mtad.model import CausalModel, Scored
from mtad.sources import ModelSpec, find_model, read_tokenizer
from mtad.weights import read_weights
from tests.fakes import llama, opt

TINY = Path(__file__).parents[1] / "mtad" / "tiny" / "target"


def spelled(text: str) -> list[int]:
    """Numbers, as they stand in the text."""
    return [int(word) for word in text.split()]


class Bigram:
    """A law that depends on the last token only, so windows cannot change it; keeps what it was asked."""

    max_positions = 6

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[int]]] = []

    def score(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Scored]:
        self.asked += [(list(prompt), list(output)) for prompt, output in texts]
        scores = [
            np.array(
                [log(self.law(a, b)) for a, b in zip([*prompt, *output][-len(output) - 1 :], output, strict=False)]
            )
            for prompt, output in texts
        ]
        return [Scored(score, score) for score in scores]

    @staticmethod
    def law(last: int, token: int) -> float:
        """Over four tokens."""
        return 0.7 if token == (last + 1) % 4 else 0.1


@pytest.mark.parametrize(("window", "stride"), [(2, 1), (6, 3), (7, 3), (8, 4), (16, 1), (64, 32)])
def test_windows_predict_every_token_once_after_as_much_context_as_stated(window: int, stride: int) -> None:
    for tokens in range(100):
        predicted: list[int] = []
        for begin, first, end in windows(tokens, window, stride):
            assert 0 <= begin < first < end <= tokens and end - begin <= window
            assert begin == 0 or first - begin >= window - stride
            predicted += range(first, end)
        assert predicted == list(range(1, tokens))


def test_a_known_law_is_met_exactly_whatever_the_windows() -> None:
    ids = [random.Random(0).randrange(4) for _ in range(50)]
    exact = sum(log(Bigram.law(a, b)) for a, b in pairwise(ids))
    model = Bigram()
    forced = force(model, spelled, "one", " ".join(map(str, ids)))
    assert forced.log_likelihood == pytest.approx(exact, rel=1e-12)
    assert (forced.tokens, forced.words, forced.window, forced.stride) == (49, 50, 6, 3)
    assert sum(len(output) for _, output in model.asked) == 49
    assert max(len(prompt) + len(output) for prompt, output in model.asked) == model.max_positions


@torch.inference_mode()
def direct(model: CausalModel, ids: list[int]) -> float:
    """The log-likelihood of all tokens but the first, from one forward over all."""
    logp = model.lm(input_ids=torch.tensor([ids])).logits[0, :-1, : model.vocabulary].double().log_softmax(-1)
    return float(logp.gather(1, torch.tensor(ids[1:])[:, None]).sum())


@pytest.mark.parametrize("make", [llama, opt])
def test_a_text_of_one_window_scores_as_in_one_forward(make: Any) -> None:
    model, ids = make(), [random.Random(1).randrange(60) for _ in range(80)]
    forced = force(model, spelled, "one", " ".join(map(str, ids)))
    assert forced.log_likelihood == pytest.approx(direct(model, ids), abs=1e-3)
    assert (forced.window, forced.stride, forced.reason) == (512, 256, None)


def test_a_text_of_several_windows_scores_as_each_of_them_by_itself() -> None:
    model, ids = llama(), [random.Random(2).randrange(60) for _ in range(50)]
    forced = force(model, spelled, "one", " ".join(map(str, ids)), window=20)
    expected = direct(model, ids[:20])  # then ten tokens a window, after ten at least
    for begin, first, end in ((10, 20, 30), (20, 30, 40), (30, 40, 50)):
        expected += direct(model, ids[begin:end]) - direct(model, ids[begin:first])
    assert forced.log_likelihood == pytest.approx(expected, abs=1e-3)


def test_with_a_token_that_begins_texts_every_token_of_the_text_is_predicted() -> None:
    model = Bigram()
    forced = force(model, lambda text: [0, *spelled(text)], "one", "1 2 3")
    assert forced.tokens == 3 and forced.log_likelihood == pytest.approx(3 * log(0.7))
    assert model.asked == [([0], [1, 2, 3])]


@pytest.mark.parametrize("text", ["", "3"])
def test_a_text_with_nothing_to_predict_says_so(text: str) -> None:
    forced = force(Bigram(), spelled, "one", text)
    assert forced.log_likelihood is None and forced.tokens == 0 and "fewer than two tokens" in str(forced.reason)


def test_a_record_is_json_data() -> None:
    forced = force(Bigram(), spelled, "one", "0 1 2")
    assert Forced(**json.loads(json.dumps(asdict(forced)))) == forced


def test_figures_are_of_all_texts_together() -> None:
    texts = [
        Forced("a", 10, 5, 40, -20.0, 6, 3),
        Forced("b", 30, 15, 80, -40.0, 6, 3),
        Forced("c", 0, 1, 1, None, 6, 3, reason="too short"),
    ]
    found = {name: figure["value"] for name, figure in figures(texts).items()}
    assert found["token_perplexity"] == pytest.approx(exp(60 / 40))
    assert found["word_perplexity"] == pytest.approx(exp(60 / 20))
    assert found["bits_per_byte"] == pytest.approx(60 / log(2) / 120)
    assert (found["texts"], found["texts_left_out"]) == (2, 1)


@pytest.mark.parametrize("texts", [[], [Forced("c", 0, 1, 1, None, 6, 3, reason="too short")]])
def test_undefined_figures_are_null_with_a_reason(texts: list[Forced]) -> None:
    found = figures(texts)
    for name in ("token_perplexity", "word_perplexity", "bits_per_byte"):
        assert found[name]["value"] is None and found[name]["reason"]
    assert figures([Forced("a", 1, 1, 1, -1e4, 6, 3)])["word_perplexity"]["value"] is None  # beyond any float


def test_the_embedded_target_prefers_sql_to_its_shuffled_words() -> None:
    source = find_model("model.target", ModelSpec(path=str(TINY)), "fp32")
    tokenizer = read_tokenizer(source)
    model = CausalModel(read_weights(source, torch.device("cpu")), len(tokenizer))
    for prompt in Sql().prompts()[:3]:
        words = (prompt.text + prompt.answer["sql"]).split(" ")
        shuffled = random.Random(0).sample(words, len(words))
        true, mixed = (
            force(model, lambda text: tokenizer(text)["input_ids"], prompt.id, " ".join(text))
            for text in (words, shuffled)
        )
        assert true.bytes == mixed.bytes
        assert figures([true])["bits_per_byte"]["value"] < figures([mixed])["bits_per_byte"]["value"]

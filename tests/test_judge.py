"""The judge: which tokens it reads, what it cannot read, and what becomes of that in a perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments import judge
from experiments.judge import Judge, Judged, find_judge, load_judge
from experiments.quality import quality
from mtad.errors import UserError
from mtad.sources import ModelSpec
from tests.checkpoints import POSITIONS, save_model, save_tokenizer
from tests.fakes import VOCABULARY, llama
from tests.toy import WORDS

CPU = torch.device("cpu")
PROMPT = [2, 3, 4]
END = 1  # </s> of the saved models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A third model on the disk, with the vocabulary of the saved pair and two padded rows."""
    save_model(tmp_path / "judge", layers=1, rows=len(WORDS) + 4, seed=5)
    return tmp_path / "judge"


@pytest.fixture
def pair_tokenizer(saved_pair: Path) -> Any:
    return AutoTokenizer.from_pretrained(saved_pair / "target")


def read(lm: Any, prompt: Sequence[int], output: Sequence[int], vocabulary: int) -> float:
    """The log-likelihood of an output, computed here."""
    with torch.inference_mode():
        logits = lm(input_ids=torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1, :vocabulary]
    logp = torch.log_softmax(logits.double(), -1)
    return float(logp[range(len(output)), list(output)].sum())


def row(judged: Judged | None, **changes: Any) -> dict[str, Any]:
    """As much of a row as quality looks at."""
    return {
        "prompt_id": "p",
        "turn": 0,
        "repeat": 0,
        "token_ids": [1],
        "finish": "eos",
        "log_likelihoods": [-1.0],
        "log_likelihoods_reason": None,
        "judge": judged and asdict(judged),
        **changes,
    }


def test_a_judge_of_the_same_vocabulary_reads_the_emitted_ids_the_end_token_too(
    folder: Path, pair_tokenizer: Any
) -> None:
    found = load_judge(find_judge(ModelSpec(path=str(folder)), CPU), pair_tokenizer, CPU)
    outputs = [[9, 8, END], [7], [5, 6, 7, 8, 9, 10]]
    judged = found.score(PROMPT, outputs)
    for one, output in zip(judged, outputs, strict=True):
        expected = read(found.model.lm, PROMPT, output, len(WORDS) + 2)
        assert one == Judged(pytest.approx(expected, abs=1e-4), len(output), retokenised=False)
    assert (found.origin.folder, found.origin.dtype) == ("judge", "float32")


def test_a_judge_of_another_vocabulary_reads_the_text_in_its_own_tokens(folder: Path, pair_tokenizer: Any) -> None:
    save_tokenizer(folder, WORDS[::-1])
    found = load_judge(find_judge(ModelSpec(path=str(folder)), CPU), pair_tokenizer, CPU)
    (judged,) = found.score(PROMPT, [[9, 8, END]])

    def mirrored(ids: Sequence[int]) -> list[int]:
        return [len(WORDS) + 3 - i for i in ids]

    expected = read(found.model.lm, mirrored(PROMPT), mirrored([9, 8]), len(WORDS) + 2)
    assert judged == Judged(pytest.approx(expected, abs=1e-4), 2, retokenised=True)


def letters(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters and of merged ones; it marks neither beginning nor end."""
    tokens = [*"abcd", *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def judge_of_letters(*merges: tuple[str, str]) -> Judge:
    pair = letters()
    return Judge(
        llama(), letters(*merges), lambda ids: str(pair.decode(list(ids))), True, judge.Origin(*[None] * 4, "")
    )


def test_a_token_that_spans_prompt_and_output_belongs_to_the_output() -> None:
    found = judge_of_letters(("b", "c"))
    (judged,) = found.score([0, 1], [[2, 3]])  # "ab" and "cd" are "a", "bc", "d" to the judge
    expected = read(found.model.lm, [0], [4, 3], VOCABULARY)
    assert judged == Judged(pytest.approx(expected, abs=1e-4), 2, retokenised=True)


def test_an_output_that_swallows_the_prompt_cannot_be_judged_and_others_can() -> None:
    found = judge_of_letters(("a", "b"))
    swallowed, fine, empty = found.score([0], [[1, 2], [2, 1], []])
    assert swallowed == Judged(None, 2, retokenised=True, reason=judge.NO_CONTEXT)
    assert fine.tokens == 2 and fine.reason is None
    assert empty == Judged(0.0, 0, retokenised=True)


def test_a_text_longer_than_the_judge_takes_is_null_with_a_reason(folder: Path, pair_tokenizer: Any) -> None:
    found = load_judge(find_judge(ModelSpec(path=str(folder)), CPU), pair_tokenizer, CPU)
    fits, long = found.score(PROMPT, [[5] * (POSITIONS - 3), [5] * (POSITIONS - 2)])
    assert fits.log_likelihood is not None
    assert long.log_likelihood is None and f"{POSITIONS} positions of the judge" in str(long.reason)
    figures = quality([row(fits), row(long, repeat=1)])
    assert figures["judge_perplexity"] is None
    assert figures["judge_perplexity_reason"] == f"1 of 2 texts: {long.reason}"


def test_likelihoods_that_are_no_numbers_are_null_with_a_reason(folder: Path, pair_tokenizer: Any) -> None:
    found = load_judge(find_judge(ModelSpec(path=str(folder)), CPU), pair_tokenizer, CPU)
    with torch.no_grad():
        found.model.lm.lm_head.weight.fill_(math.nan)
    assert found.score(PROMPT, [[5]]) == [Judged(None, 1, retokenised=False, reason=judge.NOT_FINITE)]


def test_the_judges_perplexity_weighs_its_tokens_alike() -> None:
    figures = quality([row(Judged(-3.0, 1, False)), row(Judged(-5.0, 3, False), repeat=1)])
    assert figures["judge_perplexity"] == pytest.approx(math.exp(8 / 4))
    assert (figures["judge_retokenised"], figures["judge_perplexity_reason"]) == (False, None)
    assert quality([row(Judged(-3.0, 1, True))])["judge_retokenised"] is True


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row(None)], "no judge model was given"),
        ([row(None), row(Judged(-1.0, 1, False))], "1 of 2 texts were not judged"),
        ([row(Judged(0.0, 0, True))], "no token"),
    ],
)
def test_without_all_texts_judged_there_is_no_perplexity_and_a_reason(rows: list[Any], reason: str) -> None:
    figures = quality(rows)
    assert figures["judge_perplexity"] is None and reason in figures["judge_perplexity_reason"]


def test_rows_from_before_there_were_judges_are_read() -> None:
    old = row(None)
    del old["judge"]
    assert "no judge model" in quality([old])["judge_perplexity_reason"]


def test_a_judge_that_cannot_be_is_one_clear_line(folder: Path, pair_tokenizer: Any) -> None:
    def message(spec: ModelSpec) -> str:
        with pytest.raises(UserError) as caught:
            load_judge(find_judge(spec, CPU), pair_tokenizer, CPU)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "judge.path=none: there is" in message(ModelSpec(path="none"))
    assert "no such folder" in message(ModelSpec(path=str(folder / "none")))
    assert "unknown dtype 'fp8'" in message(ModelSpec(path=str(folder), dtype="fp8"))
    save_tokenizer(folder, [*WORDS, "one", "two", "three"])
    assert "has 62 rows of embeddings, fewer than the 63 tokens" in message(ModelSpec(path=str(folder)))
    (folder / "model.safetensors").unlink()
    assert "no weights" in message(ModelSpec(path=str(folder)))

"""Prompt lookup: what is copied, how much it saves, and that the text has the target's law."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from baselines.autoregressive import Autoregressive
from baselines.prompt_lookup import PromptLookup
from mtad.decoder import Round, Rounds, Source, Text
from mtad.errors import UserError
from mtad.law import Law, Sampling
from mtad.session import Reader
from tests.fakes import StubModel, llama
from tests.helpers import PURE, write
from tests.laws import REFUTED, WARPS, error, p_value

PASSAGE = [4, 1, 7, 3, 8, 2, 9, 5, 6, 0]

FRESH = StubModel(40, lambda context: [0.0 if token in context else 1.0 for token in range(40)])  # never repeats


def recite(context: list[int]) -> list[float]:
    """A target that goes on in the passage after whatever token of it came last."""
    following = PASSAGE[(PASSAGE.index(context[-1]) + 1) % len(PASSAGE)]
    return [float(token == following) for token in range(10)]


def drafts(decoder: PromptLookup, prompt: list[int], limit: int = 20, eos: tuple[int, ...] = ()) -> Round:
    """The first round after `prompt`, with a target that accepts nothing but token 9."""
    never = StubModel(10, lambda context: [0.0] * 9 + [1.0])
    return write(decoder, never, never, prompt=prompt, limit=limit, eos=eos).rounds[0]


def test_a_repeated_passage_is_copied_in_few_forwards() -> None:
    model = StubModel(10, recite)
    for gamma, forwards in ((4, 2), (9, 1)):
        output = write(PromptLookup(gamma=gamma), model, model, prompt=[*PASSAGE, 4], limit=10)
        assert list(output.tokens) == [*PASSAGE[1:], 4] and output.target.forwards == forwards
        assert output.rounds[0].sources == (Source.DRAFT,) * gamma + (Source.TARGET,)
        assert output.draft.forwards == 0
    assert write(Autoregressive(), model, model, prompt=[*PASSAGE, 4], limit=10).target.forwards == 10


def test_without_a_match_nothing_is_drafted_and_sampling_is_autoregressive_token_for_token() -> None:
    for seed in range(3):
        run = {"prompt": [1, 2, 3], "limit": 20, "seed": seed}
        output, alone = (write(decoder, FRESH, FRESH, **run) for decoder in (PromptLookup(), Autoregressive()))
        assert output.tokens == alone.tokens and output.target.forwards == 20
        assert all(step.drafted == step.nodes == 0 for step in output.rounds)


def test_impossible_copies_leave_autoregressive_sampling_token_for_token() -> None:
    for seed in range(3):
        run = {"prompt": [1, 2, 1], "limit": 20, "seed": seed}
        output, alone = (write(decoder, FRESH, FRESH, **run) for decoder in (PromptLookup(), Autoregressive()))
        assert output.tokens == alone.tokens and output.rounds[0].drafted == 2
        assert output.rounds[0].sources == (Source.CORRECTED,)


# -- what is copied --------------------------------------------------------------------------------------------------


def test_the_longest_n_gram_is_preferred_and_its_length_is_bounded() -> None:
    text = [3, 5, 5, 5, 1, 2, 3, 6, 6, 6, 2, 3, 7, 7, 7, 1, 2, 3]
    assert PromptLookup(gamma=3)._copied(text, 3) == [6, 6, 6]  # 1 2 3
    assert PromptLookup(gamma=3, max_ngram=1)._copied(text, 3) == [5, 5, 5]  # 3
    assert PromptLookup(gamma=3, max_ngram=2, match="latest")._copied(text, 3) == [7, 7, 7]  # 2 3
    assert PromptLookup(min_ngram=2, max_ngram=5)._copied([3, 5, 5, 3], 4) == []
    assert PromptLookup(max_ngram=9)._copied([3, 3], 4) == [3]
    assert PromptLookup()._copied([3], 4) == []


def test_of_several_matches_the_earliest_or_the_latest_with_a_whole_draft_behind_it() -> None:
    text = [1, 4, 5, 1, 6, 7, 1, 8, 1]
    assert PromptLookup()._copied(text, 2) == [4, 5]
    assert PromptLookup(match="latest")._copied(text, 2) == [8, 1]
    assert PromptLookup(match="latest")._copied(text, 3) == [6, 7, 1]
    assert PromptLookup(match="latest")._copied([1, 8, 1], 5) == [8, 1]  # no match has: as much as there is


def test_what_is_copied_is_what_transformers_copies() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for size in (2, 3, 8, 20):
        for _ in range(60):
            text = rng.integers(size, size=rng.integers(2, 40)).tolist()
            theirs = PromptLookupCandidateGenerator(num_output_tokens=4, max_matching_ngram_size=3, max_length=999)
            candidates = theirs.get_candidates(torch.tensor([text]))[0][0].tolist()
            assert PromptLookup()._copied(text, 4) == candidates[len(text) :]
            found += len(candidates) > len(text)
    assert 100 < found < 240


def test_a_draft_stops_at_the_limit_and_after_an_end_token() -> None:
    prompt = [1, 2, 3, 4, 5, 1]
    assert [drafts(PromptLookup(gamma=9), prompt, limit).drafted for limit in (1, 2, 4, 20)] == [0, 1, 3, 5]
    assert drafts(PromptLookup(), prompt, eos=(3, 4)).drafted == 2
    model = StubModel(10, recite)
    output = write(PromptLookup(), model, model, prompt=[*PASSAGE, 4], limit=20, eos=[3])
    assert output.tokens == (1, 7, 3) and output.target.forwards == 1 and Source.TARGET not in output.rounds[0].sources


# -- the law ---------------------------------------------------------------------------------------------------------

PROMPTS = [(1, 2, 0, 1), (0, 0, 0), (2, 1)]  # of which the first two bring a draft


@dataclass(frozen=True)
class After:
    """Prompt lookup in a text that begins with `prompt`."""

    prompt: tuple[int, ...]
    joint, drafts, lossless = False, False, True

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return PromptLookup(gamma=2).round(replace(text, tokens=[*self.prompt, *text.tokens]), target, draft)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sampling", [PURE, *WARPS])
def test_a_round_has_the_targets_law_to_the_ninth_digit(prompt: tuple[int, ...], sampling: Sampling) -> None:
    assert error(After(prompt), 3, sampling) < 1e-9


@pytest.mark.parametrize("match", ["earliest", "latest"])
def test_whole_texts_over_rounds_have_the_targets_law(match: str) -> None:
    assert p_value(PromptLookup(gamma=2, match=match), length=6) > REFUTED  # type: ignore[arg-type]


def test_a_law_that_is_not_sure_of_the_copied_token_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    points = Law.points
    monkeypatch.setattr(Law, "points", lambda tokens: Law(points(tokens).ids, points(tokens).logp + np.log(0.5)))
    assert error(After(PROMPTS[0]), 3) > 1e-3


def test_greedy_writes_what_greedy_autoregressive_decoding_writes() -> None:
    model, saved = llama(), 0
    for first in range(3):
        run = {"prompt": [first, 3], "limit": 40, "sampling": Sampling(greedy=True)}
        alone, output = (write(decoder, model, model, **run) for decoder in (Autoregressive(), PromptLookup()))
        assert output.tokens == alone.tokens
        saved += alone.target.forwards - output.target.forwards
    assert saved > 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PromptLookup(gamma=0), "gamma must be a number >= 1"),
        (lambda: PromptLookup(min_ngram=0), "min_ngram must be a number >= 1"),
        (lambda: PromptLookup(min_ngram=4), r"max_ngram \(3\) must be at least min_ngram \(4\)"),
        (lambda: PromptLookup(match="best"), "match must be one of earliest, latest"),  # type: ignore[arg-type]
    ],
)
def test_illegal_options_are_named(make, line: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=line):
        make()

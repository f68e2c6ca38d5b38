"""Beam sampling on the target, and DSBD, which drafts it: laws, widths, beams that end, what the rounds say."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.beam_search import BeamSample, BeamSearch
from baselines.dsbd import Dsbd, accept, accepted_law
from baselines.speculative import Speculative
from mtad.decoder import Decoder, Source
from mtad.errors import UserError
from mtad.law import Sampling, inverse_cdf
from tests.fakes import StubModel, TableModel, llama, noisy, opt
from tests.helpers import PURE, from_yaml, write
from tests.laws import PAIRS, REFUTED, WARPS, P, Q, Table, chi_square, p_value

GREEDY = Sampling(greedy=True)
NEAR: Table = [[1, 2, 4], [5, 2, 1], [2, 3, 3]]  # a draft not far from P


def joint(tokens: Any, table: Table = P, last: int = 0) -> float:
    rows = np.array(table) / np.sum(table, axis=1, keepdims=True)
    return float(np.prod([rows[a][b] for a, b in itertools.pairwise((last, *tokens))]))


# -- beam sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [PURE, *WARPS])
def test_beam_sampling_of_width_one_samples_the_targets_law(sampling: Sampling) -> None:
    assert p_value(BeamSample(width=1), sampling) > REFUTED


def test_beam_sampling_of_the_raw_law_samples_the_raw_law() -> None:
    narrow = Sampling(1.0, 1, 1.0)
    texts = Counter(
        write(BeamSample(1, "raw"), TableModel(P), TableModel(Q), limit=2, sampling=narrow, seed=s).tokens
        for s in range(600)
    )
    law = {tokens: joint(tokens) for tokens in itertools.product(range(3), repeat=2)}
    assert chi_square(dict(texts), law) > REFUTED
    texts = Counter(
        write(BeamSample(1), TableModel(P), TableModel(Q), limit=2, sampling=narrow, seed=s).tokens for s in range(20)
    )
    assert set(texts) == {(2, 1)}


def test_two_beams_follow_the_law_of_two_draws_without_replacement() -> None:
    """Of the first token alone: the more probable of two draws without replacement from p."""
    p = np.array(P[0]) / sum(P[0])
    law = {(token,): 0.0 for token in range(3)}
    for a, b in itertools.permutations(range(3), 2):
        law[(a if p[a] > p[b] else b,)] += p[a] * p[b] / (1 - p[a])
    seen = Counter(write(BeamSample(2), TableModel(P), TableModel(Q), limit=1, seed=s).tokens for s in range(800))
    assert chi_square(dict(seen), law) > REFUTED


def test_as_many_beams_as_there_are_texts_find_the_most_probable_one() -> None:
    best = max(itertools.product(range(3), repeat=3), key=joint)
    for seed in range(5):
        assert write(BeamSample(27), TableModel(P), TableModel(Q), limit=3, seed=seed).tokens == best


def test_beam_sampling_is_beam_search_under_greedy_sampling() -> None:
    target = llama(0)
    for law in ("raw", "warped"):
        run = {"prompt": [3, 5], "limit": 16, "eos": [7], "sampling": GREEDY}
        sampled, searched = (write(d(4, law), target, target, **run) for d in (BeamSample, BeamSearch))  # type: ignore[arg-type]
        assert sampled.tokens == searched.tokens


# -- DSBD: the rule --------------------------------------------------------------------------------------------------


def pair_laws(seed: int, kept: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P over `kept` pairs, Q over three more that the target may not keep, and Q on those of P."""
    p, q = (np.random.default_rng((seed, i)).dirichlet(np.ones(kept + 3 * i)) for i in range(2))
    return p, q, q[:kept]


def trial(seed: int, p: np.ndarray, whole: np.ndarray, q: np.ndarray, draws: int, need: int) -> tuple[list[int], int]:
    """The pairs accepted of `draws` drafts, and the one drawn afterwards."""
    uniforms = np.random.default_rng(seed).random(2 * draws + 1)
    drawn = [inverse_cdf(whole, u) for u in uniforms[:draws]]
    placed = [place if place < len(p) else -1 for place in drawn]
    accepted, residual = accept(p, q, placed, need, lambda i: uniforms[draws + i])
    return [drawn[i] for i in accepted], inverse_cdf(residual, uniforms[-1])


@pytest.mark.parametrize("need", [1, 2])
def test_every_accepted_pair_or_the_one_drawn_instead_has_the_targets_law(need: int) -> None:
    p, whole, q = pair_laws(0)
    seen = [Counter[tuple[int, ...]]() for _ in range(need)]
    for seed in range(4000):
        accepted, other = trial(seed, p, whole, q, 4, need)
        for place, pair in enumerate([*accepted, other][: min(need, len(accepted) + 1)]):
            seen[place][(pair,)] += 1
    assert sum(seen[0].values()) == 4000
    assert chi_square(dict(seen[0]), {(i,): float(x) for i, x in enumerate(p)}) > REFUTED


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_the_number_of_accepted_drafts_has_the_law_that_the_width_is_chosen_by(draws: int) -> None:
    p, whole, q = pair_laws(1)
    law = accepted_law(p, q, draws)
    assert law.sum() == pytest.approx(1) and len(law) == draws + 1
    seen = Counter((len(trial(seed, p, whole, q, draws, draws)[0]),) for seed in range(3000))
    assert chi_square(dict(seen), {(n,): float(x) for n, x in enumerate(law)}) > REFUTED


def test_the_number_of_accepted_drafts_at_both_ends() -> None:
    p = np.array([0.25, 0.75])
    np.testing.assert_allclose(accepted_law(p, p, 3), [0, 0, 0, 1])
    np.testing.assert_allclose(accepted_law(p, np.zeros(2), 3), [1, 0, 0, 0])
    q = np.array([1.0, 0.0])  # a second draw of the first pair is never accepted after a refusal, always after none
    np.testing.assert_allclose(accepted_law(p, q, 2), [0.75, 0.1875, 0.0625])


# -- DSBD: limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_dsbd_of_width_one_samples_the_targets_law(pair: str) -> None:
    target, draft = PAIRS[pair]
    length = 3 if len(target) > 3 else 4
    assert p_value(Dsbd(gamma=2, width=1), PURE, 1200, target, draft, length) > REFUTED


@pytest.mark.parametrize("sampling", WARPS)
def test_dsbd_of_width_one_samples_warped_laws(sampling: Sampling) -> None:
    assert p_value(Dsbd(gamma=2, width=1, start="target"), sampling, 1200) > REFUTED


@pytest.mark.parametrize("make", [llama, opt])
def test_dsbd_of_width_one_is_speculative_sampling_token_for_token(make: Any) -> None:
    target = make(0)
    draft = noisy(target, make)
    for seed in range(3):
        run = {"limit": 24, "eos": [7], "sampling": Sampling(), "seed": seed}
        alone, beams = (write(decoder, target, draft, **run) for decoder in (Speculative(gamma=3), Dsbd(3, width=1)))
        assert beams.tokens == alone.tokens and beams.target.forwards == alone.target.forwards
        assert [step.accepted for step in beams.rounds] == [step.accepted for step in alone.rounds]
        assert [step.sources for step in beams.rounds] == [step.sources for step in alone.rounds]


def test_greedy_dsbd_of_width_one_is_greedy_decoding() -> None:
    target = llama(0)
    run = {"prompt": [1, 3], "limit": 40, "eos": [7], "sampling": GREEDY}
    alone, beams = (write(d, target, noisy(target, llama), **run) for d in (Autoregressive(), Dsbd(width=1)))
    assert beams.tokens == alone.tokens and beams.target.forwards < alone.target.forwards


def test_greedy_dsbd_that_must_keep_all_its_beams_is_beam_search() -> None:
    target = llama(0)
    draft = noisy(target, llama)
    for first in range(4):
        run = {"prompt": [first, 3], "limit": 12, "sampling": GREEDY}
        search, beams = (
            write(d, target, draft, **run) for d in (BeamSearch(3, "warped"), Dsbd(3, 3, 3, start="target"))
        )
        assert beams.tokens == search.tokens
        assert beams.target.forwards <= search.target.forwards


def agree(width: int, **options: Any) -> Any:
    return write(Dsbd(3, width, start="target", **options), TableModel(P), TableModel(P), limit=16)


def test_a_draft_like_the_target_is_accepted_whole_at_full_width() -> None:
    for width in (1, 2, 4):
        output = agree(width, tau=1 - 1e-9)
        assert output.target.forwards == 4 and [step.accepted for step in output.rounds] == [3] * 4


def test_a_draft_that_never_agrees_leaves_beam_sampling_on_the_target() -> None:
    target, draft = StubModel(2, lambda _: [0.0, 1.0]), StubModel(2, lambda _: [1.0, 0.0])
    output = write(Dsbd(width=3), target, draft, limit=7)
    assert set(output.tokens) == {1} and output.target.forwards == 7
    assert {step.sources for step in output.rounds[:-1]} == {(Source.CORRECTED,)} and not output.rounds[0].accepted


def test_the_width_follows_the_threshold_between_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[int] = []

    def noted(p: Any, q: Any, drawn: Any, need: int, uniform: Any) -> Any:
        needs.append(need)
        return accept(p, q, drawn, need, uniform)

    monkeypatch.setattr("baselines.dsbd.accept", noted)

    def widths(**options: Any) -> set[int]:
        needs.clear()
        for seed in range(5):
            write(Dsbd(gamma=2, width=4, **options), TableModel(P), TableModel(NEAR), limit=20, seed=seed)
        return set(needs)

    assert widths(tau=0.0) == {4} and widths(tau=1.1) == {1} and widths(tau=1.1, min_width=3) == {3}
    between = widths(tau=0.7)
    assert len(between) > 1 and between <= {1, 2, 3, 4}
    assert min(widths(tau=0.7, min_width=2)) == 2 and max(widths(tau=0.999)) < 4


# -- DSBD: beams that end, and rounds --------------------------------------------------------------------------------


def mean_log_p(decoder: Decoder) -> float:
    texts = [write(decoder, TableModel(P), TableModel(Q), limit=8, seed=seed).tokens for seed in range(60)]
    return float(np.mean([np.log(joint(tokens)) for tokens in texts]))


def test_at_full_width_dsbd_writes_as_probable_texts_as_beam_sampling() -> None:
    """And with `min_width` 1 and this far draft it does not: layers that are accepted commit to the draft's tokens."""
    full, beams, one = (mean_log_p(d) for d in (Dsbd(width=4, tau=0), BeamSample(width=4), Autoregressive()))
    assert full == pytest.approx(beams, abs=0.3) and full > one + 1.5
    assert mean_log_p(Dsbd(width=4, min_width=1)) < full - 1.5


def test_a_beam_that_ended_wins_unless_another_one_beats_it() -> None:
    """Token 2 ends the text, at once with 0.6 or with 0.3; the draft never agrees, so three beams are filled in."""
    draft = StubModel(3, lambda _: [0.0, 1.0, 0.0])
    for end, rest in ((0.6, 0.4), (0.3, 0.7)):
        target = StubModel(3, lambda c, e=end, r=rest: [r, 0.0, e] if len(c) == 1 else [0.98, 0.0, 0.02])
        for seed in range(8):
            output = write(Dsbd(gamma=2, width=3), target, draft, eos=[2], limit=5, seed=seed)
            assert (output.tokens, output.target.forwards) == (((2,), 1) if end == 0.6 else ((0,) * 5, 5))


def test_stop_strings_end_beams_too() -> None:
    for seed in range(10):
        output = write(Dsbd(width=3), TableModel(P), TableModel(Q), stop=["cb"], limit=12, seed=seed)
        assert output.finish in ("stop", "limit") and "cb" not in output.text


@pytest.mark.parametrize("options", [{}, {"width": 1}, {"width": 3, "min_width": 2, "tau": 0.9}])
def test_rounds_hold_the_winners_tokens_drafted_ones_first(options: dict[str, Any]) -> None:
    for sampling in (Sampling(), GREEDY):
        target = llama(0)
        output = write(Dsbd(**options), target, noisy(target, llama), limit=21, sampling=sampling)
        assert sum(len(step.tokens) for step in output.rounds) == 21 and len(output.rounds) <= output.target.forwards
        for step in output.rounds:
            assert step.sources[: step.accepted] == (Source.DRAFT,) * step.accepted
            assert len(step.tokens) - step.accepted in (0, 1) and len(step.tokens) <= step.drafted + 1 <= 5
            assert step.nodes >= step.drafted


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Dsbd(width=0), "width must be a number >= 1"),
        (lambda: Dsbd(width=2, min_width=3), r"min_width \(3\) must not exceed width \(2\)"),
        (lambda: Dsbd(tau=-1), "tau must be a number >= 0"),
        (lambda: Dsbd(start="draft"), "start must be one of equal, target"),  # type: ignore[arg-type]
        (lambda: BeamSample(law="true"), "law must be one of raw, warped"),  # type: ignore[arg-type]
    ],
)
def test_illegal_options_are_named(make: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        make()


def test_the_configured_decoders_are_these() -> None:
    assert from_yaml("dsbd") == Dsbd() and from_yaml("beam_sample") == BeamSample()

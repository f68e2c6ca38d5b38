"""FLy: the gate and the window decide as stated, and the ends of its thresholds are known decoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from baselines.autoregressive import Autoregressive
from baselines.fly import Fly, entropy, forgiven
from baselines.speculative import Speculative
from mtad.decoder import RoundDecoder, Source
from mtad.errors import UserError
from mtad.law import Law, Sampling, inverse_cdf
from mtad.luck import Luck
from mtad.model import CausalModel
from tests.fakes import StubModel, TableModel, llama, noisy
from tests.helpers import PURE, from_yaml, write
from tests.laws import PAIRS, REFUTED, START, error, p_value

GREEDY = Sampling(temperature=1.0, top_k=0, top_p=1.0, greedy=True)
SHUT, OPEN = 2.0, 0.0  # no entropy of three tokens reaches 2 nats, every one reaches 0
TARGET, DRAFT = PAIRS["far draft"]


def flags(letters: str) -> list[bool]:
    """x is a mismatch."""
    return [letter != "x" for letter in letters]


# -- gate and window --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drafted", "accepted"),
    [
        ("......", 6),
        ("x..", 3),  # the whole window stands behind it
        ("x.", 0),  # too near to the end of the draft
        (".x..x", 4),
        ("x.x..", 0),  # another mismatch in the window refuses the first
        ("x..x..", 6),  # two mismatches, each with a window of its own
        ("...x", 3),
        ("xxx", 0),
        ("", 0),
    ],
)
def test_a_mismatch_is_forgiven_if_its_whole_window_is_drafted_and_matches(drafted: str, accepted: int) -> None:
    matches = flags(drafted)
    assert forgiven(matches, matches, [True] * len(matches), 2) == accepted


def test_a_mismatch_is_refused_where_the_target_is_decided() -> None:
    assert forgiven(flags("x...x.."), flags("x...x.."), [True, *[False] * 6], 2) == 4
    assert forgiven(flags("x...x.."), flags("x...x.."), [False] * 7, 2) == 0


def test_a_window_has_draws_of_its_own() -> None:
    assert forgiven(flags("xxx."), flags("x..."), [True] * 4, 2) == 4
    assert forgiven(flags("x..."), flags("x.x."), [True] * 4, 2) == 0


def test_the_gate_measures_three_tokens_in_nats_or_the_whole_law_on_a_scale_to_one() -> None:
    with np.errstate(divide="ignore"):
        law = Law(None, np.log([[0.4, 0.2, 0.1, 0.3], [0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.25] * 4]))
    top3 = -sum(p * np.log(p) for p in (0.4, 0.3, 0.2))
    assert [entropy(law, node, "top3") for node in range(3)] == pytest.approx([top3, np.log(2), 0])
    whole = (top3 - 0.1 * np.log(0.1)) / np.log(4)
    assert [entropy(law, node, "normalised") for node in range(4)] == pytest.approx([whole, 1, 0, 1])


# -- greedy sampling: the paper's rule --------------------------------------------------------------------------------


def counting(surprise: float) -> tuple[StubModel, StubModel]:
    """Both count 0, 1, 2, ... by position, but the draft says 0 at position 3, where the target gives it `surprise`."""

    def law(context: list[int], odd: float) -> list[float]:
        weights = np.full(12, 0.001)
        weights[len(context)] = 1
        if len(context) == 3:
            weights[0] = odd
        return list(weights / weights.sum())

    return StubModel(12, lambda context: law(context, surprise)), StubModel(12, lambda context: law(context, 5))


@pytest.mark.parametrize("entropies", ["top3", "normalised"])
def test_greedy_fly_keeps_a_mismatch_where_the_target_wavers_and_refuses_it_where_not(entropies: str) -> None:
    fly = Fly(gamma=6, window=3, threshold=0.25, entropy=entropies)  # type: ignore[arg-type]
    wavering, decided = (write(fly, *counting(s), prompt=(0,), limit=8, sampling=GREEDY) for s in (0.9, 0.001))
    assert list(wavering.tokens) == [1, 2, 0, 4, 5, 6, 7, 8] and wavering.rounds[0].accepted == 6
    assert list(decided.tokens) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (decided.rounds[0].accepted, decided.rounds[0].sources[-1]) == (2, Source.CORRECTED)


@pytest.mark.parametrize(("gamma", "window"), [(5, 3), (6, 4), (4, 6)])
def test_a_mismatch_whose_window_does_not_fit_the_draft_is_refused(gamma: int, window: int) -> None:
    output = write(Fly(gamma, window), *counting(0.9), prompt=(0,), limit=8, sampling=GREEDY)
    assert list(output.tokens) == [1, 2, 3, 4, 5, 6, 7, 8]


@cache
def pair() -> tuple[CausalModel, CausalModel]:
    target = llama(0)
    return target, noisy(target, llama, 0.1)


@pytest.mark.parametrize("match", ["drawn", "ratio"])
def test_with_the_gate_shut_greedy_fly_writes_what_greedy_autoregressive_decoding_writes(match: str) -> None:
    fly = Fly(gamma=8, threshold=SHUT, match=match)  # type: ignore[arg-type]
    ours, alone = (write(each, *pair(), limit=24, sampling=GREEDY) for each in (fly, Autoregressive()))
    assert ours.tokens == alone.tokens and ours.target.forwards < alone.target.forwards
    loose = write(Fly(gamma=8, window=1, match=match), *pair(), limit=24, sampling=GREEDY)  # type: ignore[arg-type]
    assert loose.tokens != alone.tokens


# -- ends at temperature 1 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [PURE, Sampling()], ids=["pure", "warped"])
@pytest.mark.parametrize("gamma", [1, 4, 8])
def test_with_the_gate_shut_it_is_autoregressive_sampling_or_speculative_decoding_token_for_token(
    sampling: Sampling, gamma: int
) -> None:
    drawn, ratio = Fly(gamma, threshold=SHUT), Fly(gamma, threshold=SHUT, match="ratio")
    for seed in range(2):
        run = {"limit": 16, "eos": [7], "sampling": sampling, "seed": seed}
        assert write(drawn, *pair(), **run).tokens == write(Autoregressive(), *pair(), **run).tokens  # type: ignore[arg-type]
        assert write(ratio, *pair(), **run).rounds == write(Speculative(gamma), *pair(), **run).rounds  # type: ignore[arg-type]


@pytest.mark.parametrize("match", ["drawn", "ratio"])
def test_with_the_gate_open_and_no_window_it_is_the_drafts_own_text_and_one_token_of_the_target(match: str) -> None:
    target, draft, gamma, limit = TableModel(TARGET), TableModel(DRAFT), 4, 20
    for seed in range(5):
        luck, text = Luck(seed, "prompt"), [START]
        while len(text) <= limit:
            start = len(text)
            for at in range(start, start + gamma):
                row = draft.table[text[-1]]
                text.append(int(row.argmax()) if match == "drawn" else inverse_cdf(row, luck.draft(at, start, 0)))
            text.append(inverse_cdf(target.table[text[-1]], luck.last(start + gamma)))
        fly = Fly(gamma, window=0, threshold=OPEN, match=match)  # type: ignore[arg-type]
        assert list(write(fly, target, draft, prompt=(START,), limit=limit, seed=seed).tokens) == text[1:]


# -- laws -------------------------------------------------------------------------------------------------------------


def test_native_matches_have_the_targets_law_and_forgiven_ones_or_a_second_draw_have_not() -> None:
    assert p_value(Fly(gamma=3, threshold=SHUT), texts=800) > REFUTED
    assert p_value(Fly(gamma=3, threshold=SHUT, draws=2), texts=800) < REFUTED
    assert p_value(Fly(gamma=3, window=1), texts=800) < REFUTED
    assert error(Fly(gamma=3, threshold=SHUT, match="ratio"), 3) < 1e-12
    assert error(Fly(gamma=3, window=1, match="ratio"), 3) > 0.01
    assert error(Fly(gamma=3, window=3, match="ratio"), 3) < 1e-12  # no window fits


def test_a_refusal_by_the_window_does_not_touch_the_draws_of_later_positions() -> None:
    """The target's draws are independent of refusals: after a refused mismatch the next token has the target's law."""
    target, draft = TableModel([[1, 1]] * 2), TableModel([[2, 1]] * 2)  # the draft says 0, the target tosses a coin
    fly, counts = Fly(gamma=2, window=1), np.zeros(2)
    for seed in range(800):
        rounds = write(fly, target, draft, prompt=(START,), limit=4, seed=seed).rounds
        if not rounds[0].accepted:
            counts[rounds[1].tokens[0]] += 1
    # Refused: the target drew 1 at both positions. The next round's first token is 1 if it draws 1 twice again.
    assert counts[1] / counts.sum() == pytest.approx(1 / 4, abs=4 * (3 / 16 / counts.sum()) ** 0.5)


# -- options ----------------------------------------------------------------------------------------------------------


def test_its_defaults_leave_room_for_the_window() -> None:
    fly = from_yaml("fly")
    assert isinstance(fly, RoundDecoder) and not fly.lossless
    assert (fly.gamma, fly.window, fly.threshold) == (15, 6, 0.3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Fly(window=-1), "window must be a number >= 0, not -1"),
        (lambda: Fly(threshold=-0.1), "threshold must be a number >= 0, not -0.1"),
        (lambda: Fly(draws=0), "draws must be a number >= 1, not 0"),
        (lambda: Fly(entropy="bits"), "entropy must be one of top3, normalised, not 'bits'"),  # type: ignore[arg-type]
        (lambda: Fly(match="exact"), "match must be one of drawn, ratio, not 'exact'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_option_ends_in_one_clear_line(make: Callable[[], object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == line

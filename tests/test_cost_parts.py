"""What the cost model is made of: FLOPs and bytes by hand; reads and decisions timed apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import sleep

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from baselines.autoregressive import Autoregressive
from experiments.cost.arithmetic import Arithmetic, arithmetic
from experiments.cost.deciding import Begin, time_decisions
from experiments.cost.reads import BURST, Curve, branching, check_room, mean_context, time_reads
from mtad.decoder import Rounds, Text
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.feeds import Feed
from mtad.generate import writing
from mtad.law import RAW
from mtad.loading import Pair
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.serving import serve
from mtad.session import Reader, Session
from tests.fakes import TableModel, llama, opt
from tests.helpers import PURE, spell

FLAT = [[1.0] * 12] * 12  # a law in which twelve tokens are equally probable, whatever came before


# -- FLOPs and bytes -------------------------------------------------------------------------------------------------


def test_weights_of_a_llama_are_those_counted_by_hand() -> None:
    found = arithmetic(llama().lm.config, torch.bfloat16)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48  # q and o, k and v of two heads for four, three of the feed-forward
    assert found.products == 3 * layer + 64 * 32  # the head is not tied
    assert found.weights == found.products + 7 * 32  # norms
    assert (found.attention_width, found.cache_width, found.number_bytes) == (3 * 32, 3 * 2 * 16, 2)


def test_weights_of_an_opt_are_those_counted_by_hand() -> None:
    found = arithmetic(opt().lm.config, torch.float32)
    layer = 4 * 32 * 32 + 2 * 32 * 48
    assert found.products == 3 * layer + 64 * 32  # the head is tied to the embedding, and read all the same
    biases_and_norms = 3 * (4 * 32 + 48 + 32 + 2 * 64) + 64
    assert found.weights == found.products + biases_and_norms
    assert (found.attention_width, found.cache_width, found.number_bytes) == (3 * 32, 3 * 2 * 32, 4)


@pytest.mark.parametrize("make", [llama, opt])
def test_flops_are_those_that_torch_counts_in_a_real_read(make: Callable[[], CausalModel]) -> None:
    made = make()
    model = CausalModel(made.lm, made.vocabulary, engine="eager")  # torch counts no trace
    session = Session(model)
    session.open(list(range(41)))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        serve([session.read(branching(4))])
    counted = counter.get_total_flops()
    expected = arithmetic(model.lm.config, torch.float32).flops(nodes=5, context=40)
    positions = counted - expected  # a Llama also multiplies positions by frequencies
    assert 0 <= positions <= 2 * 5 * 8


def test_a_batch_shares_the_weights_and_nothing_else() -> None:
    model = Arithmetic(products=100, weights=110, attention_width=6, cache_width=4, number_bytes=2)
    assert model.flops(3, 10) == 2 * 3 * 100 + 4 * 3 * 13 * 6
    assert model.flops(3, 10, batch=7) == 7 * model.flops(3, 10)
    assert model.bytes(3, 10) == 2 * (110 + 13 * 4)
    assert model.bytes(3, 10, batch=7) == 2 * (110 + 7 * 13 * 4)


def test_a_model_with_other_matrices_is_named() -> None:
    with pytest.raises(UserError, match="FLOPs of gpt2 are not known"):
        arithmetic(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16), torch.float32)


# -- reads and decisions, timed apart --------------------------------------------------------------------------------


class SleepyModel(TableModel):
    """Takes so many milliseconds a forward and a token fed, and remembers what it was fed after the prompt."""

    def __init__(self, forward: float, token: float = 0.0) -> None:
        super().__init__(FLAT)
        self.milliseconds = forward, token
        self.fed: list[tuple[int, int]] = []

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        (feed,) = feeds
        if feed.keep == len(feed.tokens) or len(feed.tokens) == 1:
            self.fed.append((len(feed.tokens), feed.start))
            sleep((self.milliseconds[0] + len(feed.tokens) * self.milliseconds[1]) / 1e3)
        return super().forward(feeds)


def test_a_timed_read_feeds_so_many_tokens_after_the_context_and_takes_no_less_than_the_model() -> None:
    target, draft, nodes = SleepyModel(2, 0.5), SleepyModel(1), (1, 5, 20)
    paces = time_reads(target, draft, [RAW], [1, 2, 3], 30, nodes, repeats=2)
    for model, pace in zip((target, draft), paces[RAW], strict=True):
        timed = [fed for fed in model.fed if fed[1] > 20]
        assert sorted(size for size, _ in timed) == sorted(nodes * 3 * BURST)  # a warm-up and two repeats
        assert sum(start for _, start in timed) / len(timed) == 30
        for curve in (pace.steady, pace.switched):
            assert curve.nodes == nodes
            for size, median, low, high in zip(curve.nodes, curve.median, curve.low, curve.high, strict=True):
                assert (model.milliseconds[0] + size * model.milliseconds[1]) / 1e3 <= low <= median <= high


def test_a_context_shorter_than_a_sweep_is_not_passed_off_as_the_one_of_the_reads() -> None:
    model, nodes = SleepyModel(0), tuple(range(1, 16))
    time_reads(model, SleepyModel(0), [RAW], [1, 2, 3], 1, nodes, repeats=1)
    starts = [start for _, start in model.fed]
    assert mean_context(1, nodes) == sum(starts) / len(starts) == 22
    assert mean_context(100, nodes) == 100


def test_reads_need_the_positions_that_they_feed_and_no_more() -> None:
    nodes = (1, 5, 20)
    model = SleepyModel(0)
    time_reads(model, SleepyModel(0), [RAW], [1, 2, 3], 30, nodes, repeats=1)
    deepest = max(branching(19).depths)
    need = max(start for _, start in model.fed) + 1 + deepest
    check_room(need, 30, nodes)
    with pytest.raises(UserError, match=f"need {need} positions"):
        check_room(need - 1, 30, nodes)


def test_a_curve_is_linear_between_sizes_and_never_falls_beyond_them() -> None:
    curve = Curve((2, 4, 8), (10.0, 20.0, 24.0), (), ())
    assert [curve.seconds(n) for n in (1, 2, 3, 5, 8, 12)] == [10, 10, 15, 21, 24, 28]
    assert Curve((1, 4), (5.0, 3.0), (), ()).seconds(10) == 3
    assert Curve((4,), (3.0,), (), ()).seconds(1) == Curve((4,), (3.0,), (), ()).seconds(9) == 3


def test_a_timed_tree_has_no_equal_siblings_and_stays_shallow() -> None:
    tree = branching(63)
    assert len(tree) == 64 and max(tree.depths) == 8
    assert len({(parent, token) for parent, token in zip(tree.parents, tree.tokens, strict=True)}) == 64


@dataclass(frozen=True)
class Pondering:
    """Autoregressive decoding that thinks for 2 ms before each token."""

    joint = False
    drafts = False
    lossless = True

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        found = yield from Autoregressive().round(text, target, draft)
        sleep(0.002)
        return found


def test_decisions_are_timed_without_the_models_and_without_the_search_for_stop_strings() -> None:
    def slow_spell(tokens: Sequence[int]) -> str:
        sleep(0.05)
        return spell(tokens)

    def begin(name: str) -> Begin:
        limits = Limits(6, frozenset(), ("zz",))
        return lambda target, draft, detokenise: writing(
            Pondering(), target, draft, [0, 1], limits, PURE, Luck(0, name), detokenise
        )

    pair = Pair(SleepyModel(50), SleepyModel(50), None, frozenset(), 100, {})  # type: ignore[arg-type]
    found = time_decisions(pair, slow_spell, [begin("a"), begin("b")])
    assert found.reads == 12
    assert 12 * 0.002 <= found.decide_seconds < 12 * 0.05
    assert found.seconds_per_read == (found.decide_seconds + found.commit_seconds) / 12


class Forgetful(SleepyModel):
    """Slow when it is read after another model, as if that had taken its place in the caches."""

    last: list[SleepyModel]

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        if self.last != [self]:
            sleep(0.006)
        self.last[:] = [self]
        return super().forward(feeds)


def test_reads_after_the_other_model_are_told_from_reads_after_the_same() -> None:
    target, draft = Forgetful(1), Forgetful(1)
    target.last = draft.last = []
    for pace in time_reads(target, draft, [RAW], [1, 2, 3], 30, [1, 4], repeats=4)[RAW]:
        assert all(seconds >= 0.007 for seconds in pace.switched.low)
        assert min(pace.steady.low) < 0.007

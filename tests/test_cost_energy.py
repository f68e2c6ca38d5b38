"""Energy of reads by its source: prices from loads that obey them, idling apart, and what a read spends beside."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, process_time, sleep

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.cost.arithmetic import arithmetic
from experiments.cost.energy_split import (
    Prices,
    Spent,
    calibrate,
    measured_read,
    published_prices,
    solve,
    split,
    split_record,
    sustained,
)
from experiments.cost.study import gross
from mtad.law import RAW
from mtad.meter.device import UnreadableError
from mtad.meter.meter import Meter
from tests.fakes import llama


def test_prices_are_found_again_from_idling_and_two_loads_that_obey_them() -> None:
    idle, flop, byte = 80.0, 3e-12, 5e-11
    product = Spent(1e12 * flop + 2e9 * byte + 0.02 * idle, 0.02)
    copy = Spent(4e9 * byte + 0.003 * idle, 0.003)
    found = solve(idle, product, 1e12, 2e9, copy, 4e9, "a device")
    assert (found.joules_per_flop, found.joules_per_byte, found.idle_watts) == pytest.approx((flop, byte, idle))
    assert "a device" in found.source and "80 W when idle" in found.source
    with pytest.raises(UnreadableError, match="J a FLOP"):  # the copy would cost more than all of the product
        solve(idle, Spent(1.0, 0.0), 1e12, 2e9, Spent(1000.0, 0.0), 4e9, "a device")


def test_a_window_is_filled_with_steps_and_gives_what_one_spends() -> None:
    steps: list[None] = []

    def measure(work: Callable[[], None]) -> Spent:
        before = len(steps)
        work()
        return Spent(7.0 * (len(steps) - before), 3.0 * (len(steps) - before))

    def step() -> None:
        sleep(0.002)
        steps.append(None)

    assert sustained(measure, step, lambda: None, seconds=0.02) == Spent(7.0, 3.0)
    assert 4 <= len(steps) <= 12  # two to see how long one takes


def test_a_calibration_tells_idling_from_work() -> None:
    def measure(work: Callable[[], None]) -> Spent:
        started, used = perf_counter(), process_time()
        work()
        seconds = perf_counter() - started
        return Spent(30 * seconds + 20 * (process_time() - used), seconds)  # a core at work adds 20 W

    found = calibrate(measure, torch.device("cpu"), torch.float32, 0.2, "this one")
    assert found.idle_watts == pytest.approx(30, rel=0.05)
    assert found.joules_per_flop > 0 and found.joules_per_byte > 0
    assert "this one" in found.source


def test_a_meter_that_cannot_tell_passes_its_reason_on() -> None:
    def measure(work: Callable[[], None]) -> Spent:
        raise UnreadableError("the driver was lost")

    with pytest.raises(UnreadableError, match="the driver was lost"):
        calibrate(measure, torch.device("cpu"), torch.float32, 0.001, "this one")


class Steady:
    """A GPU that draws 50 W."""

    uuid, name, kind, shared, counter, power = "GPU-0", "steady", "gpu", False, "time", "instant"

    def joules(self) -> float:
        return 50 * perf_counter()

    def watts(self) -> float:
        return 50.0

    def state(self) -> dict[str, object]:
        return {}


def test_the_meter_gives_gross_joules_of_its_kind_of_device_only() -> None:
    meter = Meter([Steady()], {"cpu": "RAPL was left out"})  # type: ignore[list-item]
    spent = gross(meter, "gpu")(lambda: sleep(0.2))
    assert 0.2 <= spent.seconds < 2
    assert spent.joules == pytest.approx(50 * spent.seconds, rel=0.01)
    with pytest.raises(UnreadableError, match="RAPL was left out"):
        gross(meter, "cpu")(lambda: None)


def test_a_measured_read_feeds_every_text_of_the_batch() -> None:
    model, calls = llama(), []

    def measure(work: Callable[[], None]) -> Spent:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            work()
        calls.append(counter.get_total_flops())
        return Spent(1.0, 2.0)

    single, triple = (measured_read(measure, model, RAW, batch, 5, list(range(20)), 1e-9) for batch in (1, 3))
    assert single == triple == Spent(1.0, 2.0)
    products = 2 * 5 * arithmetic(model.lm.config, torch.float32).products
    assert calls[1] - calls[0] >= 2 * products


def test_memory_dominates_alone_and_yields_to_compute_in_a_batch() -> None:
    model = arithmetic(llama().lm.config, torch.float32)
    prices = published_prices(torch.device("cpu"), 4)
    splits = [split(model, prices, batch, 1, 10, 1) for batch in (1, 2, 4, 8, 16)]
    compute = [found.compute_joules / found.batch for found in splits]
    assert compute == pytest.approx([model.flops(1, 10) * prices.joules_per_flop] * 5)
    shares = [found.memory_share for found in splits]
    assert shares == sorted(shares, reverse=True) and len(set(shares)) == 5
    verify = split(model, prices, 1, 5, 10, 2.5)
    joules = model.flops(5, 10) * prices.joules_per_flop + model.bytes(5, 10) * prices.joules_per_byte
    assert verify.joules_per_token == pytest.approx(joules / 2.5)
    assert all(word in prices.source for word in ("Horowitz", "modelled", "45 nm", "sign of the sum's error"))


def test_idling_is_a_third_part_of_a_read_whose_seconds_were_measured() -> None:
    model = arithmetic(llama().lm.config, torch.float32)
    prices = Prices(1e-12, 1e-11, 80.0, "by hand")
    found = split(model, prices, batch=2, nodes=4.6, context=10, tokens=3.0)
    record = split_record(found, prices, 5, Spent(joules=1.8, seconds=0.015), None)
    assert record["idle_joules_per_token"] == pytest.approx(80 * 0.015 / (2 * 3))
    assert record["measured_joules_per_token"] == pytest.approx(1.8 / (2 * 3))
    assert (record["nodes"], record["measured_nodes"]) == (4.6, 5)
    unknown = split_record(found, prices, 5, None, "the driver was lost")
    for name in ("idle", "measured"):
        assert unknown[f"{name}_joules_per_token"] is None
        assert unknown[f"{name}_joules_per_token_reason"] == "the driver was lost"
    published = published_prices(torch.device("cuda"), 2)
    assert "too high for tensor cores" in published.source
    modelled = split_record(found, published, 5, Spent(1.8, 0.015), None)
    assert (modelled["idle_joules_per_token"], modelled["idle_joules_per_token_reason"]) == (
        None,
        "the prices know no idle power",
    )

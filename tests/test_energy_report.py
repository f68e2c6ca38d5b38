"""Figures and comparisons of the energy pass, from records that are written down here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from experiments.energy import alike, missing_rounds, settled_rounds, without_joules
from experiments.energy_report import Energy
from experiments.journal import Row
from experiments.table import _energy_notes


def device(joules: float, seconds: float, uuid: str = "GPU-a", **changes: object) -> Row:
    """A reading, as far as figures need it."""
    reading = {
        "uuid": uuid,
        "kind": "gpu",
        "joules": joules,
        "seconds": seconds,
        "method": "nvml_total_energy",
        "method_reason": None,
        "shared": False,
        "disagrees": False,
        "states": [],
    }
    return {**reading, **changes}


def window(*devices: Row) -> Row:
    joules = sum(entry["joules"] for entry in devices)
    return {
        "source": "gpu",
        "joules": joules,
        "joules_reason": None,
        "joules_cpu": None,
        "joules_cpu_reason": "no RAPL",
        "devices": list(devices),
    }


def block(number: int, label: str, *devices: Row, process: str = "one", tokens: int = 100, attempt: int = 0) -> Row:
    where = {"kind": "block", "round": number, "variant": label, "process_id": process, "attempt": attempt}
    work = {"tokens": tokens, "texts": 10, "texts_differing": 0, "work_seconds": 9.9, "least_seconds": 9.5}
    return {**where, **work, **window(*devices)}


def idle(*watts: float, process: str = "one") -> Row:
    """Windows of two seconds on two GPUs that draw the same."""
    windows = [window(device(2 * w, 2), device(2 * w, 2, "GPU-b")) for w in watts]
    return {"kind": "idle", "process_id": process, "windows": windows}


def run_of(idles: Sequence[Row], noise: Sequence[float] = (0, 1, -1, 2, -2)) -> list[Row]:
    """Five rounds on two GPUs: a draws 3000 J in 10 s, b 2000 J in 11 s, for 100 tokens."""
    rounds = [
        [
            block(i, "a", device(1800 + n, 10), device(1200, 10, "GPU-b")),
            block(i, "b", device(1000, 11), device(1000 - n, 11, "GPU-b")),
        ]
        for i, n in enumerate(noise)
    ]
    return [*idles, *(record for blocks in rounds for record in blocks)]


def test_blocks_that_were_shorter_or_of_another_source_are_not_pooled() -> None:
    whole = run_of([idle(50, 50, 50)])
    assert alike(whole, 9.5, "gpu") == whole == alike(whole, 0, None)
    assert [record["kind"] for record in alike(whole, 9.6, "gpu")] == ["idle"]
    assert [record["kind"] for record in alike(whole, 0, "cpu")] == ["idle"]
    package = device(9, 10, "intel-rapl:0", kind="cpu")
    later = [*whole, *({**block(0, label, package), "source": "cpu"} for label in "ab")]
    assert alike(later, 0, None) == whole
    assert [record["round"] for record in alike(later, 0, "cpu")[1:]] == [0, 0]


def test_a_round_of_another_gpu_or_with_the_processor_beside_it_stays() -> None:
    process, package = "two", device(7, 10, "intel-rapl:0", kind="cpu")
    elsewhere = [block(5, label, device(2000, 10, "GPU-c"), package, process=process) for label in "ab"]
    records = [*run_of([idle(50), idle(50)]), *elsewhere]
    assert alike(records, 9.5, "gpu") == records and missing_rounds(records, "ab", 6) == []
    figures = Energy(records, ("a", "b")).figures("a")
    assert figures["devices"] == ["GPU-a", "GPU-b", "GPU-c"] and figures["device_sets"] == 2


def test_joules_below_those_of_idling_have_no_net_ratio() -> None:
    energy = Energy(run_of([idle(300, 300, 300)]), ("a", "b"))
    assert energy.figures("a")["joules_per_token_net"] < 0 > energy.figures("b")["joules_per_token_net"]
    found = energy.ratio_net("a", "b")
    assert (
        found.value is None
        and found.reason == "a decoder draws no more than the idle device, so net joules have no ratio"
    )


def test_gross_and_net_follow_from_all_devices_and_their_own_seconds() -> None:
    energy = Energy(run_of([idle(50, 50, 50)]), ("a", "b"))
    a, b = energy.figures("a"), energy.figures("b")
    assert a["joules_per_token"] == pytest.approx(30) and b["joules_per_token"] == pytest.approx(20)
    assert a["joules_per_token_net"] == pytest.approx((3000 - 2 * 50 * 10) / 100)
    assert b["joules_per_token_net"] == pytest.approx((2000 - 2 * 50 * 11) / 100)
    assert a["watts"] == pytest.approx(300) and a["devices"] == ["GPU-a", "GPU-b"]
    assert energy.ratio("a", "b").value == pytest.approx(1.5)
    assert energy.ratio_net("a", "b").value == pytest.approx(2000 / 900)
    compared = energy.compare([("a", "b")])
    assert [found["metric"] for found in compared] == ["energy_ratio", "energy_ratio_net"]
    assert all(found["better"] == "lower" and found["null"] == 1 for found in compared)


def test_the_drift_of_idling_between_the_spells_widens_the_net_interval_alone() -> None:
    steady, drifting = (Energy(run_of([idle(*[w] * 5) for w in spells]), ("a", "b")) for spells in ((50, 50), (40, 60)))

    def width(found: Any) -> float:
        return float(found.high - found.low)

    assert width(drifting.ratio("a", "b")) == width(steady.ratio("a", "b"))
    assert drifting.ratio_net("a", "b").value == pytest.approx(steady.ratio_net("a", "b").value)
    assert width(drifting.ratio_net("a", "b")) > 5 * width(steady.ratio_net("a", "b"))


def test_the_net_interval_holds_the_truth_although_idling_drifts() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        spells = [50 + rng.normal(0, 8 / 2**0.5) + rng.normal(0, 0.5, 5) for _ in range(2)]  # they differ by sd 8 W
        found = Energy(run_of([idle(*spell) for spell in spells], rng.normal(0, 10, 5)), ("a", "b"))
        estimate = found.ratio_net("a", "b")
        assert estimate.low is not None and estimate.high is not None
        held += estimate.low <= 2000 / 900 <= estimate.high
    assert held > 0.85 * 300  # with half of this width it is 0.82


def test_with_one_spell_of_idling_there_is_a_net_ratio_without_an_interval() -> None:
    after = without_joules(idle(90), "a reset")
    for idles in ([idle(50, 50, 50)], [idle(50), after]):
        found = Energy(run_of(idles), ("a", "b")).ratio_net("a", "b")
        assert found.value == pytest.approx(2000 / 900) and found.low is found.p is None
        assert "before or after its blocks only" in (found.reason or "")


def test_the_table_names_what_any_variant_has_against_its_joules() -> None:
    traced = {"method": "nvml_power_trace", "method_reason": "the energy counter stood still for 1 s"}
    records = [
        {**idle(50), "notes": ["the order of GPUs is doubtful"]},
        *(block(i, label, device(9, 1, **(traced if label == "b" else {}))) for i in range(2) for label in "ab"),
        *({**block(i, label, device(9, 1, "GPU-c")), "process_id": "two"} for i in (2,) for label in "ab"),
    ]
    energy = Energy(records, ("a", "b"))
    notes = " | ".join(_energy_notes([energy.figures(label) for label in "ab"]))
    assert "(nvml_power_trace, nvml_total_energy)" in notes
    assert "not by the counter: the energy counter stood still" in notes
    assert "the order of GPUs is doubtful" in notes and "MIXED: blocks of energy of 2 sets of devices" in notes


def test_every_process_is_netted_by_its_own_idling() -> None:
    records = [idle(50, 50), idle(80, 80, process="two")]
    for i, process in enumerate(("one", "two")):
        records += [block(i, label, device(1000, 10), device(1000, 10, "GPU-b"), process=process) for label in "ab"]
    net = Energy(records, ("a", "b")).figures("a")["joules_per_token_net"]
    assert net == pytest.approx((2000 - 1000 + 2000 - 1600) / 200)
    without = Energy(records[1:], ("a", "b")).figures("a")
    assert without["joules_per_token_net"] is None and "idling" in without["joules_per_token_net_reason"]


def test_a_round_counts_only_if_one_process_and_attempt_made_it_whole() -> None:
    one = device(1, 1)
    halves = [block(0, "a", one, process="one"), block(0, "b", one, process="two")]
    attempts = [block(0, "a", one, attempt=0), block(0, "b", one, attempt=1)]
    assert settled_rounds(halves, "ab") == {} and settled_rounds(attempts, "ab") == {}
    failed = {**block(0, "b", one, process="two"), "joules": None}
    assert settled_rounds([*halves, failed], "ab") == {}
    whole = [*halves, block(0, "a", one, process="two", tokens=7)]
    assert settled_rounds(whole, "ab")[0]["a"]["tokens"] == 7


def test_disagreement_and_throttling_are_counted_by_blocks() -> None:
    hot = [{"seconds": 0.0, "clock_events": ["gpu_idle", "sw_power_cap"]}]
    records = [
        block(0, "a", device(1, 1, disagrees=True), device(1, 1, "GPU-b", disagrees=True)),
        block(1, "a", device(1, 1, states=hot)),
    ]
    figures = Energy(records, ("a",)).figures("a")
    assert (figures["blocks_disagreeing"], figures["blocks_throttled"]) == (1, 1)
    assert figures["throttles"] == ["sw_power_cap"]


def test_no_records_leave_the_reason_that_is_given() -> None:
    figures = Energy([], ("a",), absent="no NVML: nothing there").figures("a")
    assert figures["joules_per_token"] is None and figures["joules_per_token_reason"] == "no NVML: nothing there"
    json.dumps(figures, allow_nan=False)

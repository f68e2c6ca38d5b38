"""The energy meter against a stub of NVML whose power is known, and against a powercap tree of plain files.

The metering code runs in processes of their own, through the real pynvml and ctypes and the stub, a library in C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.nvml import CURVES, DRIVER, SLICES, UUIDS, Curve, nvml_environment, run_python

# Measures windows of so many seconds each, and prints all that came of it as JSON.
PROGRAM = """
import json, sys, time
from dataclasses import asdict
from mtad.errors import UserError
from mtad.meter import meter as module

seconds, options = json.loads(sys.argv[1])
pause = options.pop("pause", 0)
module.PATIENCE_SECONDS = 0.5
try:
    meter = module.open_meter(rapl=None, **options)
except UserError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
windows = []
for number, length in enumerate(seconds):
    time.sleep(pause if number else 0)
    with meter.window() as window:
        begun = time.perf_counter()
        time.sleep(length)
        ended = time.perf_counter()
    left = time.perf_counter()
    windows.append({"begun": begun, "ended": ended, "left": left, **asdict(window.record)})
print(json.dumps({"windows": windows, "describe": meter.describe(), "absent": meter.absent}, allow_nan=False))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stub is, compiled once."""
    return tmp_path_factory.mktemp("nvml")


def measure(environment: Mapping[str, str], *seconds: float, **options: object) -> dict[str, Any]:
    """What the program above says."""
    found: dict[str, Any] = run_python(PROGRAM, environment, json.dumps([seconds, options]))
    return found


def truth(curve: Curve, window: Mapping[str, Any], gpu: int) -> float:
    """Joules between the two refreshes of the counter that the meter claims to have seen, which must hold the work."""
    device = window["devices"][gpu]
    start = curve.refreshed(window["begun"] - device["lead_seconds"])
    end = curve.refreshed(window["begun"] - device["lead_seconds"] + device["seconds"])
    assert start <= window["begun"] and end >= window["ended"] - 1e-3
    return curve.joules(start, end)


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """Windows on healthy GPUs, one of them shorter than the counter's refresh."""
    return measure(nvml_environment(folder, throttle={1: 0x44}), 1.5, 0.02)


@pytest.mark.parametrize("gpu", range(3))
def test_joules_are_those_of_the_known_curve(plain: dict[str, Any], gpu: int) -> None:
    for window in plain["windows"]:
        device = window["devices"][gpu]
        assert (device["uuid"], device["method"], device["joules_reason"]) == (UUIDS[gpu], "nvml_total_energy", None)
        assert device["joules"] == pytest.approx(truth(CURVES[gpu], window, gpu), rel=0.02)
        assert device["seconds"] >= window["work_seconds"]
        assert device["seconds"] < window["work_seconds"] + 0.5


@pytest.mark.parametrize("gpu", range(3))
def test_the_power_trace_is_dense_and_its_integral_agrees(plain: dict[str, Any], gpu: int) -> None:
    device = plain["windows"][0]["devices"][gpu]
    assert device["power"] == "instant" and device["trace_hertz"] >= 10
    assert device["trace"][0][0] <= 0 and device["trace"][-1][0] >= device["seconds"] - 1e-3
    assert device["trace_joules"] == pytest.approx(truth(CURVES[gpu], plain["windows"][0], gpu), rel=0.02)
    assert abs(device["disagreement"]) < 0.05 and not device["disagrees"]


def test_state_is_logged_once_a_second_with_the_names_of_throttles(plain: dict[str, Any]) -> None:
    states = plain["windows"][0]["devices"][1]["states"]
    assert 2 <= len(states) <= 3
    assert states[0]["temperature_celsius"] == 50 and states[0]["sm_megahertz"] == 1400
    assert states[0]["clock_events"] == ["sw_power_cap", "hw_thermal_slowdown"]


def test_devices_are_described_for_the_record(plain: dict[str, Any]) -> None:
    described = plain["describe"]["devices"]
    assert [device["uuid"] for device in described] == list(UUIDS)
    assert described[0]["driver"] == DRIVER and described[0]["power_limit_watts"] == 700
    assert described[0]["compute_mode"] == "default" and described[0]["persistence_mode"] is True
    assert described[0]["ecc"] is True and described[1]["ecc"] is None  # the stub's second GPU does not say
    assert "Not Supported" in described[1]["ecc_reason"] and described[0]["counter"] == "nvml_total_energy"


def test_a_reset_and_a_loss_are_named_and_leave_the_other_gpu_its_joules(folder: Path) -> None:
    [window] = measure(nvml_environment(folder, reset={0: 0.7}, lost={1: 0.7}), 1.2)["windows"]
    reset, lost, healthy = window["devices"]
    assert reset["joules"] is None and "the energy counter was reset: from" in reset["joules_reason"]
    assert lost["joules"] is None and "the GPU was lost" in lost["joules_reason"]
    assert lost["method"] is None and lost["seconds"] is None
    assert healthy["joules"] == pytest.approx(truth(CURVES[2], window, 2), rel=0.02)


def test_a_reset_between_windows_harms_neither(folder: Path) -> None:
    for window in measure(nvml_environment(folder, reset={0: 1.2}), 0.2, 0.2, pause=1.2)["windows"]:
        assert window["devices"][0]["joules"] == pytest.approx(truth(CURVES[0], window, 0), rel=0.02)


def test_without_a_counter_the_trace_counts_and_without_permission_nothing_does(folder: Path) -> None:
    steering = {"no_permission": {0: 1}, "no_counter": {1: 1}, "stands": {2: 0}}
    [window] = measure(nvml_environment(folder, **steering), 1.0)["windows"]  # type: ignore[arg-type]
    forbidden, older, standing = window["devices"]
    assert forbidden["joules"] is None and "no permission" in forbidden["joules_reason"]
    for device, curve, reason in ((older, CURVES[1], "Not Supported"), (standing, CURVES[2], "stood still for 1 s")):
        assert device["method"] == "nvml_power_trace" and reason in device["method_reason"]
        exact = curve.joules(window["ended"] - device["seconds"], window["ended"])
        assert device["joules"] == pytest.approx(exact, rel=0.02)
        assert device["seconds"] == pytest.approx(window["work_seconds"])


def test_a_counter_that_stops_within_a_window_gives_way_to_the_trace(folder: Path) -> None:
    [window] = measure(nvml_environment(folder, stands={0: 0.5}), 1.0)["windows"]
    device = window["devices"][0]
    assert device["method"] == "nvml_power_trace" and "stood still" in device["method_reason"]
    assert device["joules"] == pytest.approx(
        CURVES[0].joules(window["ended"] - device["seconds"], window["ended"]), rel=0.02
    )


def test_counter_and_trace_that_disagree_are_flagged_and_far_apart_give_nothing(folder: Path) -> None:
    steering = {"counter_scale": {0: 1.1, 1: 0.3}, "energy_error": {2: 999}}
    [window] = measure(nvml_environment(folder, **steering), 1.0)["windows"]  # type: ignore[arg-type]
    faster, slower, broken = window["devices"]
    assert faster["disagrees"] and faster["disagreement"] == pytest.approx(0.1, abs=0.02)
    assert faster["joules"] == pytest.approx(1.1 * truth(CURVES[0], window, 0), rel=0.02)  # flagged, not mended
    assert slower["joules"] is None and "far too little" in slower["joules_reason"]
    assert broken["joules"] is None and broken["joules_reason"] == "NVML: Unknown Error"


@pytest.mark.parametrize(
    ("capabilities", "kinds"),
    [((86, 80, 0), ["average", "instant", None]), ((120, 90, 70), ["average", "average", "instant"])],
)
def test_power_usage_is_a_mean_on_gpus_newer_than_ga100_alone(
    folder: Path, capabilities: tuple[int, ...], kinds: list[str | None]
) -> None:
    steering = {"no_instant": dict.fromkeys(range(3), 1), "capability": dict(enumerate(capabilities))}
    [window] = measure(nvml_environment(folder, **steering), 0.3)["windows"]  # type: ignore[arg-type]
    assert [device["power"] for device in window["devices"]] == kinds
    assert all(device["trace_hertz"] >= 10 for device in window["devices"])


def test_a_slow_driver_costs_no_accuracy(folder: Path) -> None:
    [window] = measure(nvml_environment(folder, slow_ms={0: 5, 1: 10}), 1.2)["windows"]
    for gpu, device in enumerate(window["devices"]):
        assert device["method"] == "nvml_total_energy" and device["trace_reason"] is None
        assert device["joules"] == pytest.approx(truth(CURVES[gpu], window, gpu), rel=0.02)
        assert device["joules"] / device["seconds"] == pytest.approx(
            device["trace_joules"] / device["seconds"], rel=0.03
        )


def test_a_trace_that_is_too_thin_stands_in_for_nothing(folder: Path) -> None:
    slow = {"slow_ms": {0: 110, 1: 110}, "no_counter": {0: 1}}
    [window] = measure(nvml_environment(folder, **slow), 0.5)["windows"]  # type: ignore[arg-type]
    alone, beside, _ = window["devices"]
    assert alone["joules"] is None and "its readings are too few" in alone["joules_reason"]
    assert beside["joules"] > 0 and beside["trace_joules"] is None and "are too few" in beside["trace_reason"]


def test_a_driver_that_does_not_answer_costs_a_bounded_time_and_is_not_asked_again(folder: Path) -> None:
    first, second = measure(nvml_environment(folder, hangs={1: 0.4}), 0.6, 0.3)["windows"]
    for window in (first, second):
        assert "did not answer" in window["devices"][1]["joules_reason"]
        assert window["devices"][0]["joules"] == pytest.approx(truth(CURVES[0], window, 0), rel=0.02)
    assert first["left"] - first["ended"] < 4 and second["left"] - second["ended"] < 1


@pytest.mark.parametrize(
    ("code", "reason"), [(9, "driver is not loaded"), (12, "libnvidia-ml.so.1"), (4, "permission")]
)
def test_why_there_is_no_meter_is_one_line(folder: Path, code: int, reason: str) -> None:
    found = measure(nvml_environment(folder, init_error=code))
    assert reason in found["absent"] and "\n" not in found["absent"]
    assert found["describe"]["devices"] == []


def test_an_unknown_uuid_is_one_line_that_lists_those_there(folder: Path) -> None:
    error = measure(nvml_environment(folder), gpus=["GPU-nobody"])["error"]
    assert "'GPU-nobody'" in error and all(uuid in error for uuid in UUIDS) and "\n" not in error


def test_only_the_gpus_in_use_are_measured(folder: Path) -> None:
    base = nvml_environment(folder, mig={2: 2})
    by_variable = measure({**base, "CUDA_VISIBLE_DEVICES": SLICES[2][1]})["describe"]["devices"]
    assert [(device["uuid"], device["shared"]) for device in by_variable] == [(UUIDS[2], True)]
    by_torch = measure({**base, "CUDA_VISIBLE_DEVICES": "0"}, torch_uuids=[UUIDS[1].removeprefix("GPU-")])["describe"]
    assert [device["uuid"] for device in by_torch["devices"]] == [UUIDS[1]]
    by_name = measure(base, gpus=[UUIDS[2], UUIDS[0]], torch_uuids=[])["describe"]["devices"]
    assert [device["uuid"] for device in by_name] == [UUIDS[2], UUIDS[0]]
    by_both = measure(base, gpus=[UUIDS[2], UUIDS[0]], torch_uuids=[SLICES[2][0].removeprefix("MIG-")])["describe"]
    assert [device["uuid"] for device in by_both["devices"]] == [UUIDS[2], UUIDS[0]] and not by_both["notes"]
    on_cpu = measure(base, torch_uuids=[])
    assert on_cpu["describe"]["devices"] == [] and "no GPU is in use" in on_cpu["absent"]


def test_gpus_named_for_the_meter_hold_the_one_that_the_run_uses(folder: Path) -> None:
    base = nvml_environment(folder)
    other = measure(base, gpus=[UUIDS[0]], torch_uuids=[UUIDS[1].removeprefix("GPU-")])["error"]
    assert f"the run uses GPU {UUIDS[1]}" in other and "\n" not in other
    unknown = measure(base, gpus=[UUIDS[0]], torch_uuids=["feed"])["error"]
    assert "does not know the GPU feed" in unknown and "\n" not in unknown
    on_cpu = measure(base, gpus=[UUIDS[0]], torch_uuids=[])["describe"]
    assert len(on_cpu["devices"]) == 1 and "the run is on the CPU" in on_cpu["notes"][0]


def test_idle_watts_are_those_of_the_curve(folder: Path) -> None:
    program = """
import json
from mtad.meter.meter import open_meter
meter = open_meter(rapl=None)
print(json.dumps([[d.joules / d.seconds for d in record.devices] for record in meter.idle(1, 5)]))
"""
    windows = run_python(program, nvml_environment(folder, [Curve(80), Curve(150, phase=0.05), Curve(300)]))
    assert len(windows) == 5
    for watts in windows:
        assert watts == pytest.approx([80, 150, 300], rel=0.03)

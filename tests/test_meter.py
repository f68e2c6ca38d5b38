"""The energy meter against a stub of NVML whose power is known, and against a powercap tree of plain files.

The metering code runs in processes of their own, through the real pynvml and ctypes and the stub, a library in C.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mtad.errors import UserError
from mtad.meter.device import UnreadableError
from mtad.meter.meter import Meter, open_meter
from mtad.meter.nvml import clock_events
from mtad.meter.rapl import Package, open_packages
from mtad.meter.visible import DOUBT, from_torch, visible
from mtad.meter.watch import integral
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
for length in seconds:
    with meter.window() as window:
        begun = time.perf_counter()
        time.sleep(length)
        ended = time.perf_counter()
    left = time.perf_counter()
    windows.append({"begun": begun, "ended": ended, "left": left, **asdict(window.record)})
    time.sleep(pause)
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
    """Three windows on healthy GPUs, one of them shorter than the counter's refresh."""
    return measure(nvml_environment(folder, throttle={1: 0x44}), 1.5, 0.02, 0.6)


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


def test_average_power_is_taken_where_there_is_no_other_and_called_so(folder: Path) -> None:
    [window] = measure(nvml_environment(folder, no_instant={0: 1}), 0.3)["windows"]
    assert [device["power"] for device in window["devices"]] == ["average", "instant", "instant"]
    assert window["devices"][0]["trace_hertz"] >= 10


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
    on_cpu = measure(base, torch_uuids=[])
    assert on_cpu["describe"]["devices"] == [] and "no GPU is in use" in on_cpu["absent"]


def test_idle_watts_are_those_of_the_curve(folder: Path) -> None:
    program = """
import json
from mtad.meter.meter import open_meter
meter = open_meter(rapl=None)
print(json.dumps([[d.joules / d.seconds for d in record.devices] for record in meter.idle(1.5, 5)]))
"""
    windows = run_python(program, nvml_environment(folder, [Curve(80), Curve(150, phase=0.05), Curve(300)]))
    assert len(windows) == 5
    for watts in windows:
        assert watts == pytest.approx([80, 150, 300], rel=0.03)


# -- which GPUs are in use -------------------------------------------------------------------------------------------


@dataclass
class Listed:
    """A GPU as NVML lists it."""

    uuid: str
    name: str
    slices: tuple[str, ...] = ()


LISTED = [Listed(UUIDS[0], "A"), Listed(UUIDS[1], "B"), Listed(UUIDS[2], "C", SLICES[2])]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("0,7,1", [0]),
        ("1,-1,0", [1]),
        ("0,0", []),
        (UUIDS[1], [1]),
        (f"{UUIDS[2]},{UUIDS[0]}", [2, 0]),
        ("GPU-3c4d", [2]),
        ("GPU-1a2b", []),  # the beginning of two
        ("GPU-1a2b1,GPU-nobody,GPU-3c4d", [1]),
        ("GPU-", []),
        (f"{UUIDS[0]},1", [0]),  # forms do not mix
        (SLICES[2][0], [2]),
        (",".join(SLICES[2]), [2]),  # two slices of one GPU
        (SLICES[2][1][:6], [2]),
        (f"MIG-{UUIDS[2]}/1/0", [2]),
        ("MIG-GPU-nobody/1/0", []),
    ],
)
def test_cuda_visible_devices_in_all_its_forms(variable: str | None, expected: list[int]) -> None:
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible(LISTED, environment).uuids == tuple(UUIDS[gpu] for gpu in expected)


def test_indices_are_doubted_only_where_the_order_may_differ() -> None:
    by_index = {"CUDA_VISIBLE_DEVICES": "1"}
    alike = [Listed(gpu.uuid, "A") for gpu in LISTED]
    assert visible(LISTED, by_index).notes == (DOUBT,)
    assert not visible(LISTED, {**by_index, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes
    assert not visible(alike, by_index).notes
    assert not visible(LISTED, {"CUDA_VISIBLE_DEVICES": UUIDS[1]}).notes


def test_torch_names_gpus_without_a_prefix_and_slices_too() -> None:
    bare = [UUIDS[1].removeprefix("GPU-"), SLICES[2][0].removeprefix("MIG-")]
    assert from_torch(LISTED, bare).uuids == (UUIDS[1], UUIDS[2])
    unknown = from_torch(LISTED, ["feed"])
    assert not unknown.uuids and "does not know the GPU feed" in unknown.notes[0]


# -- RAPL --------------------------------------------------------------------------------------------------------------


def powercap(root: Path, energy: Sequence[int], most: int = 262_143_328_850) -> Path:
    """A powercap tree with one package for each entry of `energy`, in microjoules, and a part that must not count."""
    for index, microjoules in enumerate(energy):
        zones = {f"intel-rapl:{index}": f"package-{index}", f"intel-rapl:{index}:0": "core"}
        for zone, name in {**zones, f"intel-rapl:{index + 8}": "psys"}.items():
            (root / zone).mkdir(parents=True)
            for file, content in (("name", name), ("max_energy_range_uj", most), ("energy_uj", microjoules)):
                (root / zone / file).write_text(f"{content}\n")
    return root


@pytest.fixture
def rising(tmp_path: Path) -> Iterator[Path]:
    """Package 0 draws 50 W and wraps around every half second; package 1 draws 20 W."""
    most = 25_000_000
    root = powercap(tmp_path / "powercap", [0, 0], most)
    stop, started = threading.Event(), time.perf_counter()

    def write() -> None:
        while not stop.wait(0.002):
            for index, watts in enumerate((50, 20)):
                fresh = root / f"fresh{index}"
                fresh.write_text(f"{int((time.perf_counter() - started) * watts * 1e6) % most}\n")
                fresh.replace(root / f"intel-rapl:{index}" / "energy_uj")

    thread = threading.Thread(target=write)
    thread.start()
    yield root
    stop.set()
    thread.join()


def test_rapl_counts_packages_through_many_wraps(rising: Path) -> None:
    meter = Meter(open_packages(rising), {})
    with meter.window() as window:
        time.sleep(1.4)
    devices = window.record.devices
    assert [device.name for device in devices] == ["package-0", "package-1"]
    for device, watts in zip(devices, (50, 20), strict=True):
        assert device.method == "rapl" and device.seconds is not None and device.seconds > 1.4
        assert device.joules == pytest.approx(watts * device.seconds, rel=0.03)
        assert device.shared and not device.trace and "no power reading" in str(device.trace_reason)
    total, reason = window.record.joules("cpu")
    assert total == sum(device.joules or 0 for device in devices) and reason is None
    assert window.record.joules("gpu") == (None, "no GPU is measured")


def test_a_rapl_counter_that_was_reset_is_no_wrap(tmp_path: Path) -> None:
    root = powercap(tmp_path, [5_000_000_000])
    package = Package(root / "intel-rapl:0")
    (root / "intel-rapl:0" / "energy_uj").write_text("1000000\n")
    with pytest.raises(UnreadableError, match=r"was reset: from 5000\.000 J to 1\.000 J"):
        package.joules()
    (root / "intel-rapl:0" / "energy_uj").write_text("1000001\n")
    assert package.joules() == pytest.approx(1e-6)


@pytest.mark.parametrize("content", ["", "many\n", None])
def test_an_unreadable_rapl_file_is_one_line(tmp_path: Path, content: str | None) -> None:
    root = powercap(tmp_path, [7])
    file = root / "intel-rapl:0" / "energy_uj"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"intel-rapl:0/energy_uj") as error:
        open_meter(gpus=None, torch_uuids=[], rapl=root)
    assert "\n" not in str(error.value)


def test_rapl_for_root_alone_says_so(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path itself is closed to others
        root = powercap(Path(name), [7])
        Path(name).chmod(0o755)
        (root / "intel-rapl:0" / "energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # a user who may not
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                open_packages(root)
            except UnreadableError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 1000).decode().startswith("no permission to read intel-rapl:0/energy_uj")
        os.close(reader)
        os.close(writer)


def test_a_machine_without_rapl_has_a_reason_and_a_folder_without_it_an_error(tmp_path: Path) -> None:
    assert open_meter(torch_uuids=[], rapl=None).reasons["cpu"] == "RAPL was left out"
    with pytest.raises(UserError, match="no RAPL"):
        open_meter(torch_uuids=[], rapl=tmp_path)


# -- small rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hertz", [0, -1, 5, 1000, float("nan"), True, "often"])
def test_a_rate_out_of_range_is_one_line(hertz: Any) -> None:
    with pytest.raises(UserError, match=r"^hertz must be a number from 10 to 200, not "):
        open_meter(torch_uuids=[], hertz=hertz)


@pytest.mark.skipif(importlib.util.find_spec("zeus") is not None, reason="Zeus is installed")
def test_zeus_that_is_missing_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError, match="pip install zeus"):
        open_meter(torch_uuids=[], zeus=True)


def test_the_trace_is_integrated_between_its_readings_too() -> None:
    trace = [(0.0, 10.0), (1.0, 20.0), (3.0, 20.0)]
    assert integral(trace, 0.5, 2.0) == pytest.approx(0.5 * 17.5 + 20)
    assert integral(trace[:1], 0, 1) is None


def test_unknown_clock_events_keep_their_bits() -> None:
    assert clock_events(0x1001) == ["gpu_idle", "0x1000"]

"""Which devices are metered: GPUs by torch and CUDA_VISIBLE_DEVICES, CPU packages by a powercap tree of plain files."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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
from mtad.meter.watch import integral, thinness
from mtad.meter.zeus import SecondOpinion, Zeus
from tests.nvml import SLICES, UUIDS


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


def test_a_device_that_the_record_has_already_is_only_named_and_a_silent_one_has_a_reason(tmp_path: Path) -> None:
    meter = Meter(open_packages(powercap(tmp_path, [7, 7, 7], most=9_000_000)), {})
    meter.silent["intel-rapl:1"] = "no answer"
    full, silent, known = meter.describe(elsewhere=["intel-rapl:2"])["devices"]
    assert known == {"uuid": "intel-rapl:2", "kind": "cpu", "name": "package-2", "counter": "rapl", "shared": True}
    assert full == {**known, "uuid": "intel-rapl:0", "name": "package-0", "counter_range_joules": 9.0}
    assert silent == {**known, "uuid": "intel-rapl:1", "name": "package-1", "reason": "no answer"}


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


class Failing(Package):
    """A package whose counter ends in an error that no device should raise, at its `after`-th reading."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.after = after

    def joules(self) -> float:
        self.after -= 1
        if self.after < 0:
            raise ValueError("a bug\nin two lines")
        return super().joules()

    def watts(self) -> float:
        return 50.0


@pytest.mark.parametrize("after", [0, 2, 200])
def test_an_error_of_any_kind_in_the_thread_is_named_and_gives_no_joules(rising: Path, after: int) -> None:
    meter = Meter([Failing(rising / "intel-rapl:0", after)], {}, hertz=200)
    with meter.window() as window:
        time.sleep(1.2)
    [device] = window.record.devices
    assert device.joules is None and device.joules_reason == "reading it ended in ValueError: a bug"
    assert device.method is None and device.trace_joules is None


class Sluggish(Failing):
    """50 W; the counter is refreshed every 0.8 s, 0.35 s after it was read first; the state takes 0.3 s to tell."""

    first: float | None = None

    def joules(self) -> float:
        now = time.perf_counter()
        self.first = now if self.first is None else self.first
        return 40.0 * ((now - self.first + 0.45) // 0.8)

    def state(self) -> dict[str, Any]:
        time.sleep(0.3)
        return {}


def test_a_state_that_is_due_while_a_refresh_is_waited_for_does_not_hide_it(tmp_path: Path) -> None:
    meter = Meter([Sluggish(powercap(tmp_path, [0]) / "intel-rapl:0", 0)], {})
    with meter.window() as window:
        time.sleep(0.5)  # the second wait is from 0.85 s to 1.15 s; the second state is due after 1 s
    [device] = window.record.devices
    assert device.joules == 40 and device.seconds == pytest.approx(0.8, rel=0.1)


@pytest.fixture
def broken_zeus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of Zeus's name, whose window cannot be opened."""
    (tmp_path / "zeus").mkdir()
    (tmp_path / "zeus" / "__init__.py").write_text("")
    monitor = "class ZeusMonitor:\n    def __init__(self, **_): pass\n    def begin_window(self, *_, **__): {}\n"
    (tmp_path / "zeus" / "monitor.py").write_text(monitor.format('raise RuntimeError("no window")'))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zeus"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("broken_zeus")
def test_a_second_opinion_that_fails_is_a_reason_and_costs_the_first_nothing(rising: Path) -> None:
    meter = Meter([Package(rising / "intel-rapl:1")], {}, zeus=Zeus())
    with meter.window() as window:
        time.sleep(0.1)
    assert window.record.zeus == SecondOpinion(None, None, "Zeus: RuntimeError: no window")
    assert window.record.devices[0].joules is not None
    for name in ("zeus.monitor", "zeus"):
        sys.modules.pop(name, None)


def test_a_window_that_cannot_be_opened_leaves_no_thread(rising: Path) -> None:
    class Interrupted(Zeus):
        def __init__(self) -> None: ...

        def begin(self) -> None:
            raise KeyboardInterrupt

    meter = Meter([Package(rising / "intel-rapl:1")], {}, zeus=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        meter.window().__enter__()
    deadline = time.perf_counter() + 3
    while any(thread.name.startswith("meter ") for thread in threading.enumerate()):
        assert time.perf_counter() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(importlib.util.find_spec("zeus") is not None, reason="Zeus is installed")
def test_zeus_that_is_missing_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError, match="pip install zeus"):
        open_meter(torch_uuids=[], zeus=True)


def test_the_trace_is_integrated_between_its_readings_too() -> None:
    trace = [(0.0, 10.0), (1.0, 20.0), (3.0, 20.0)]
    assert integral(trace, 0.5, 2.0) == pytest.approx(0.5 * 17.5 + 20)
    assert integral(trace[:1], 0, 1) is None


def test_a_trace_is_a_measure_only_where_it_is_dense_and_covers_the_span() -> None:
    dense = [(second / 20, 10.0) for second in range(41)]
    assert thinness(dense, 0.1, 1.9) is None
    assert thinness(dense, -0.1, 1.9) == thinness(dense, 0.1, 2.1) == "its readings do not cover the span"
    assert "5.0 a second" in str(thinness(dense[::4], 0.1, 1.9))
    gap = [*dense[:10], *dense[22:]]
    assert "up to 0.65 s apart" in str(thinness(gap, 0.1, 1.9)) and thinness(gap, 1.2, 1.9) is None
    assert thinness(dense[:1], 0, 0) == "too few readings"


def test_unknown_clock_events_keep_their_bits() -> None:
    assert clock_events(0x1001) == ["gpu_idle", "0x1000"]

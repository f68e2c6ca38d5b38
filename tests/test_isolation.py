"""Other users of the machine are named, and we are never taken for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cpu_load import TICKS, TOO_SHORT, CpuLoad
from experiments.isolation import (
    CONTEXT_BYTES,
    LOUD_CORES,
    NO_GPU,
    Strangers,
    Watch,
    disturbances,
    findings,
    strangers_on,
)
from tests.nvml import SLICES, UUIDS, nvml_environment, run_python

CPU = torch.device("cpu")
QUIET = {"others_cpu_cores": 0.02, "stolen_cpu_cores": 0.0, "gpu_processes": 0, "throttle": []}
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
# Spins on one core and prints the CPU seconds that it has had so far, a line every 50 ms.
SPINNER = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
while True:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    print(time.process_time(), flush=True)
"""
# Watches one core for a second and prints the lap; `own` is the CPU time of this process and its child meanwhile.
WATCHER = """
import json, os, subprocess, sys, threading, time
import torch
core, what, spinner = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.sched_setaffinity(0, {core})
from experiments.isolation import Watch
watch = Watch(torch.device("cpu"))
before = [finding.kind for finding in watch.before()] if what == "nothing" else []
child = None
if what == "running child":
    child = subprocess.Popen([sys.executable, "-c", spinner, str(core)], stdout=subprocess.PIPE, text=True)
    child_start = float(child.stdout.readline())
def spin():
    end = time.perf_counter() + 1
    while time.perf_counter() < end: pass
started = time.process_time(), os.times().children_user
watch.start()
if what == "thread":
    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
elif what == "ended child":
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"])
else:
    time.sleep(1)
lap = watch.lap()
own = time.process_time() - started[0] + os.times().children_user - started[1]
if child:
    os.set_blocking(child.stdout.fileno(), False)
    own += float(child.stdout.read().split()[-1]) - child_start
    child.kill()
print(json.dumps({"before": before, "lap": lap, "own_cores": own / lap["watched_seconds"]}))
"""


def watch_a_core(what: str) -> dict[str, Any]:
    core = max(os.sched_getaffinity(0))
    seen: dict[str, Any] = run_python(WATCHER, os.environ, str(core), what, SPINNER)
    return seen


@contextmanager
def busy_stranger(core: int) -> Iterator[None]:
    spinner = subprocess.Popen([sys.executable, "-c", SPINNER, str(core)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


@LINUX
def test_a_busy_process_of_others_is_found_before_and_during_a_text() -> None:
    with busy_stranger(max(os.sched_getaffinity(0))):
        seen = watch_a_core("nothing")
    assert "cpu" in seen["before"]
    assert seen["lap"]["others_cpu_cores"] > 0.8  # the stranger has the core, whoever it shares it with


@LINUX
@pytest.mark.parametrize("what", ["thread", "running child", "ended child"])
def test_our_own_work_is_not_taken_for_that_of_others(what: str) -> None:
    seen = watch_a_core(what)
    # Others and we share one core. Were our work counted as theirs, they would have all that is used of it.
    assert seen["own_cores"] > 0.1, "the machine gave us no time to test with"
    assert seen["lap"]["others_cpu_cores"] < 1 - seen["own_cores"] / 2


def write_proc(folder: Path, *cores: tuple[float, float]) -> Path:
    """A /proc whose cores have been busy, and stolen from, for so many seconds."""
    folder.mkdir(exist_ok=True)
    lines = [
        f"cpu{core} {busy * TICKS:.0f} 0 0 500 0 0 0 {stolen * TICKS:.0f} 0 0\n"
        for core, (busy, stolen) in enumerate(cores)
    ]
    (folder / "stat").write_text("cpu  9 9 9 9 9 9 9 9 9 9\n" + "".join(lines) + "intr 12 34\n")
    return folder


def test_only_cores_that_we_may_use_count_and_what_the_host_takes_is_told_apart(tmp_path: Path) -> None:
    load = CpuLoad(write_proc(tmp_path / "proc", (3, 0), (7, 0)), cores=[0])
    load.start()
    time.sleep(0.6)
    write_proc(tmp_path / "proc", (3.6, 0.3), (7.6, 0.6))
    lap = load.lap()
    assert lap["others_cpu_cores"] == pytest.approx(0.6 / lap["watched_seconds"], abs=0.05)
    assert lap["stolen_cpu_cores"] == pytest.approx(0.3 / lap["watched_seconds"], abs=0.05)


def test_short_texts_are_watched_over_a_window_that_reaches_back(tmp_path: Path) -> None:
    load = CpuLoad(write_proc(tmp_path / "proc", (1, 0)), cores=[0])
    laps = []
    for text in range(1, 9):
        load.start()
        time.sleep(0.1)
        write_proc(tmp_path / "proc", (1 + text / 20, 0))
        laps.append(load.lap())
    assert (laps[0]["others_cpu_cores"], laps[0]["others_cpu_cores_reason"]) == (None, TOO_SHORT)
    assert all(lap["others_cpu_cores"] == pytest.approx(0.5, abs=0.15) for lap in laps[5:])
    assert all(0.5 <= lap["watched_seconds"] < 0.9 for lap in laps[5:])


def test_cores_that_proc_does_not_list_are_said_to_be_missing(tmp_path: Path) -> None:
    proc = write_proc(tmp_path / "proc", (0, 0), (0, 0))
    assert CpuLoad(proc, [0, 1]).scope == ""
    assert "does not list the cores" in CpuLoad(proc, [6, 7]).scope


def test_a_system_without_proc_gives_reasons(tmp_path: Path) -> None:
    watch = Watch(CPU, proc=tmp_path / "none")
    assert [finding for finding in watch.before() if finding.kind != "threads"] == []
    lap = watch.lap()
    assert (lap["others_cpu_cores"], lap["others_cpu_cores_reason"]) == (None, "this system has no /proc/stat")
    assert (lap["gpu_processes"], lap["gpu_processes_reason"], lap["throttle_reason"]) == (None, NO_GPU, NO_GPU)
    (line,) = findings([lap, lap])
    assert line == "whether other processes used the CPU is unknown for 2 of 2 texts: this system has no /proc/stat"
    json.dumps(lap, allow_nan=False)


@LINUX
def test_more_threads_than_cores_are_named() -> None:
    program = """
import json, os, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from experiments.isolation import Watch
found = []
for threads in (1, 3):
    torch.set_num_threads(threads)
    found.append([f.message for f in Watch(torch.device("cpu")).before() if f.kind == "threads"])
print(json.dumps(found))
"""
    fine, crowded = run_python(program, os.environ)
    assert fine == []
    assert "torch computes with 3 threads, but this process may use 1 cores: set OMP_NUM_THREADS=1" in crowded[0]


def gpu_laps(environment: dict[str, str], *uuids: str, pause: float = 0.0) -> list[dict[str, Any]]:
    """For each GPU of the stub the lap and the earlier findings of a process that watches it."""
    program = """
import json, sys, time, torch
from experiments import isolation
isolation.SAMPLE_SECONDS = 0.05  # what is watched here needs no time
laps = []
for uuid in sys.argv[2:]:
    watch = isolation.Watch(torch.device("cpu"), gpus=[uuid])
    before = [[finding.kind, finding.message] for finding in watch.before() if finding.kind in ("gpu", "throttle")]
    time.sleep(float(sys.argv[1]))
    laps.append({**watch.lap(), "before": before})
print(json.dumps(laps, allow_nan=False))
"""
    laps: list[dict[str, Any]] = run_python(program, environment, str(pause), *uuids)
    return laps


def test_a_process_of_others_on_our_gpu_is_found_and_ours_and_other_gpus_are_not(tmp_path: Path) -> None:
    environment = nvml_environment(tmp_path, processes={0: [4_000_001], 1: [0, 4_000_002], 2: [0]}, mig={1: 2})
    crowded, alone, cut = gpu_laps(environment, *UUIDS[1:], SLICES[1][0].removeprefix("MIG-"))
    assert (crowded["gpu_processes"], crowded["gpu_processes_certain"], alone["gpu_processes"]) == (1, True, 0)
    ((kind, message),) = crowded["before"]
    assert kind == "gpu" and message.startswith("1 other process uses the GPU: end them, or choose another GPU")
    assert alone["before"] == [] and cut["gpu_processes"] == 1


def test_clocks_that_are_held_back_are_named_and_idle_or_set_ones_are_not(tmp_path: Path) -> None:
    environment = nvml_environment(tmp_path, throttle={0: 0x1 | 0x2, 1: 0x4 | 0x40, 2: 0x8 | 0x80})
    free, capped, braked = gpu_laps(environment, *UUIDS)
    assert free["throttle"] == [] and free["before"] == []
    assert capped["throttle"] == ["hw_thermal_slowdown", "sw_power_cap"]
    assert braked["throttle"] == ["hw_power_brake_slowdown", "hw_slowdown"]
    assert [kind for kind, _ in capped["before"]] == ["throttle"]


def test_what_nvml_refuses_is_a_reason_and_a_gpu_lost_in_the_middle_too(tmp_path: Path) -> None:
    environment = nvml_environment(tmp_path, processes={1: [4_000_001]}, lost={1: 0.5})
    (lost,) = gpu_laps(environment, UUIDS[1], pause=1.1)
    assert [kind for kind, _ in lost["before"]] == ["gpu"]  # it was there
    (unknown,) = gpu_laps(nvml_environment(tmp_path), "GPU-00000000-0000-0000-0000-000000000000")
    (no_driver,) = gpu_laps(nvml_environment(tmp_path, init_error=9), UUIDS[0])
    for lap, reason in ((lost, "lost"), (unknown, "Not Found"), (no_driver, "driver is not loaded")):
        assert (lap["gpu_processes"], lap["throttle"]) == (None, None)
        assert reason in lap["gpu_processes_reason"] and reason in lap["throttle_reason"]


@pytest.mark.parametrize(
    ("processes", "held", "used", "expected"),
    [
        ({7: 5, 8: 5}, 100, 10, Strangers(1, certain=True)),  # we are 7
        ({8: 5, 9: 5}, None, 10, Strangers(2, certain=True)),  # we have not used the GPU yet
        ({8: 5}, 0, 10, Strangers(0, certain=False)),  # we have, and hold nothing now: the one listed may be we
        ({8: 200}, 100, 300, Strangers(0, certain=False)),  # numbers of the host: the one listed holds what we hold
        ({8: 50}, 100, 300, Strangers(1, certain=False)),  # it holds less than we do, so it is not we
        ({8: 101 + CONTEXT_BYTES}, 100, 300, Strangers(1, certain=False)),
        ({8: None}, 100, 300, Strangers(0, certain=False)),  # no bytes told
        ({8: 100, 9: 5}, 100, 300, Strangers(1, certain=False)),
        ({}, 100, 200, Strangers(0, certain=False)),  # an empty list, as many containers have it
        ({}, 100, 101 + CONTEXT_BYTES, Strangers(1, certain=False)),
    ],
)
def test_in_a_container_memory_tells_others_from_us(
    processes: dict[int, int | None], held: int | None, used: int, expected: Strangers
) -> None:
    assert strangers_on(processes, mine={7}, used=used, held=held) == expected


def test_none_that_is_not_certain_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(torch.device("cpu"), gpus=["GPU-x"])
    monkeypatch.setattr(watch._gpus[0], "strangers", lambda: Strangers(0, certain=False))
    seen = watch._processes()
    assert seen["gpu_processes"] is None and "containers" in seen["gpu_processes_reason"]
    assert "whether other processes used the GPU is unknown for 1 of 1 texts" in findings([{**QUIET, **seen}])[0]


def test_findings_are_a_line_for_each_kind_and_nothing_on_a_quiet_machine() -> None:
    assert findings([QUIET] * 3) == [] and findings([]) == []
    loud = {**QUIET, "others_cpu_cores": LOUD_CORES + 0.9}
    sharing = {**QUIET, "gpu_processes": 2, "gpu_processes_certain": False}
    laps = [QUIET, loud, {**loud, "others_cpu_cores": 0.3}, sharing, {**QUIET, "throttle": ["sw_power_cap"]}]
    assert findings([*laps, {**QUIET, "stolen_cpu_cores": 0.5}]) == [
        "2 of 6 texts were measured while other processes used more than 0.2 cores (most: 1.1)",
        "1 of 6 texts were measured while the host used more than 0.2 cores (most: 0.5)",
        "1 of 6 texts were measured while others may have used the GPU (most: 2)",
        "1 of 6 texts ended while the GPU's clocks were held back (sw_power_cap)",
    ]


def test_texts_too_short_to_watch_are_mentioned_only_if_all_were() -> None:
    short = {**QUIET, "others_cpu_cores": None, "others_cpu_cores_reason": TOO_SHORT, "stolen_cpu_cores": None}
    assert findings([short, QUIET]) == [] == disturbances([short])
    (line,) = findings([short, short])
    assert "unknown for 2 of 2 texts" in line

"""The record of a process: complete, null only with a reason, and nobody's business but the machine's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.environment import cgroup_quota, cpu_clocks, describe_process, fingerprint
from tests.nvml import DRIVER, SLICES, UUIDS, nvml_environment, run_python

CPU = torch.device("cpu")
PROMISED = {"git", "code", "python", "packages", "system", "machine", "cpu", "cores", "cores_allowed", "memory_bytes"}
PROMISED |= {"cgroup_quota_cores", "cpu_clocks", "instructions", "torch_threads", "torch", "device", "gpu"}
PROMISED |= {"variables", "slurm"}


def nulls(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every null of a record, on all levels, with what stands beside it as its reason."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from nulls(value)
        elif value is None:
            yield name, record.get(f"{name}_reason")


def write(file: Path, text: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def test_the_record_has_what_is_promised_and_a_reason_for_every_null() -> None:
    record = describe_process("p", "2026-01-01T00:00:00+00:00", CPU)
    assert record.keys() >= PROMISED
    assert record["torch"].keys() >= {"interop_threads", "matmul_precision", "deterministic_algorithms"}
    found = dict(nulls(record))
    assert "gpu" in found and all(found.values()), found
    json.dumps(record, allow_nan=False)


def test_one_machine_has_one_fingerprint_and_other_hardware_another() -> None:
    first, second = (describe_process(name, "now", CPU)["machine"] for name in "ab")
    assert first == second
    plain = ("a cpu", 8, 2**35, None)
    others = [("b cpu", 8, 2**35, None), ("a cpu", 9, 2**35, None), ("a cpu", 8, 2**36, None), ("a cpu", 8, 2**35, "G")]
    assert len({fingerprint(*machine) for machine in (plain, *others)}) == 5
    assert fingerprint("a cpu", 8, 2**35 - 2**22, None) == fingerprint(*plain), "another kernel takes some memory"


def test_a_quota_is_the_tightest_of_a_cgroup_and_those_above_it(tmp_path: Path) -> None:
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    assert cgroup_quota(proc, mount) == (None, "no cgroups (No such file or directory)")
    write(proc / "self" / "cgroup", "0::/outer/inner")
    assert cgroup_quota(proc, mount) == (None, "no limit is set")
    write(mount / "outer" / "inner" / "cpu.max", "max 100000")
    assert cgroup_quota(proc, mount) == (None, "no limit is set")
    write(mount / "outer" / "cpu.max", "150000 100000")
    write(mount / "outer" / "inner" / "cpu.max", "400000 100000")
    write(tmp_path / "cpu.max", "1000 100000")  # of nobody
    assert cgroup_quota(proc, mount) == (1.5, None)


def test_a_quota_of_the_older_cgroups_is_read_too(tmp_path: Path) -> None:
    proc, folder = tmp_path / "proc", tmp_path / "cgroup" / "cpu,cpuacct" / "job"
    write(proc / "self" / "cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n0::/")
    write(folder / "cpu.cfs_quota_us", "-1")
    write(folder / "cpu.cfs_period_us", "50000")
    assert cgroup_quota(proc, tmp_path / "cgroup") == (None, "no limit is set")
    write(folder / "cpu.cfs_quota_us", "200000")
    assert cgroup_quota(proc, tmp_path / "cgroup") == (4.0, None)


def test_clocks_are_those_of_our_cores_and_their_absence_is_said(tmp_path: Path) -> None:
    for core, now in enumerate((1_000_000, 2_000_000, 9_000_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        for name, value in {
            "cur_freq": now,
            "min_freq": 800_000,
            "max_freq": 3_500_000,
            "governor": "powersave",
        }.items():
            write(folder / f"scaling_{name}", value)
    write(tmp_path / "intel_pstate" / "no_turbo", 1)
    assert cpu_clocks([0, 1], tmp_path, tmp_path) == {
        "current_megahertz": 1500.0,
        "min_megahertz": 800.0,
        "max_megahertz": 3500.0,
        "governor": "powersave",
        "turbo": False,
    }
    absent = cpu_clocks([0, 1], tmp_path / "none", tmp_path)
    assert [reason for name, reason in nulls(absent)] == ["the system shows no cpufreq, as most virtual machines"] * 5


def test_what_nvml_says_of_a_gpu_is_recorded_by_uuid_and_what_it_refuses_is_a_reason(tmp_path: Path) -> None:
    program = """
import json, sys
from experiments.environment import gpu_facts
print(json.dumps([gpu_facts(uuid) for uuid in sys.argv[1:]], allow_nan=False))
"""
    steered = nvml_environment(tmp_path, throttle={0: 0x44}, mig={2: 2})
    as_torch_does = UUIDS[0].removeprefix("GPU-"), SLICES[2][1].removeprefix("MIG-")  # without a prefix
    first, cut, second, unknown = run_python(program, steered, *as_torch_does, UUIDS[1], "GPU-none")
    assert first == {
        **{"uuid": UUIDS[0], "driver": DRIVER, "compute_mode": "default", "persistence_mode": True, "ecc": True},
        **{"sm_megahertz": 1400, "max_sm_megahertz": 1980, "default_sm_megahertz": 1500},
        **{"memory_megahertz": 2600, "max_memory_megahertz": 2600, "mig": False, "temperature_celsius": 40},
        **{"power_limit_watts": 700.0, "default_power_limit_watts": 700.0},
        "clock_events": ["sw_power_cap", "hw_thermal_slowdown"],
    }
    assert (cut["uuid"], cut["mig"], cut["temperature_celsius"]) == (UUIDS[2], True, 60)  # the GPU's own
    assert dict(nulls(second)) == {"ecc": "this GPU or its driver does not offer it (NVML: Not Supported)"}
    assert unknown.keys() >= first.keys() and set(dict(nulls(unknown)).values()) == {"NVML: Not Found"}
    (no_driver,) = run_python(program, nvml_environment(tmp_path, init_error=9), UUIDS[0])
    assert dict(nulls(no_driver))["sm_megahertz"] == "no NVML: NVIDIA's driver is not loaded"


def test_of_variables_only_numbers_and_switches_are_given_and_only_those_that_change_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith(("OMP_", "MKL_", "CUDA_", "SLURM", "TOKENIZERS_", "LD_", "PYTHON")):
            monkeypatch.delenv(name)
    settings = {"OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "0,2"}
    hidden = {
        "LD_PRELOAD": "libodd.so",
        "SLURM_JOB_NODELIST": "odd7",
        "SLURMD_NODENAME": "odd8",
        "ODD_NUMBER": "7654321",
    }
    slurm = {"SLURM_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "7", "SLURM_RESTART_COUNT": "1"}
    for name, value in {**settings, **hidden, **slurm}.items():
        monkeypatch.setenv(name, value)
    record = describe_process("p", "now", CPU)
    assert record["variables"] == {**settings, "LD_PRELOAD": "set"}
    assert record["slurm"] == {name: int(value) for name, value in slurm.items()}
    assert not [value for value in hidden.values() if value in json.dumps(record)]

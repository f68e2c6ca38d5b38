"""The stub of NVML for tests: compiles tests/nvml_stub.c, and steers it by environment variables.

A process that is started with `nvml_environment(...)` finds the stub where pynvml looks for libnvidia-ml.so.1. It has
three GPUs. The power of each is a sine around a mean, so the joules of any span of the monotonic clock are known.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
REFRESH = 0.1  # seconds between two refreshes of the energy counter
DRIVER = "999.42.01"
UUIDS = (
    "GPU-1a2b0000-aaaa-4000-8000-000000000000",
    "GPU-1a2b1111-bbbb-4111-8111-111111111111",
    "GPU-3c4d2222-cccc-4222-8222-222222222222",
)
# The MIG devices of each GPU, of which `mig={gpu: 2}` switches two on.
SLICES = tuple(tuple(f"MIG-{gpu}{slice}{uuid[6:]}" for slice in (1, 2)) for gpu, uuid in enumerate(UUIDS))

Steering = Mapping[int, float | Iterable[float]]


@dataclass(frozen=True)
class Curve:
    """Power over the monotonic clock: watts + swing sin(2 pi t / period); the counter refreshes `phase` s later."""

    watts: float
    swing: float = 0.0
    period: float = 1.0
    phase: float = 0.0

    def joules(self, start: float, end: float) -> float:
        """The exact integral between two times of `time.perf_counter` (on Linux the monotonic clock), seconds."""
        turn = 2 * math.pi / self.period
        return self.watts * (end - start) + self.swing / turn * (math.cos(turn * start) - math.cos(turn * end))

    def refreshed(self, time: float) -> float:
        """When the counter was refreshed last; a clock read just around a refresh counts as after it."""
        return math.floor((time + 1e-3 - self.phase) / REFRESH) * REFRESH + self.phase


CURVES = (Curve(80, 40, 3.0, 0.0), Curve(150, 60, 2.0, 0.03), Curve(300, 100, 5.0, 0.07))


def nvml_environment(folder: Path, curves: Iterable[Curve] = CURVES, **steering: Steering | int) -> dict[str, str]:
    """The environment of a process that is to find the stub; compiles it into `folder` if it is not there yet.

    Args:
        folder: where the library goes; any folder, kept by the caller.
        curves: the power of each GPU.
        steering: what goes wrong, by GPU index. `reset`, `lost`, `hangs`, `stands` (the counter): at so many seconds
            after the first nvmlInit. `no_permission`, `no_counter`, `no_instant` (power): {gpu: 1}. `energy_error`:
            NVML's code that the counter returns. `counter_scale`: the counter runs so much faster. `mig`: slices of a
            GPU (2). `processes`: pids of its compute processes, {gpu: [pid, ...]}, 0 being the asking one. `throttle`:
            bits of the clock event reasons, and `throttle_from` the second that they begin at. `same_names`: {0: 1},
            all GPUs are of one model. `slow_ms`: every call takes so long. `capability`: CUDA's, {gpu: 86} for 8.6, 0
            if NVML does not tell (90). `init_error`: an int, NVML's code that nvmlInit returns, such as 9 (driver not
            loaded).

    In that process, `ctypes.CDLL("libnvidia-ml.so.1").nvml_stub_load(gpu, ctypes.c_double(watts))` adds power from now
    on, as a workload would; `nvml_stub_reset(gpu)` resets the counter now. Skips the test where there is no compiler.
    """
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        _compile(library)
    named = {f.lower(): {i: getattr(c, f) for i, c in enumerate(curves)} for f in ("watts", "swing", "period", "phase")}
    values = {f"NVML_STUB_{name.upper()}": _spell(value) for name, value in {**named, **steering}.items()}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("NVML_STUB_", "CUDA_"))}
    path = os.pathsep.join(filter(None, (str(folder), clean.get("LD_LIBRARY_PATH"))))
    return {**clean, **values, "LD_LIBRARY_PATH": path, "OMP_NUM_THREADS": "1"}


def run_python(program: str, environment: Mapping[str, str], *arguments: str) -> Any:
    """Run a program in its own process and return the JSON that it prints last; fails with what it wrote otherwise."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _compile(library: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the stub of NVML needs Linux and a C compiler (gcc)")
    source = str(Path(__file__).with_name("nvml_stub.c"))
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    fresh = library.with_name(f"{library.name}.{os.getpid()}")
    subprocess.run([compiler, *options, "-o", str(fresh), source, "-lm"], check=True)
    fresh.replace(library)


def _spell(value: Steering | int) -> str:
    """`gpu=number,...`, which the stub reads; an int stays alone."""
    if isinstance(value, int):
        return str(value)
    lists = {gpu: entry if isinstance(entry, Iterable) else [entry] for gpu, entry in value.items()}
    return ",".join(f"{gpu}={number!r}" for gpu, numbers in lists.items() for number in numbers)

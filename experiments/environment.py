"""The machine and the software of a measuring process, for the record: whatever could make two measurements differ.

What cannot be read is null, with the reason in `<name>_reason`. Never a user's or a machine's name, an absolute path,
or the value of a variable of the environment, unless it is one of a fixed list and a mere number or switch.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.code_version import code_hash, git_version
from experiments.records import stable_hash
from experiments.redact import redact
from mtad.meter.device import UnreadableError
from mtad.meter.nvml import DESCRIPTION, STATE, find_gpu
from mtad.meter.visible import torch_uuids

PACKAGES = ("mtad-bench", "torch", "transformers", "tokenizers", "numpy", "scipy", "hydra-core", "nvidia-ml-py")
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
CPUS = Path("/sys/devices/system/cpu")
# Units that matter to the speed of a model: x86 names them so in /proc/cpuinfo, ARM the last ones.
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve", "sve2"),
)

# Variables that change how fast a run is.
SPEED = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_PLACES", "OMP_SCHEDULE", "OMP_WAIT_POLICY"),
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_DYNAMIC"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY", "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_CACHE_DISABLE", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCHDYNAMO_DISABLE"),
    *("TORCH_COMPILE_DISABLE", "LD_PRELOAD", "MALLOC_CONF", "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONTRACEMALLOC"),
)
PLAIN = re.compile(r"(?i)[\d.,-]{1,32}|true|false|yes|no|on|off")
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_PER_TASK")


def describe_process(
    process_id: str, started: str, device: torch.device, placement: str | None = None, gpus: Sequence[str] = ()
) -> dict[str, Any]:
    """What could make two measurements differ, as JSON data.

    Args:
        started: the time of day in UTC.
        device: where the target takes its input.
        placement: where the pair is, in words; None: all of it there.
        gpus: in use, as torch calls them; none: the one that `device` is.
    """
    gpu = _gpu(device)
    quota, unlimited = cgroup_quota()
    memory = _memory()
    record = {
        "process_id": process_id,
        "started": started,
        **fact("git", git_version(), "not run from the project's own git checkout"),
        "code": code_hash(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "machine": fingerprint(cpu_model(), os.cpu_count(), memory, gpu["torch_uuid"] if gpu else None),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        **fact("memory_bytes", memory, "the system does not say"),
        "cores_allowed": len(allowed_cores()),
        **fact("cgroup_quota_cores", quota, unlimited),
        "cpu_clocks": cpu_clocks(allowed_cores()),
        **_instructions(),
        "torch_threads": torch.get_num_threads(),
        "torch": _torch(device),
        "device": placement or str(device),
        **fact("gpu", gpu, "the run is on the CPU"),
        "other_gpus": [{**gpu_facts(uuid), "torch_uuid": uuid} for uuid in gpus if gpu and uuid != gpu["torch_uuid"]],
        "variables": _variables(SPEED),
        "slurm": {name: int(value) for name in SLURM if (value := os.environ.get(name, "")).isdecimal()},
    }
    safe: dict[str, Any] = redact(record)
    return safe


def fact(name: str, value: Any, reason: str | None) -> dict[str, Any]:
    """A value under its name; null with the reason beside it where there is none."""
    return {name: value} if value is not None else {name: None, f"{name}_reason": reason}


def nulls(names: Iterable[str], reason: str) -> dict[str, Any]:
    """Null under each name, for one reason."""
    return {key: value for name in names for key, value in fact(name, None, reason).items()}


def fingerprint(cpu: str, cores: int | None, memory_bytes: int | None, gpu: str | None) -> str:
    """A short hash that tells machines of different hardware apart; two alike, without a GPU, have the same."""
    return stable_hash([cpu, cores, round((memory_bytes or 0) / 2**30), gpu])  # some MB depend on the kernel


def cpu_model() -> str:
    """The processor's name."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def allowed_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cgroup_quota(proc: Path = PROC, mount: Path = CGROUPS) -> tuple[float | None, str | None]:
    """How many cores' worth of time the cgroups of this process give it, or None and why: version 2, then 1."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        return None, f"no cgroups ({error.strerror})"
    limits: list[float] = []
    for _, controllers, path in lines:
        if not controllers:
            files = [(root, "cpu.max") for root in (mount, mount / "unified")]
        elif "cpu" in controllers.split(","):
            files = [(mount / name, "cpu.cfs_quota_us") for name in (controllers, "cpu", "cpu,cpuacct")]
        else:
            continue
        for root, name in files:
            limits += [cores for folder in lineage(root, path) if (cores := _limit(folder / name)) is not None]
    return (min(limits), None) if limits else (None, "no limit is set")


def cpu_clocks(cores: Sequence[int], root: Path = CPUS, proc: Path = PROC) -> dict[str, Any]:
    """Clocks of `cores` and who governs them; `current_megahertz` is their mean, at the time of asking."""
    folders = [root / f"cpu{core}" / "cpufreq" for core in cores]
    now = [khz / 1000 for folder in folders if (khz := _number(folder / "scaling_cur_freq")) is not None]
    now = now or [float(line) for line in _cpu_lines("cpu MHz", proc)]
    lowest = [khz / 1000 for folder in folders if (khz := _number(folder / "scaling_min_freq")) is not None]
    highest = [khz / 1000 for folder in folders if (khz := _number(folder / "scaling_max_freq")) is not None]
    governors = sorted({name for folder in folders if (name := _text(folder / "scaling_governor"))})
    no_turbo, boost = _number(root / "intel_pstate" / "no_turbo"), _number(root / "cpufreq" / "boost")
    turbo = boost if no_turbo is None else 1 - no_turbo
    absent = "the system shows no cpufreq, as most virtual machines"
    return {
        **fact("current_megahertz", round(sum(now) / len(now), 1) if now else None, absent),
        **fact("min_megahertz", min(lowest, default=None), absent),
        **fact("max_megahertz", max(highest, default=None), absent),
        **fact("governor", ", ".join(governors) or None, absent),
        **fact("turbo", None if turbo is None else bool(turbo), absent),
    }


def gpu_facts(uuid: str) -> dict[str, Any]:
    """What NVML says of the GPU, or the GPU with the MIG device, that has this UUID."""
    try:
        gpu = find_gpu(uuid)
    except UnreadableError as error:
        return nulls(("uuid", *DESCRIPTION, *STATE), str(error))
    return {"uuid": gpu.uuid, **gpu.describe(), **gpu.state()}


def _gpu(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    (uuid,), properties = torch_uuids(device), torch.cuda.get_device_properties(device)
    return {
        **gpu_facts(uuid),
        "torch_uuid": uuid,  # that of a MIG device, if the run is on one; so are the others here
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }


def _torch(device: torch.device) -> dict[str, Any]:
    """Settings of torch that change speed or numbers."""
    on_gpu = device.type == "cuda"
    return {
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **fact("bf16_on_gpu", torch.cuda.is_bf16_supported() if on_gpu else None, "the run is on the CPU"),
        **fact("cuda", torch.version.cuda if on_gpu else None, "the run is on the CPU"),
        **fact("cudnn", torch.backends.cudnn.version() if on_gpu else None, "the run is on the CPU"),
    }


def _variables(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that are set; a value that is more than a number or a switch is not given."""
    found = {name: os.environ[name] for name in names if name in os.environ}
    return {name: value if PLAIN.fullmatch(value) else "set" for name, value in found.items()}


def _instructions() -> dict[str, Any]:
    """Which of INSTRUCTIONS the processor has."""
    flags = (_cpu_line("flags") or _cpu_line("Features") or "").split()
    has = [name for name in INSTRUCTIONS if name in flags]
    return fact("instructions", has if flags else None, "the system lists no instruction sets in /proc/cpuinfo")


def _memory() -> int | None:
    """Of the machine, in bytes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these names
        return None


def _cpu_lines(key: str, proc: Path = PROC) -> list[str]:
    """The values of a key of /proc/cpuinfo, one for each core."""
    lines = [line.partition(":") for line in (_text(proc / "cpuinfo") or "").splitlines()]
    return [value.strip() for name, _, value in lines if name.strip() == key]


def _cpu_line(key: str) -> str | None:
    return next(iter(_cpu_lines(key)), None)


def lineage(root: Path, path: str) -> list[Path]:
    """A cgroup's folder and all above it, up to `root`: each may set a limit."""
    folder = root / path.lstrip("/")
    return [folder, *(above for above in folder.parents if above == root or root in above.parents)]


def _limit(file: Path) -> float | None:
    """Cores from `cpu.max` ("200000 100000" or "max 100000") or `cpu.cfs_quota_us` with its period beside it."""
    words = (_text(file) or "").split()
    if file.name == "cpu.cfs_quota_us":
        words += (_text(file.with_name("cpu.cfs_period_us")) or "").split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None  # no such file, "max" or -1
    return int(words[0]) / int(words[1])


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(file: Path) -> int | None:
    text = _text(file) or ""
    return int(text) if text.isdecimal() else None

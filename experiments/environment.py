"""The machine and the software of a measuring process, for the record.

Never a user's or a machine's name, an absolute path, or a variable of the environment.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml
import torch

from experiments.code_version import code_hash, git_version

PACKAGES = ("mtad-bench", "torch", "transformers", "tokenizers", "numpy", "scipy", "hydra-core", "nvidia-ml-py")


def describe_process(process_id: str, started: str, device: torch.device) -> dict[str, Any]:
    """What could make two measurements differ, as JSON data; `started` is the time of day in UTC."""
    return {
        "process_id": process_id,
        "started": started,
        "git": git_version(),
        "code": code_hash(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": _gpu(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def no_energy_reason() -> str:
    """Why a run has no joules."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"no NVML ({error})"
    return "energy needs a pass of its own, which this version does not have"


def _gpu(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "uuid": f"GPU-{properties.uuid}",
        "memory_bytes": properties.total_memory,
        "driver": _driver(),
    }


def _driver() -> str | None:
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None

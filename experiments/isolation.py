"""Who else used the machine while we measured: other processes on our cores or our GPU, and clocks that were held back.

Judges by the constants below. Knows neither decoders nor rows; what to do about a finding is the caller's choice. What
cannot be read is null with a reason, on systems without /proc as well as without NVML.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from experiments.cpu_load import TOO_SHORT, CpuLoad, companions
from experiments.environment import PROC, allowed_cores, cgroup_quota, fact
from mtad.meter.device import UnreadableError
from mtad.meter.nvml import Gpu, find_gpu
from mtad.meter.visible import torch_uuids
from mtad.parallel import team

LOUD_CORES = 0.2  # busy with others' work: above it they are named. Kernel threads and a shell stay well below
SAMPLE_SECONDS = 0.7  # of watching before a measurement
PROCESSES_SECONDS = 1.0  # how long a list of a GPU's processes holds
CONTEXT_BYTES = 3 * 2**30  # what a process may hold on a GPU beside its tensors: context, libraries, workspaces

NO_GPU = "no GPU in use"
FOREIGN_NUMBERS = "NVML's process numbers are not ours, as in many containers: a small process would not show"


@dataclass(frozen=True)
class Finding:
    """Something that may spoil a measurement.

    Attributes:
        kind: cpu, host, gpu, throttle or threads.
        message: one line that says what was seen and what to do.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class Strangers:
    """Other processes on a GPU; not `certain` where NVML's process numbers are not those of our container."""

    count: int
    certain: bool


class Watch:
    """Watches the machine around each text.

    Call `start` before a text and `lap` after it, both outside the timed window; each takes well under 1 ms without a
    GPU. Cores are those that this process may use; its own work and that of its children is taken off.
    """

    def __init__(self, device: torch.device, gpus: Sequence[str] | None = None, proc: Path = PROC) -> None:
        """Watch the cores and `gpus`, by UUID; by default the one that `device` is."""
        self._gpus = [_Gpu(uuid) for uuid in (torch_uuids(device) if gpus is None else gpus)]
        self._cpu = CpuLoad(proc, allowed_cores())

    def before(self) -> list[Finding]:
        """Look at the machine for SAMPLE_SECONDS in which this process does nothing."""
        self.start()
        time.sleep(SAMPLE_SECONDS)
        lap = self.lap()
        found = [_threads(), *_cpu_findings(lap, self._cpu.scope), *_gpu_findings(lap)]
        return [finding for finding in found if finding]

    def start(self) -> None:
        """A text begins."""
        self._cpu.start()

    def lap(self) -> dict[str, Any]:
        """A text has ended; JSON data.

        `others_cpu_cores` and `stolen_cpu_cores` (taken by the host of a virtual machine) are means over the last
        `watched_seconds`: the text, or WINDOW_SECONDS if it was shorter. `gpu_processes` are others' on the GPU, from a
        list at most PROCESSES_SECONDS old; `throttle` names, as NVML does, what held the clocks back at the end.
        """
        return {**self._cpu.lap(), **self._processes(), **self._throttle()}

    def _processes(self) -> dict[str, Any]:
        try:
            seen = [gpu.strangers() for gpu in self._gpus]
        except UnreadableError as error:
            return fact("gpu_processes", None, str(error))
        if not seen:
            return fact("gpu_processes", None, NO_GPU)
        count = sum(strangers.count for strangers in seen)
        if not count and not all(strangers.certain for strangers in seen):
            return fact("gpu_processes", None, FOREIGN_NUMBERS)
        return {"gpu_processes": count, "gpu_processes_certain": all(strangers.certain for strangers in seen)}

    def _throttle(self) -> dict[str, Any]:
        if not self._gpus:
            return fact("throttle", None, NO_GPU)
        try:
            return {"throttle": sorted({name for gpu in self._gpus for name in gpu.found.throttles()})}
        except UnreadableError as error:
            return fact("throttle", None, str(error))


def findings(laps: Sequence[Mapping[str, Any]], what: str = "texts") -> list[str]:
    """What the laps of a run's texts say, a line each: who disturbed them, and what could not be watched."""
    return [*disturbances(laps, what), *_unknown(laps, what)]


def disturbances(laps: Sequence[Mapping[str, Any]], what: str = "texts") -> list[str]:
    """Who disturbed them, a line each; nothing if all was quiet, or could not be watched."""
    lines = []
    for key, who in (("others_cpu_cores", "other processes"), ("stolen_cpu_cores", "the host")):
        loud = [lap[key] for lap in laps if (lap[key] or 0) > LOUD_CORES]
        if loud:
            used = f"used more than {LOUD_CORES} cores (most: {max(loud):.1f})"
            lines.append(f"{len(loud)} of {len(laps)} {what} were measured while {who} {used}")
    crowded = [lap for lap in laps if lap["gpu_processes"]]
    if crowded:
        used = "used" if any(lap["gpu_processes_certain"] for lap in crowded) else "may have used"
        most = max(lap["gpu_processes"] for lap in crowded)
        lines.append(f"{len(crowded)} of {len(laps)} {what} were measured while others {used} the GPU (most: {most})")
    held = [lap["throttle"] for lap in laps if lap["throttle"]]
    if held:
        names = ", ".join(sorted({name for throttle in held for name in throttle}))
        lines.append(f"{len(held)} of {len(laps)} {what} ended while the GPU's clocks were held back ({names})")
    return lines


def strangers_on(processes: Mapping[int, int | None], mine: Collection[int], used: int, held: int | None) -> Strangers:
    """Others on a GPU, from the bytes that each process number holds there (None where NVML does not tell).

    Args:
        processes: those that NVML lists; in a container their numbers may be the host's, or the list may be empty.
        mine: numbers of this process and its children.
        used: bytes of the GPU that are in use.
        held: bytes that this process holds there for tensors; None before its first use.
    """
    if mine_too := processes.keys() & set(mine):
        return Strangers(len(processes) - len(mine_too), certain=True)
    if held is None:
        return Strangers(len(processes), certain=True)
    if len(processes) > 1:  # one of them is we
        return Strangers(len(processes) - 1, certain=False)
    taken = next(iter(processes.values()), used)
    is_ours = taken is None or held <= taken <= held + CONTEXT_BYTES
    return Strangers(0 if is_ours else 1, certain=False)


class _Gpu:
    """One GPU by its UUID. Every use may raise UnreadableError: a GPU may be lost in the middle."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._asked = -PROCESSES_SECONDS
        self._seen = Strangers(0, certain=True)

    @cached_property
    def found(self) -> Gpu:
        """The GPU itself."""
        return find_gpu(self._uuid)

    def strangers(self) -> Strangers:
        """Other processes, from a list at most PROCESSES_SECONDS old."""
        if time.monotonic() - self._asked >= PROCESSES_SECONDS:
            mine, processes = {os.getpid(), *companions(PROC)}, self.found.processes()
            if self._uuid in team.uuids and len(processes) < 2 and not processes.keys() & mine:
                self._seen = Strangers(0, certain=False)  # how much its part of the target takes there is not known
            else:
                self._seen = strangers_on(processes, mine, self.found.used_bytes(), _held(self._uuid))
            self._asked = time.monotonic()
        return self._seen


def _threads() -> Finding | None:
    threads, cores, (quota, _) = torch.get_num_threads(), len(allowed_cores()), cgroup_quota()
    usable = cores if quota is None else min(cores, max(int(quota), 1))
    if threads <= usable:
        return None
    what = f"torch computes with {threads} threads, but this process may use {usable} cores"
    return Finding("threads", f"{what}: set OMP_NUM_THREADS={usable}, or threads wait for each other in every forward")


def _cpu_findings(lap: Mapping[str, Any], scope: str) -> Iterable[Finding]:
    if (lap["others_cpu_cores"] or 0) > LOUD_CORES:
        busy = f"other processes use {lap['others_cpu_cores']:.1f} of the cores that this process may use"
        yield Finding("cpu", f"{busy}: end them or wait for them, or times will be too long and uneven{scope}")
    if (lap["stolen_cpu_cores"] or 0) > LOUD_CORES:
        taken = f"the host takes {lap['stolen_cpu_cores']:.1f} cores' time from this virtual machine"
        yield Finding("host", f"{taken}: measure where cores are not shared")


def _gpu_findings(lap: Mapping[str, Any]) -> Iterable[Finding]:
    if count := lap["gpu_processes"]:
        others = f"{count} other process{'es' if count > 1 else ''}"
        use = f"use{'' if count > 1 else 's'} the GPU" if lap["gpu_processes_certain"] else "may be using the GPU"
        yield Finding("gpu", f"{others} {use}: end them, or choose another GPU with device=cuda:<index>")
    if lap["throttle"]:
        names = ", ".join(lap["throttle"])
        yield Finding("throttle", f"the GPU's clocks are held back ({names}): let it cool, or raise its power limit")


def _unknown(laps: Sequence[Mapping[str, Any]], what: str) -> Iterable[str]:
    claims = {"others_cpu_cores": "other processes used the CPU", "gpu_processes": "other processes used the GPU"}
    claims["throttle"] = "the GPU's clocks were held back"
    for key, claim in claims.items():
        reasons = [lap[f"{key}_reason"] for lap in laps if lap[key] is None and lap[f"{key}_reason"] != NO_GPU]
        if len(reasons) < len(laps):  # the first of many short texts: windows reach back over the texts before
            reasons = [reason for reason in reasons if reason != TOO_SHORT]
        if reasons:
            yield f"whether {claim} is unknown for {len(reasons)} of {len(laps)} {what}: {reasons[0]}"


def _held(uuid: str) -> int | None:
    """Bytes that this process holds on the GPU for tensors; None before its first use of one."""
    if not torch.cuda.is_initialized():
        return None
    every = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    return sum(torch.cuda.memory_reserved(device) for device in every if uuid in torch_uuids(device))

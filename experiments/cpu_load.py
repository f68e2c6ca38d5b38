"""What other processes do on the cores that this one may use: all that these are busy with, less our own work.

Reads Linux's /proc, and says so where there is none. Knows nothing of GPUs, and does not judge.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.environment import cgroup_quota, nulls
from mtad.parallel import team

WINDOW_SECONDS = 0.5  # the kernel counts in steps of 10 ms on each core: over a shorter time a figure would be noise
STALE_SECONDS = 2.0  # a gap after which a window does not reach back further
TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel's clock, a second
NO_PROC = "this system has no /proc/stat"
TOO_SHORT = f"watched for less than {WINDOW_SECONDS} s, which is too short for the kernel's clock"


@dataclass(frozen=True)
class _Mark:
    """A moment: seconds of the clock, and of CPU time since some time before."""

    at: float
    busy: float
    stolen: float
    own: float


class CpuLoad:
    """What others do on `cores`, between a `start` and a `lap`.

    Attributes:
        scope: what else the figures may count, as the end of a sentence; empty where nothing.
    """

    def __init__(self, proc: Path, cores: Sequence[int]) -> None:
        self._proc = proc
        self._marks = deque[_Mark]()
        listed = _stat(proc)
        self._cores = {core for core in cores if core in listed} or set(listed)
        self.scope = self._scope(cores, listed)

    def start(self) -> None:
        """A text begins."""
        mark = self._mark()
        if mark and self._marks and mark.at - self._marks[-1].at > STALE_SECONDS:
            self._marks.clear()
        if mark:
            self._marks.append(mark)

    def lap(self) -> dict[str, Any]:
        """A text has ended: means over it, or over WINDOW_SECONDS with the texts before it if it was shorter."""
        now = self._mark()
        while now and len(self._marks) > 1 and now.at - self._marks[1].at >= WINDOW_SECONDS:
            self._marks.popleft()
        if now is None or not self._marks or now.at - self._marks[0].at < WINDOW_SECONDS:
            reason = NO_PROC if now is None else TOO_SHORT
            record = nulls(("watched_seconds", "others_cpu_cores", "stolen_cpu_cores"), reason)
        else:
            then = self._marks[0]
            seconds = now.at - then.at
            others = (now.busy - then.busy) - (now.own - then.own)
            record = {
                "watched_seconds": round(seconds, 3),
                "others_cpu_cores": round(max(others, 0.0) / seconds, 3),
                "stolen_cpu_cores": round(max(now.stolen - then.stolen, 0.0) / seconds, 3),
            }
        if now:
            self._marks.append(now)
        return record

    def _mark(self) -> _Mark | None:
        lines = _stat(self._proc)
        if not lines:
            return None
        user, nice, system, _, _, irq, softirq, stolen = (
            sum(lines[core][field] for core in self._cores if core in lines) / TICKS for field in range(8)
        )
        return _Mark(time.perf_counter(), user + nice + system + irq + softirq, stolen, _own_seconds(self._proc))

    def _scope(self, cores: Sequence[int], listed: Collection[int]) -> str:
        quota, _ = cgroup_quota(self._proc)
        if not {*cores} <= {*listed}:
            return "; /proc/stat does not list the cores that this process may use, so that all those listed count"
        if quota is not None and quota < len(cores):
            return f"; with a quota of {quota:g} cores, other containers on these {len(cores)} cores count too"
        return ""


def _stat(proc: Path) -> dict[int, list[int]]:
    """Ticks of every core since the start of the machine: user, nice, system, idle, iowait, irq, softirq, steal."""
    lines: dict[int, list[int]] = {}
    try:
        with (proc / "stat").open("rb") as stream:
            next(stream, None)  # the sum over all cores
            for line in stream:
                name, *ticks = line.split()
                if not name.startswith(b"cpu"):
                    break
                lines[int(name[3:])] = [int(tick) for tick in ticks[:8]]
    except OSError:
        return {}
    return lines


def _own_seconds(proc: Path) -> float:
    """CPU time of this process and of all its children, those that still run too."""
    ended = os.times()
    running = sum(_ticks(proc, pid) for pid in companions(proc)) / TICKS
    return time.process_time() + ended.children_user + ended.children_system + running


def companions(proc: Path) -> Iterable[int]:
    """The numbers of all other processes that do this one's work: its children, and those that share its target."""
    yield from descendants(proc, os.getpid())
    for pid in team.pids:
        yield pid
        yield from descendants(proc, pid)


def descendants(proc: Path, pid: int) -> Iterable[int]:
    """The numbers of all running children of a process, and of theirs."""
    for task in _names(proc / str(pid) / "task"):
        try:
            children = (proc / str(pid) / "task" / task / "children").read_text(encoding="ascii").split()
        except OSError:  # the thread has ended, or the kernel was built without these files
            continue
        for child in map(int, children):
            yield child
            yield from descendants(proc, child)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # iterdir makes a Path of each, which takes longer than all else here
    except OSError:
        return []


def _ticks(proc: Path, pid: int) -> int:
    """Of a process and of its ended children; 0 if it is gone."""
    try:
        fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))

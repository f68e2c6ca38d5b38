"""Memory of a run: what it needs, told before any weight is read, and what the most was.

Weights and caches are exact, from the configurations and the prompts. Beside them stand, uncounted, the activations of
prefill and scoring, what a recorded forward keeps (on a CPU a rearranged copy of weights that take up to 1 GB), and the
caches that other engines make for themselves.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.environment import CGROUPS, PROC, lineage
from experiments.memory_report import spoken
from experiments.plan import Plan
from experiments.prompting import looks_back
from mtad.cache import TreeCache
from mtad.errors import UserError
from mtad.loading import Source
from mtad.session import TREE_ROOM

CLOSE = 0.95  # of the free memory: above, activations may not find room


@dataclass(frozen=True)
class Need:
    """The memory that a run takes for weights and caches.

    Attributes:
        weights, caches: bytes by model.
        rows: texts that share a forward, at most.
        room: the longest text with the tree of its last round, in positions of a cache.
        capacity: positions for which a cache is made, in whole steps.
    """

    weights: dict[str, int]
    caches: dict[str, int]
    rows: int
    room: int
    capacity: int

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.weights.values()) + sum(self.caches.values())

    def __str__(self) -> str:
        weights = " + ".join(map(spoken, self.weights.values()))
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        return f"weights {weights}, caches {spoken(sum(self.caches.values()))} for {rows} of {self.capacity} positions"

    def say(self, device: torch.device, loaded: bool = False) -> list[str]:
        """The lines to be said before weights are read; `loaded`: some of them stand there already.

        Raises:
            UserError: the device's whole memory is too little.
        """
        free, total = device_memory(device)
        if total is not None and self.total > total:
            raise UserError(
                f"the run does not fit on {device}: {self}, and its memory is {spoken(total)}; a shorter dtype, fewer "
                f"rows or fewer max_new_tokens need less"
            )
        if free is None or loaded:
            return [f"memory: {self}"]
        lines = [f"memory: {self}; {spoken(free)} free on {device}"]
        if self.total > CLOSE * free:
            lines.append(f"warning: that leaves little or nothing of the free memory of {device} for activations")
        return lines


def forecast(plan: Plan, judge: Source | None = None, rows: int = 1) -> Need:
    """What a run of this plan takes, with `rows` texts that share a forward."""
    room = longest_prompt(plan) + plan.settings.max_new_tokens + TREE_ROOM
    cache = TreeCache([torch.device("cpu")])  # which allocates nothing, but knows its steps
    cache.reserve(room)
    pair = {"target": plan.blueprint.target, "draft": plan.blueprint.draft}
    weights = {role: count * pair[role].dtype.itemsize for role, count in plan.blueprint.parameters.items()}
    if judge:
        weights["judge"] = judge.parameters * judge.dtype.itemsize
    caches = {role: rows * cache.capacity * cache_bytes(source) for role, source in pair.items()}
    return Need(weights, caches, rows, room, cache.capacity)


def cache_bytes(source: Source) -> int:
    """Keys and values of one token, in bytes."""
    config = source.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * source.dtype.itemsize)


def longest_prompt(plan: Plan) -> int:
    """Tokens of the longest thing asked; of a turn that depends on answers, with answers of full length."""
    lengths = [len(tokens) for tokens in plan.encoded.values()]
    for prompt in plan.prompts:
        for turn in range(len(prompt.turns)):
            if looks_back(prompt, turn):
                alone = len(plan.prompting.encode(prompt, turn, [""] * turn))
                lengths.append(min(alone + turn * plan.settings.max_new_tokens, plan.prompting.room))
    return max(lengths)


def device_memory(device: torch.device) -> tuple[int | None, int | None]:
    """Free and total bytes of a device, for the processor within the limits set to this process; None: not known."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    found = dict(re.findall(r"^(MemAvailable|MemTotal): +(\d+) kB$", _text(PROC / "meminfo"), re.MULTILINE))
    if len(found) < 2:
        return None, None
    free, total = (int(found[name]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for limit, used in _limits():
        free, total = min(free, max(0, limit - used)), min(total, limit)
    return free, total


def _limits() -> Iterator[tuple[int, int]]:
    """Bytes that each cgroup of this process, version 2 or 1, is kept to, and those that it holds and cannot drop."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folders, names = lineage(CGROUPS, path), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            folders = lineage(CGROUPS / "memory", path)
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for folder in folders:
            limit, used = (_text(folder / name).strip() for name in names[:2])
            if limit.isdecimal():
                kept = re.search(rf"^{names[2]} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                yield int(limit), int(used or 0) - (int(kept[1]) if kept else 0)  # files read lately can be dropped


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def start_peak(device: torch.device) -> None:
    """Count the peak from now on, where that can be: on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """The most bytes so far: tensors on a GPU, else the resident pages of this process; None: not known here."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if os.name != "posix":
        return None
    import resource  # not there elsewhere

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def describe(need: Need, device: torch.device, peaks: Mapping[str, int | None]) -> dict[str, Any]:
    """For the record of a process: what was foreseen, and the peak by then at the end of its parts."""
    what = "tensors on the device" if device.type == "cuda" else "resident memory of the process"
    reason = None if peaks else "the process has not come to the end of a pass"
    return {"forecast": asdict(need), "peak_of": what, "peak_bytes": dict(peaks) or None, "peak_bytes_reason": reason}

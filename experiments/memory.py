"""Memory of a run: what it needs, told before any weight is read, and what the most was.

Weights and caches are exact, from the configurations and the prompts; the workspace is that of the largest forward, by
the terms of `mtad.footprint`. Beside them stand, uncounted, what torch and CUDA take for themselves, and the caches of
other engines.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
from mtad.footprint import SCORED, WARPED, Reading, cache_bytes, packed_bytes, spread, workspace
from mtad.loading import Blueprint
from mtad.model import SCORE_BATCH_TOKENS
from mtad.session import PREFILL_CHUNK, TREE_ROOM
from mtad.sources import Source

CLOSE = 0.95  # of the free memory: above, what torch keeps in reserve may not find room
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Need:
    """The memory that a run takes.

    Attributes:
        weights, caches: bytes by model.
        workspace: the most bytes of a forward beside them, by model; one runs at a time.
        recorded: bytes of the weights that recorded forwards copy, on a CPU.
        by_device: bytes of all that by the name of the device.
        rows: texts that share a forward, at most.
        room: the longest text with the tree of its last round, in positions of a cache.
        capacity: positions for which a cache is made, in whole steps.
    """

    weights: dict[str, int]
    caches: dict[str, int]
    workspace: dict[str, int]
    recorded: int
    by_device: dict[str, int]
    rows: int
    room: int
    capacity: int

    @property
    def total(self) -> int:
        """Bytes, on all devices."""
        return sum(self.by_device.values())

    def __str__(self) -> str:
        weights = " + ".join(map(spoken, self.weights.values()))
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        caches = f"caches {spoken(sum(self.caches.values()))} for {rows} of {self.capacity} positions"
        recorded = f", recorded forwards {spoken(self.recorded)}" if self.recorded else ""
        return f"weights {weights}, {caches}{recorded}, workspace {spoken(max(self.workspace.values()))}"

    def say(self, device: torch.device, loaded: bool = False) -> list[str]:
        """The lines to be said before weights are read.

        Args:
            device: that of the run, if it has one alone.
            loaded: some weights stand there already.

        Raises:
            UserError: a device's whole memory is too little.
        """
        warnings, frees = [], []
        several = len(self.by_device) > 1
        for name, size in (self.by_device if several else {str(device): self.total}).items():
            free, total = device_memory(torch.device(name))
            if total is not None and size > total:
                raise UserError(
                    f"the run does not fit on {name}: it needs {spoken(size)} there"
                    f"{f', {spoken(self.total)} in all' if several else ''} ({self}), and {name} has {spoken(total)}; "
                    f"less is needed with fewer model.target.bits (8, 4), a shorter dtype, fewer rows or a smaller "
                    f"max_new_tokens{'' if several else ', and device_map=auto spreads the target over several GPUs'}"
                )
            if free is None or loaded:
                continue
            frees.append(f"{f'{spoken(size)} of ' if several else ''}{spoken(free)} free on {name}")
            if size > CLOSE * free:
                warnings.append(f"warning: that leaves little or nothing of the free memory of {name}")
        return ["; ".join([f"memory: {self}", *frees]), *warnings]


def forecast(plan: Plan, judge: Source | None = None, rows: int = 1) -> Need:
    """What a run of this plan takes, with `rows` texts that share a forward."""
    packs = plan.settings.engine != "eager"
    return estimate(plan.blueprint, longest_prompt(plan), plan.settings.max_new_tokens, rows, judge, packs)


def estimate(
    blueprint: Blueprint,
    longest_prompt: int,
    max_new_tokens: int,
    rows: int = 1,
    judge: Source | None = None,
    packs: bool = True,
) -> Need:
    """What a pair takes for texts of this length, by configurations alone.

    Args:
        rows: texts that share a forward, at most.
        packs: forwards are recorded, which on a CPU copies weights.

    Returns:
        Where processes share the target's layers, the need of one of them.
    """
    text = longest_prompt + max_new_tokens
    room = text + TREE_ROOM
    cache = TreeCache([CPU])  # which allocates nothing, but knows its steps
    cache.reserve(room)
    sources = {"target": blueprint.target, "draft": blueprint.draft, **({"judge": judge} if judge else {})}
    weights: dict[str, int] = {}
    caches: dict[str, int] = {}
    spaces: dict[str, int] = {}
    held: Counter[str] = Counter()
    beside: Counter[str] = Counter()
    recorded, place = 0, blueprint.placement
    for role, source in sources.items():
        shares = place.ranks if role == "target" else 1
        parts, cached = source.parts(shares), 0
        weights[role] = parts.total
        spaces[role] = _workspace(source, rows, room, text, max_new_tokens, judged=role == "judge")
        if role != "judge":  # which reads without a cache
            cached = rows * cache.capacity * cache_bytes(source.config, source.dtype, shares)
            caches[role] = cached * len(parts.layers)
            if packs and place.device.type == "cpu" and shares == 1 and not source.quantization:
                recorded += packed_bytes(source.config, source.dtype)
        own = place.device if role == "target" else place.draft
        layers = (blueprint.layers if role == "target" else []) or [own] * len(parts.layers)
        where = spread(parts, cached, list(map(str, layers)))
        held.update(where)
        beside |= Counter(dict.fromkeys(where, spaces[role]))  # the larger one
    held[str(place.device)] += recorded
    by_device = {name: size + beside[name] for name, size in held.items()}
    return Need(weights, caches, spaces, recorded, by_device, rows, room, cache.capacity)


def _workspace(source: Source, rows: int, room: int, text: int, new: int, judged: bool) -> int:
    """The most bytes of any forward of this model, in prefill, in a round, and where texts are scored."""
    chunk = min(PREFILL_CHUNK, room)
    together = max(1, SCORE_BATCH_TOKENS // (new + 1))  # outputs after the shortest prompts
    scores = Reading(1, max(SCORE_BATCH_TOKENS, text), text, together * new, new * SCORED)
    rounds = Reading(rows, TREE_ROOM, room, rows * TREE_ROOM, rows * TREE_ROOM * WARPED)
    readings = [scores] if judged else [Reading(1, chunk, room, chunk, 0), rounds, scores]
    bits = source.quantization.bits if source.quantization else None
    return max(workspace(source.config, source.dtype, reading, bits).peak for reading in readings)


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


def start_peak(devices: Iterable[torch.device]) -> None:
    """Count the peaks from now on, where that can be: on GPUs."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def peak(devices: Iterable[torch.device]) -> dict[str, int]:
    """The most bytes so far: tensors on each GPU, without one the resident pages of this process; nothing: not known.

    The peaks of several GPUs need not be of one moment.
    """
    if gpus := [device for device in devices if device.type == "cuda"]:
        return {str(device): torch.cuda.max_memory_allocated(device) for device in gpus}
    if os.name != "posix":
        return {}
    import resource  # not there elsewhere

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu": most if sys.platform == "darwin" else most * 1024}


def describe(need: Need, peaks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """For the record of a process: what was foreseen, and the peaks by then at the end of its parts, see `peak`."""
    devices = {name for by_device in peaks.values() for name in by_device}
    several = "s, each at its own peak" if len(devices) > 1 else ""
    what = "resident memory of the process" if devices <= {"cpu"} else f"tensors on the device{several}"
    return {
        "forecast": asdict(need),
        "peak_of": what if peaks else None,
        "peak_bytes": {part: sum(by_device.values()) for part, by_device in peaks.items()} or None,
        "peak_bytes_by_device": {part: dict(by_device) for part, by_device in peaks.items()} or None,
        "peak_bytes_reason": None if peaks else "the process has not come to the end of a pass",
    }

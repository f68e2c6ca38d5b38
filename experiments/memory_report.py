"""What a summary and its table say of memory, from the records of processes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NO_PEAK = "no process of the run has recorded one"


def summed_up(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The figures of the process with the highest peak; None where no process has come to one."""
    known = [found for process in processes if (found := process.get("memory")) and found["peak_bytes"]]
    if not known:
        return None
    most = max(known, key=lambda found: max(found["peak_bytes"].values()))
    need = most["forecast"]
    return {
        "peak_bytes": max(most["peak_bytes"].values()),
        "peak_of": most["peak_of"],
        "weights_bytes": sum(need["weights"].values()),
        "caches_bytes": sum(need["caches"].values()),
        "workspace_bytes": max(need["workspace"].values()) if "workspace" in need else None,
    }


def memory_notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What a run took; summaries of the first versions do not know."""
    if memory := summary.get("memory"):
        weights, caches, peak = (spoken(memory[f"{part}_bytes"]) for part in ("weights", "caches", "peak"))
        known = memory.get("workspace_bytes")  # which older runs did not foresee
        foreseen = f", workspace {spoken(known)}" if known is not None else ""
        yield f"memory: weights {weights}, caches {caches}{foreseen}; at most {peak}, {memory['peak_of']}"


def spoken(size: int) -> str:
    """Bytes in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

"""How many bytes a second a device reads from its memory, measured: the ceiling of a decoder that reads all weights.

Knows devices; refuses to know models.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch


def read_bandwidth(device: torch.device, size: int, repeats: int) -> dict[str, Any]:
    """Of reading a tensor of `size` bytes (its sum), and of copying one (read once, written once).

    `gigabytes_per_second` is the larger of the two medians, the higher ceiling; 1 GB is 10^9 bytes.
    """
    source = torch.zeros(size // 4, dtype=torch.float32, device=device)
    place = torch.empty_like(source)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def rate(work: Callable[[], object], moved: int) -> float:
        rates = []
        for _ in range(repeats + 1):
            wait()
            started = perf_counter()
            work()
            wait()
            rates.append(moved / (perf_counter() - started) / 1e9)
        return sorted(rates[1:])[repeats // 2]  # the first one warms up

    found = {"read": rate(source.sum, size), "copy": rate(lambda: place.copy_(source), 2 * size)}
    return {
        "gigabytes_per_second": max(found.values()),
        "reason": None,
        "read_gigabytes_per_second": found["read"],
        "copy_gigabytes_per_second": found["copy"],
        "tensor_bytes": size,
        "repeats": repeats,
    }

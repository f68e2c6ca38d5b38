"""Time on a device: marks that nothing waits for, and spans between them, read once the device has come past them.

On a CPU a mark is `perf_counter`; on a GPU it is a CUDA event, because a clock on the host would have to wait for the
device after every forward, and that wait would itself be in the measured time.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch

Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """The present point in the time of `device`."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass(frozen=True)
class Span:
    """What happened between two marks of one device.

    Attributes:
        share: the part of it that is one text's, where several shared a forward.
    """

    start: Mark
    end: Mark
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """Its length times `share`; the device must have come past `end`, as after a synchronise."""
        if isinstance(self.start, float) and isinstance(self.end, float):
            return (self.end - self.start) * self.share
        assert isinstance(self.start, torch.cuda.Event) and isinstance(self.end, torch.cuda.Event)
        return float(self.start.elapsed_time(self.end)) / 1e3 * self.share

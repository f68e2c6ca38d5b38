"""A second opinion: Zeus (https://ml.energy/zeus) over the same spans. It reads the same counter: it checks our code.

Optional: Zeus is no dependency, and is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtad.errors import UserError, first_line

WINDOW = "mtad"


@dataclass(frozen=True)
class SecondOpinion:
    """What Zeus says: joules by CUDA's index (as a string, for JSON) of every GPU that it sees, and its seconds."""

    joules: dict[str, float] | None
    seconds: float | None
    reason: str | None = None


class Zeus:
    """Zeus's monitor of the visible GPUs; what it fails at is a reason. Raises UserError if the package is missing."""

    def __init__(self) -> None:
        try:
            monitor = importlib.import_module("zeus.monitor")
        except ImportError:
            raise UserError("zeus=true needs the package zeus: pip install zeus, or leave it out") from None
        self._monitor: Any = None
        self._call(lambda: setattr(self, "_monitor", monitor.ZeusMonitor(cpu_indices=[])))

    def begin(self) -> None:
        """Open Zeus's window; the device is idle, so nothing has to be waited for."""
        if self._monitor:
            self._call(lambda: self._monitor.begin_window(WINDOW, sync_execution=False, restart=True))

    def end(self) -> SecondOpinion:
        """Close it."""
        found = None if self._reason else self._call(lambda: self._monitor.end_window(WINDOW, sync_execution=False))
        if found is None:
            return SecondOpinion(None, None, self._reason)
        if not found.gpu_energy:
            return SecondOpinion(None, None, "Zeus sees no GPU")
        return SecondOpinion({str(index): float(j) for index, j in found.gpu_energy.items()}, float(found.time))

    def _call(self, action: Callable[[], Any]) -> Any:
        """What Zeus answers; None, and the reason kept, if it fails."""
        self._reason: str | None = None
        try:
            return action()
        except Exception as error:  # of any kind: a second opinion must never cost the first
            self._reason = f"Zeus: {type(error).__name__}: {first_line(error)}"
            return None

"""A second opinion: Zeus (https://ml.energy/zeus) over the same spans. It reads the same counter: it checks our code.

Optional: Zeus is no dependency, and is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from mtad.errors import UserError

WINDOW = "mtad"


@dataclass(frozen=True)
class SecondOpinion:
    """What Zeus says: joules by CUDA's index (as a string, for JSON) of every GPU that it sees, and its seconds."""

    joules: dict[str, float] | None
    seconds: float | None
    reason: str | None = None


class Zeus:
    """Zeus's monitor of the visible GPUs. Raises UserError if the package is missing."""

    def __init__(self) -> None:
        try:
            monitor = importlib.import_module("zeus.monitor")
            self._error: type[Exception] = importlib.import_module("zeus.device.exception").ZeusBaseError
        except ImportError:
            raise UserError("zeus=true needs the package zeus: pip install zeus, or leave it out") from None
        self._monitor = monitor.ZeusMonitor(cpu_indices=[])
        self._reason: str | None = None

    def begin(self) -> None:
        """Open Zeus's window; the device is idle, so nothing has to be waited for."""
        try:
            self._monitor.begin_window(WINDOW, sync_execution=False, restart=True)
            self._reason = None
        except self._error as error:
            self._reason = f"Zeus: {error}"

    def end(self) -> SecondOpinion:
        """Close it."""
        if self._reason is None:
            try:
                found = self._monitor.end_window(WINDOW, sync_execution=False)
                if found.gpu_energy:
                    joules = {str(index): float(joules) for index, joules in found.gpu_energy.items()}
                    return SecondOpinion(joules, float(found.time))
                self._reason = "Zeus sees no GPU"
            except self._error as error:
                self._reason = f"Zeus: {error}"
        return SecondOpinion(None, None, self._reason)

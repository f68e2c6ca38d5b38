"""CPU packages through RAPL, as Linux shows them under /sys/class/powercap. Knows nothing of windows.

A package's counter covers all that runs on it, and wraps around at max_energy_range_uj: after minutes, under load. So
it must be read often, which the meter does, and a step back is a wrap.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Literal

from mtad.meter.device import Kind, UnreadableError, UnsupportedError

POWERCAP = Path("/sys/class/powercap")
HIGHEST_WATTS = 10_000.0  # no package draws more; a wrap that would mean more is a reset


class Package:
    """One CPU package, a `Device`. Thread-safe.

    Attributes:
        uuid: Linux's name of the zone, such as `intel-rapl:0`. Every machine has one of that name: it tells the
            packages of one machine apart, and says nothing about which machine it is.
    """

    kind: Kind = "cpu"
    counter = "rapl"
    shared = True
    power: Literal["instant", "average"] | None = None

    def __init__(self, folder: Path) -> None:
        self.uuid = folder.name
        self._folder = folder
        self._lock = Lock()
        self.name = self._read("name")
        self._range = self._microjoules("max_energy_range_uj")
        self._last, self._when = self._microjoules("energy_uj"), perf_counter()
        self._total = 0

    def joules(self) -> float:
        """The energy since this object was made, wraps counted."""
        with self._lock:
            value, now = self._microjoules("energy_uj"), perf_counter()
            step = value - self._last
            if step < 0:
                step += self._range
            was, self._last = self._last, value
            seconds, self._when = now - self._when, now
            if not 0 <= step <= HIGHEST_WATTS * 1e6 * (seconds + 1e-3):
                raise UnreadableError(f"the energy counter was reset: from {was / 1e6:.3f} J to {value / 1e6:.3f} J")
            self._total += step
            return self._total / 1e6

    def watts(self) -> float:
        """RAPL has none."""
        raise UnsupportedError("RAPL has a counter and no power reading")

    def state(self) -> dict[str, Any]:
        """RAPL has none."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The size of its counter."""
        return {"counter_range_joules": self._range / 1e6}

    def _read(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="utf-8").strip()
        except PermissionError:
            reason = f"no permission to read {self.uuid}/{name} (for root alone since Linux 5.10)"
            raise UnreadableError(reason) from None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise UnreadableError(f"{self.uuid}/{name} cannot be read: {reason}") from None

    def _microjoules(self, name: str) -> int:
        text = self._read(name)
        if not text.isdecimal():
            raise UnreadableError(f"{self.uuid}/{name} holds no number")
        return int(text)


def open_packages(root: Path = POWERCAP) -> list[Package]:
    """All packages; their parts (cores, memory) and the whole platform (psys) stay out. Raises UnreadableError."""
    zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
    packages = [package for package in map(Package, zones) if package.name.startswith("package")]
    if not packages:
        raise UnreadableError("no RAPL: Linux shows no CPU package under powercap")
    return packages

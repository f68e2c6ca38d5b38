"""The meter: which devices are in use, windows over all of them at once, and what they draw when idle.

`open_meter` finds the devices; `with meter.window() as window: ...` measures, and `window.record` holds the figures. A
device that fails gives null joules and the reason, and leaves the others alone. Knows no file and no configuration.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from types import TracebackType
from typing import Any

from mtad.errors import UserError
from mtad.meter.device import Device, Kind, UnreadableError
from mtad.meter.nvml import open_gpus
from mtad.meter.rapl import POWERCAP, Package, open_packages
from mtad.meter.visible import Selection, from_torch, named, visible
from mtad.meter.watch import LEAST_HERTZ, TICK_SECONDS, Reading, Watch
from mtad.meter.zeus import SecondOpinion, Zeus

MOST_HERTZ = 200.0
PATIENCE_SECONDS = 5.0  # for a driver that does not answer, beyond the wait for a refresh


@dataclass(frozen=True)
class Record:
    """A window over all devices in use; `dataclasses.asdict` makes it JSON data.

    Attributes:
        started: UTC.
        work_seconds: from the beginning to the end of the work alone; each device's own span holds it.
    """

    started: str
    work_seconds: float
    devices: tuple[Reading, ...]
    zeus: SecondOpinion | None

    def joules(self, kind: Kind) -> tuple[float | None, str | None]:
        """The sum over the devices of a kind; None and the reason if there are none, or one has failed."""
        readings = [reading for reading in self.devices if reading.kind == kind]
        failed = [f"{reading.uuid}: {reading.joules_reason}" for reading in readings if reading.joules is None]
        if failed or not readings:
            return None, "; ".join(failed) or f"no {kind.upper()} is measured"
        return math.fsum(reading.joules for reading in readings if reading.joules is not None), None


class Meter:
    """Devices in use.

    Attributes:
        reasons: why there is no device of a kind, for kinds of which there is none.
        notes: what is doubtful about the choice of devices.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        reasons: Mapping[Kind, str],
        notes: Sequence[str] = (),
        hertz: float = 20.0,
        zeus: Zeus | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self.reasons = dict(reasons)
        self.notes = tuple(notes)
        self.hertz = hertz
        self.zeus = zeus
        self.silent: dict[str, str] = {}  # devices whose driver did not answer: they are not asked again

    @property
    def absent(self) -> str | None:
        """Why nothing can be measured, in one line; None if something can."""
        return None if self.devices else "; ".join(self.reasons.values())

    def window(self) -> Window:
        """A window to be entered once: ``with meter.window() as window: work()``, then ``window.record``."""
        return Window(self)

    def idle(self, seconds: float, windows: int) -> list[Record]:
        """Several windows of doing nothing, `seconds` in all."""
        records = []
        for _ in range(windows):
            with self.window() as window:
                sleep(seconds / windows)
            records.append(window.record)
        return records

    def describe(self, elsewhere: Collection[str] = ()) -> dict[str, Any]:
        """What is measured, as JSON data for the record of the environment.

        Args:
            elsewhere: UUIDs of devices that the record describes already; these are only named.
        """
        devices = []
        for device in self.devices:
            facts = {name: getattr(device, name) for name in ("uuid", "kind", "name", "counter", "shared")}
            if device.uuid in self.silent:
                facts["reason"] = self.silent[device.uuid]
            elif device.uuid not in elsewhere:
                facts |= device.describe()
            devices.append(facts)
        return {"devices": devices, "reasons": dict(self.reasons), "notes": list(self.notes)}


class Window:
    """See `Meter.window`; what is raised by the work passes through. `record` is there once it was entered and left."""

    record: Record

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Window:
        meter = self._meter
        self._watches = {d.uuid: Watch(d, meter.hertz) for d in meter.devices if d.uuid not in meter.silent}
        try:
            self._open()
        except BaseException:  # nobody will leave a window that was not entered: its threads must not go on
            self._finish()
            raise
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._begun = perf_counter()
        return self

    def _open(self) -> None:
        for watch in self._watches.values():
            watch.start()
        deadline = perf_counter() + TICK_SECONDS + PATIENCE_SECONDS
        for uuid, watch in self._watches.items():
            self._answers(uuid, watch.ready.wait(max(0.0, deadline - perf_counter())))
        if self._meter.zeus:
            self._meter.zeus.begin()

    def _finish(self) -> None:
        for watch in self._watches.values():
            watch.finish()

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return perf_counter() - self._begun

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ended = perf_counter()
        self._finish()
        deadline = perf_counter() + TICK_SECONDS + PATIENCE_SECONDS
        for uuid, watch in self._watches.items():
            watch.join(0.0 if uuid in self._meter.silent else max(0.0, deadline - perf_counter()))
            self._answers(uuid, not watch.is_alive())
        opinion = self._meter.zeus.end() if self._meter.zeus else None
        readings = []
        for device in self._meter.devices:
            # A device that fell silent in an earlier window gets a watch that never ran: a reading without figures.
            watch = self._watches.get(device.uuid) or Watch(device, self._meter.hertz)
            readings.append(watch.reading(self._begun, ended, self._meter.silent.get(device.uuid)))
        self.record = Record(self._started, ended - self._begun, tuple(readings), opinion)

    def _answers(self, uuid: str, answered: bool) -> None:
        if not answered:
            limit = TICK_SECONDS + PATIENCE_SECONDS
            self._meter.silent[uuid] = f"the device's driver did not answer for {limit:g} s; it is not asked again"


def open_meter(
    gpus: Sequence[str] | None = None,
    torch_uuids: Sequence[str] | None = None,
    rapl: Path | None = POWERCAP,
    hertz: float = 20.0,
    zeus: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Meter:
    """Find the devices in use. Needs neither a GPU nor RAPL: `Meter.absent` says what is missing.

    Args:
        gpus: UUIDs named by the user, before everything else.
        torch_uuids: of the GPUs that torch uses (`visible.torch_uuids`), if torch is asked; empty for a run on the CPU.
        rapl: the powercap folder; None leaves RAPL out. One that is not the system's must be readable.
        hertz: readings of power a second, 10 to 200.
        zeus: also ask Zeus.
        environment: where CUDA_VISIBLE_DEVICES is looked up if `torch_uuids` is None.

    Raises:
        UserError: a rate out of range, an unknown UUID, `gpus` without the GPU that torch uses, a RAPL folder that
            cannot be read, Zeus not installed.
    """
    check_hertz("hertz", hertz)
    reasons: dict[Kind, str] = {}
    try:
        there, notes = open_gpus()
    except UnreadableError as error:
        if gpus:
            raise UserError(f"GPU {gpus[0]} cannot be measured: {error}") from None
        there, notes, reasons["gpu"] = [], [], str(error)
    if gpus is not None:
        chosen = named(there, gpus, torch_uuids)
    elif torch_uuids is not None:
        chosen = from_torch(there, torch_uuids)
    else:
        chosen = visible(there, environment)
    if not chosen.uuids:
        reasons.setdefault("gpu", _none_in_use(chosen))
    in_use = {gpu.uuid: gpu for gpu in there}
    packages = _packages(rapl, reasons)
    devices: list[Device] = [*(in_use[uuid] for uuid in chosen.uuids), *packages]
    return Meter(devices, reasons, [*notes, *chosen.notes], hertz, Zeus() if zeus else None)


def check_hertz(name: str, hertz: float) -> None:
    """Raises UserError unless a trace may be taken at this rate."""
    number = isinstance(hertz, int | float) and not isinstance(hertz, bool)
    if not number or not LEAST_HERTZ <= hertz <= MOST_HERTZ:
        raise UserError(f"{name} must be a number from {LEAST_HERTZ:g} to {MOST_HERTZ:g}, not {hertz!r}")


def _none_in_use(chosen: Selection) -> str:
    return "; ".join(chosen.notes) or "no GPU is in use"


def _packages(rapl: Path | None, reasons: dict[Kind, str]) -> list[Package]:
    """The CPU packages; none, and the reason noted, where the system shows none. Raises UserError."""
    if rapl is None:
        reasons["cpu"] = "RAPL was left out"
        return []
    try:
        return open_packages(rapl)
    except UnreadableError as error:
        if rapl != POWERCAP:
            raise UserError(f"RAPL in {rapl}: {error}") from None
        reasons["cpu"] = str(error)
        return []

"""GPUs through NVML: energy counter, power, state and description, by UUID. Knows nothing of windows.

NVML's failures come out as `UnreadableError`, each under its own name. NVML lists GPUs in the order of the PCI bus and
heeds neither CUDA_VISIBLE_DEVICES nor CUDA_DEVICE_ORDER.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pynvml

from mtad.meter.device import Kind, UnreadableError, UnsupportedError

POWER_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, milliwatts, over all of the board; drivers from 525 on
CLOCK_EVENTS = {  # bits of nvmlClocksEventReasons, under NVML's names
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
THROTTLES = frozenset(CLOCK_EVENTS.values()) - {  # what holds a busy GPU back, against what someone has chosen
    "gpu_idle",
    "applications_clocks_setting",
    "display_clock_setting",
}
COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
REASONS: dict[type[Exception], str] = {
    pynvml.NVMLError_LibraryNotFound: "no NVML: libnvidia-ml.so.1, a part of NVIDIA's driver, is not there",
    pynvml.NVMLError_DriverNotLoaded: "no NVML: NVIDIA's driver is not loaded",
    pynvml.NVMLError_NoPermission: "no permission to read this GPU (NVML: Insufficient Permissions)",
    pynvml.NVMLError_GpuIsLost: "the GPU was lost, it no longer answers (NVML: GPU is lost)",
}
UNSUPPORTED = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound)


def why(error: Exception) -> str:
    """An NVML error in words."""
    return REASONS.get(type(error), f"NVML: {error}")


def clock_events(bits: int) -> list[str]:
    """The names of a mask of clock event reasons."""
    known = [name for bit, name in CLOCK_EVENTS.items() if bits & bit]
    unknown = bits & ~sum(CLOCK_EVENTS)
    return [*known, hex(unknown)] if unknown else known


@contextmanager
def _named() -> Iterator[None]:
    """An NVML error becomes UnreadableError, or UnsupportedError where the GPU or the driver lacks the reading."""
    try:
        yield
    except UNSUPPORTED as error:
        raise UnsupportedError(f"this GPU or its driver does not offer it (NVML: {error})") from None
    except pynvml.NVMLError as error:
        raise UnreadableError(why(error)) from None


class Gpu:
    """One physical GPU, a `Device`. Its methods may be called from any thread.

    Attributes:
        slices: UUIDs of its MIG devices; they have no sensor of their own.
    """

    kind: Kind = "gpu"
    counter = "nvml_total_energy"

    def __init__(self, handle: Any) -> None:
        with _named():
            self.uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
            self.name = _text(pynvml.nvmlDeviceGetName(handle))
        self.power: Literal["instant", "average"] | None = "instant"
        self._handle = handle
        self.slices = self._slices()
        self.shared = bool(self._mig())

    def joules(self) -> float:
        """The total since the driver was loaded; NVML counts millijoules and refreshes about every 100 ms."""
        with _named():
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def watts(self) -> float:
        """Power now, or where the driver has only that, over the last second or so (then `power` says "average")."""
        with _named():
            if self.power == "instant":
                instant = self._instant()
                if instant is not None:
                    return instant
                self.power = "average"
            return pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3

    def state(self) -> dict[str, Any]:
        """Temperature, clocks and clock events."""
        bits = self._ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:  # the older name, for older drivers
            bits = self._ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return {
            "temperature_celsius": self._ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            "sm_megahertz": self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            "memory_megahertz": self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
            "clock_events": None if bits is None else clock_events(bits),
        }

    def describe(self) -> dict[str, Any]:
        """Model, driver, limits and modes."""
        ecc = self._ask(pynvml.nvmlDeviceGetEccMode)
        return {
            "uuid": self.uuid,
            "kind": self.kind,
            "name": self.name,
            "driver": self._ask(lambda _: _text(pynvml.nvmlSystemGetDriverVersion())),
            "power_limit_watts": _thousandth(self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit)),
            "default_power_limit_watts": _thousandth(self._ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit)),
            "default_sm_megahertz": self._ask(pynvml.nvmlDeviceGetDefaultApplicationsClock, pynvml.NVML_CLOCK_SM),
            "max_sm_megahertz": self._ask(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM),
            "max_memory_megahertz": self._ask(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM),
            "persistence_mode": _flag(self._ask(pynvml.nvmlDeviceGetPersistenceMode)),
            "ecc": None if ecc is None else bool(ecc[0]),
            "mig": self._mig(),
            "compute_mode": COMPUTE_MODES.get(self._ask(pynvml.nvmlDeviceGetComputeMode)),
            "shared": self.shared,
        }

    def _instant(self) -> float | None:
        """Watts; None where the driver does not have this field."""
        try:
            field = pynvml.nvmlDeviceGetFieldValues(self._handle, [POWER_INSTANT])[0]
        except UNSUPPORTED:
            return None
        if field.nvmlReturn in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT):
            return None
        if field.nvmlReturn != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(field.nvmlReturn)
        return field.value.uiVal / 1e3

    def _mig(self) -> bool | None:
        mode = self._ask(pynvml.nvmlDeviceGetMigMode)
        return None if mode is None else bool(mode[0])

    def _slices(self) -> tuple[str, ...]:
        count = self._ask(pynvml.nvmlDeviceGetMaxMigDeviceCount) if self._mig() else 0
        handles = [self._ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index) for index in range(count or 0)]
        return tuple(_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles if handle is not None)

    def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """What an NVML function says of this GPU; None if it says nothing."""
        try:
            return function(self._handle, *arguments)
        except pynvml.NVMLError:
            return None


def open_gpus() -> tuple[list[Gpu], list[str]]:
    """The GPUs that NVML can open, in its order, and a line for each that it cannot. Raises UnreadableError."""
    with _named():
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    gpus, failed = [], []
    for index in range(count):
        try:
            gpus.append(Gpu(_handle(index)))
        except UnreadableError as error:
            failed.append(f"GPU {index} in the order of the PCI bus cannot be opened: {error}")
    return gpus, failed


def _handle(index: int) -> Any:
    with _named():
        return pynvml.nvmlDeviceGetHandleByIndex(index)


def _text(value: str | bytes) -> str:
    """pynvml has returned both."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)

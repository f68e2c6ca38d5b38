"""GPUs through NVML: energy counter, power, state, processes and description, by UUID. Knows nothing of windows.

All that the project asks of NVML is asked here. Failures come out as `UnreadableError`, each under its own name. NVML
lists GPUs in the order of the PCI bus and heeds neither CUDA_VISIBLE_DEVICES nor CUDA_DEVICE_ORDER.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import pynvml

from mtad.meter.device import Kind, UnreadableError, UnsupportedError

GA100 = (8, 0)  # CUDA's compute capability; NVML's power usage is a mean over 1 s on all that is newer, says NVIDIA
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
UNSUPPORTED = (  # the last one, of a driver older than pynvml, is no NVMLError
    *(pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound),
    pynvml.NVMLLibraryMismatchError,
)


def clock_events(bits: int) -> list[str]:
    """The names of a mask of clock event reasons."""
    known = [name for bit, name in CLOCK_EVENTS.items() if bits & bit]
    unknown = bits & ~sum(CLOCK_EVENTS)
    return [*known, hex(unknown)] if unknown else known


def _clock_events(gpu: Any) -> list[str]:
    try:
        return clock_events(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535 know the call by its older name only
        return clock_events(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


Questions = Mapping[str, Callable[[Any], Any]]  # by the name of what they ask of a GPU's handle
STATE: Questions = {
    "temperature_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "sm_megahertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "memory_megahertz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "clock_events": _clock_events,
}
DESCRIPTION: Questions = {
    "driver": lambda _: pynvml.nvmlSystemGetDriverVersion(),
    "power_limit_watts": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3,
    "default_power_limit_watts": lambda gpu: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1e3,
    "default_sm_megahertz": lambda gpu: pynvml.nvmlDeviceGetDefaultApplicationsClock(gpu, pynvml.NVML_CLOCK_SM),
    "max_sm_megahertz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "max_memory_megahertz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "persistence_mode": lambda gpu: bool(pynvml.nvmlDeviceGetPersistenceMode(gpu)),
    "ecc": lambda gpu: bool(pynvml.nvmlDeviceGetEccMode(gpu)[0]),
    "mig": lambda gpu: bool(pynvml.nvmlDeviceGetMigMode(gpu)[0]),
    "compute_mode": lambda gpu: COMPUTE_MODES.get(pynvml.nvmlDeviceGetComputeMode(gpu), "unknown"),
}


@contextmanager
def _named() -> Iterator[None]:
    """An NVML error becomes UnreadableError, or UnsupportedError where the GPU or the driver lacks the reading."""
    try:
        yield
    except UNSUPPORTED as error:
        raise UnsupportedError(f"this GPU or its driver does not offer it (NVML: {error})") from None
    except pynvml.NVMLError as error:
        raise UnreadableError(REASONS.get(type(error), f"NVML: {error}")) from None


class Gpu:
    """One physical GPU, a `Device`. Its methods may be called from any thread, and all may raise UnreadableError.

    Attributes:
        slices: UUIDs of its MIG devices; they have no sensor of their own.
    """

    kind: Kind = "gpu"
    counter = "nvml_total_energy"

    def __init__(self, handle: Any, part: Any = None) -> None:
        """From NVML's handle, and that of one of its MIG devices if memory and processes are to be that one's."""
        with _named():
            self.uuid: str = pynvml.nvmlDeviceGetUUID(handle)
            self.name: str = pynvml.nvmlDeviceGetName(handle)
        self.power: Literal["instant", "average"] | None = "instant"
        self._has_instant = True  # until it has denied it
        self._handle, self._part = handle, part or handle
        self.shared = bool((_ask(pynvml.nvmlDeviceGetMigMode, handle) or [0])[0])
        count = _ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) if self.shared else 0
        parts = [_ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index) for index in range(count or 0)]
        uuids = [_ask(pynvml.nvmlDeviceGetUUID, part) for part in parts if part]
        self.slices = tuple(uuid for uuid in uuids if uuid)

    def joules(self) -> float:
        """The total since the driver was loaded; NVML counts millijoules and refreshes about every 100 ms."""
        with _named():
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def watts(self) -> float:
        """Power now, or where the driver has no field for that, NVML's power usage; then `power` says what that is."""
        with _named():
            if self._has_instant:
                instant = self._instant()
                if instant is not None:
                    return instant
                self._has_instant = False
                capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, self._handle)
                self.power = ("average" if tuple(capability) > GA100 else "instant") if capability else None
            return pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3

    def state(self) -> dict[str, Any]:
        """Temperature, clocks and clock events."""
        return _answers(self._handle, STATE)

    def describe(self) -> dict[str, Any]:
        """Driver, limits and modes."""
        return _answers(self._handle, DESCRIPTION)

    def throttles(self) -> list[str]:
        """What holds the clocks back just now."""
        with _named():
            return sorted(THROTTLES.intersection(_clock_events(self._handle)))

    def processes(self) -> dict[int, int | None]:
        """The bytes that each process holds there, by its number; None where NVML does not tell."""
        with _named():
            compute = pynvml.nvmlDeviceGetComputeRunningProcesses(self._part)
            graphics = pynvml.nvmlDeviceGetGraphicsRunningProcesses(self._part)
        return {process.pid: process.usedGpuMemory for process in (*compute, *graphics)}

    def used_bytes(self) -> int:
        """Of its memory, by all processes."""
        with _named():
            return int(pynvml.nvmlDeviceGetMemoryInfo(self._part).used)

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


def open_gpus() -> tuple[list[Gpu], list[str]]:
    """The GPUs that NVML can open, in its order, and a line for each that it cannot. Raises UnreadableError."""
    with _named():
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    gpus, failed = [], []
    for index in range(count):
        try:
            with _named():
                gpus.append(Gpu(pynvml.nvmlDeviceGetHandleByIndex(index)))
        except UnreadableError as error:
            failed.append(f"GPU {index} in the order of the PCI bus cannot be opened: {error}")
    return gpus, failed


def find_gpu(uuid: str) -> Gpu:
    """The GPU with this UUID, or with a MIG device of this UUID; torch gives them no prefix. Raises UnreadableError."""
    bare = re.sub("^(GPU|MIG)-", "", uuid)
    with _named():
        pynvml.nvmlInit()
        try:
            return Gpu(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}"))
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            part = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
            return Gpu(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part), part)


def _answers(gpu: Any, questions: Questions) -> dict[str, Any]:
    """What NVML says to each question; None with the reason beside it where it says nothing."""
    answers: dict[str, Any] = {}
    for name, question in questions.items():
        try:
            with _named():
                answers[name] = question(gpu)
        except UnreadableError as error:
            answers |= {name: None, f"{name}_reason": str(error)}
    return answers


def _ask(function: Callable[..., Any], *arguments: object) -> Any:
    """What an NVML function says; None if it says nothing."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None

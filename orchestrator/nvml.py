"""What NVIDIA's driver says of the GPUs, by NVML: the only file that speaks to it.

Every call here blocks, some for seconds when a card is ill: call it in a thread, and from one thread at a time.
Meaning of functions, units and errors: NVIDIA's NVML API Reference Guide.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]  # its author ships no types
import structlog

from orchestrator.gpus import RECOVERIES, THROTTLES, DriverError, DriverFacts, Gpu, GpuLostError, GpuReading, XidEvent

KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})
"""What every question fails with when a card is gone; whatever else one fails with is a fact that it does not tell."""
GONE = LOST | {pynvml.NVML_ERROR_UNKNOWN}
"""What the plainest question fails with then; a lesser one may fail for reasons that the driver does not know."""
ABSENT = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
EXPLAINED = {
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "NVIDIA's library and its kernel driver have different versions, as after an update: restart the host, "
        "or end what uses the GPUs and load the driver anew"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "this user may not use NVIDIA's driver: give it read and write permission for /dev/nvidiactl and /dev/nvidia0 …"
    ),
    pynvml.NVML_ERROR_UNKNOWN: (
        "NVIDIA's driver fails and does not say why; a container whose devices were taken away sees this, and has to "
        "be restarted; else see `nvidia-smi` and `dmesg | grep NVRM`"
    ),
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "NVIDIA's driver is loaded and its library libnvidia-ml.so.1 is missing: install the driver's user part of the "
        "same version, or give the container the GPUs' utility capability"
    ),
}
NO_INSTANCE = 0xFFFFFFFF
"""Stands in an event that is of a whole card."""
BITS = dict(
    zip(
        THROTTLES,
        (
            pynvml.nvmlClocksEventReasonSwPowerCap,
            pynvml.nvmlClocksEventReasonSyncBoost,
            pynvml.nvmlClocksThrottleReasonHwSlowdown,
            pynvml.nvmlClocksEventReasonSwThermalSlowdown,
            pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        ),
        strict=True,
    )
)
Handle = Any
T = TypeVar("T")
log = structlog.get_logger()


def open_nvml(kernel_driver: Path = KERNEL_DRIVER) -> Nvml | None:
    """A session with the driver; None on a host that has no NVIDIA driver. Raises DriverError when it does not work."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in ABSENT and not kernel_driver.exists():
            return None
        raise _explained(error) from None
    try:
        return Nvml()
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        raise _explained(error) from None


class Nvml:
    """An open session with the driver. `gpus` is what answered when it was opened, `missing` counts what did not."""

    def __init__(self) -> None:
        self._handles: dict[str, Handle] = {}
        self._events: Any = None
        self.missing = 0
        self.gpus = tuple(self._discover())

    def close(self) -> None:
        """Ends the session."""
        with suppress(pynvml.NVMLError):
            if self._events is not None:
                pynvml.nvmlEventSetFree(self._events)
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()

    def driver(self) -> DriverFacts:
        """The driver's versions."""
        cuda = _fact(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return DriverFacts(
            _fact(pynvml.nvmlSystemGetDriverVersion), None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        )

    def read(self, uuid: str) -> GpuReading:
        """What a GPU reads now. Raises GpuLostError when it no longer answers."""
        handle = self._handles.get(uuid)
        if handle is None:
            raise GpuLostError("the driver does not show it")
        used, total = memory_bytes(handle)
        return GpuReading(
            uuid=uuid,
            memory_used_bytes=used,
            memory_bytes=total,
            utilisation=utilisation(handle),
            temperature_c=temperature_c(handle),
            power_w=power_w(handle),
            throttled=throttled(handle),
            ecc_errors=ecc_errors(handle),
            recovery=recovery(handle),
        )

    def listen(self) -> bool:
        """Asks for the XID errors of every card; whether any card tells them, else `next_xid` may not be called."""
        try:
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:
            return False
        told = [self._told(self._handles[gpu.uuid]) for gpu in self.gpus if gpu.parent is None]
        return any(told)

    def next_xid(self, timeout_s: float) -> XidEvent | None:
        """Waits for an XID error. Raises GpuLostError when a card is gone, from then on: open another session then."""
        try:
            event = pynvml.nvmlEventSetWait_v2(self._events, max(1, int(timeout_s * 1000)))
        except pynvml.NVMLError_Timeout:
            return None
        except pynvml.NVMLError as error:
            raise GpuLostError(str(error)) from None
        return XidEvent(self._affected(event), int(event.eventData))

    def _discover(self) -> Iterator[Gpu]:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                yield from self._card(index)
            except (pynvml.NVMLError, GpuLostError) as error:
                self.missing += 1
                log.warning("a GPU does not answer", index=index, error=str(error))

    def _card(self, index: int) -> list[Gpu]:
        """A card and its slices."""
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        mode = _fact(lambda: pynvml.nvmlDeviceGetMigMode(handle))
        partitioned = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        card = Gpu(
            uuid, pynvml.nvmlDeviceGetName(handle), index, memory_bytes(handle)[1], None, None, partitioned=partitioned
        )
        found = [(card, handle)]
        if partitioned:
            found += [(_slice(card, handle), handle) for handle in _slices(handle)]
        self._handles |= {gpu.uuid: handle for gpu, handle in found}
        return [gpu for gpu, _ in found]

    def _told(self, card: Handle) -> bool:
        try:
            pynvml.nvmlDeviceRegisterEvents(card, pynvml.nvmlEventTypeXidCriticalError, self._events)
        except pynvml.NVMLError:
            return False
        return True

    def _affected(self, event: Any) -> tuple[str, ...]:
        """The slice of an event, or the card with all of its slices."""
        card = next(
            (g.uuid for g in self.gpus if not g.parent and _address(self._handles[g.uuid]) == _address(event.device)),
            None,
        )
        family = [gpu for gpu in self.gpus if card in (gpu.uuid, gpu.parent)]
        hit = [gpu for gpu in family if gpu.parent and gpu.instance == event.gpuInstanceId]
        return tuple(gpu.uuid for gpu in hit or family)


def memory_bytes(handle: Handle) -> tuple[int | None, int | None]:
    """Bytes in use, by every process and the driver itself, and in all."""
    memory = _fact(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle), GONE)
    return (None, None) if memory is None else (int(memory.used), int(memory.total))


def utilisation(handle: Handle) -> float | None:
    """Share of the last interval (up to a second) in which a kernel ran."""
    rates = _fact(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    return None if rates is None else rates.gpu / 100


def temperature_c(handle: Handle) -> float | None:
    """Degrees Celsius on the chip."""
    degrees = _fact(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    return None if degrees is None else float(degrees)


def power_w(handle: Handle) -> float | None:
    """Watts that the board draws."""
    milliwatts = _fact(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return None if milliwatts is None else milliwatts / 1000


def throttled(handle: Handle) -> tuple[str, ...] | None:
    """What holds the clocks down, of THROTTLES."""
    bits = _fact(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    if bits is None:  # drivers before 535 know it by its older name alone
        bits = _fact(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return None if bits is None else tuple(name for name, bit in BITS.items() if bits & bit)


def ecc_errors(handle: Handle) -> int | None:
    """Uncorrected memory errors since the driver was loaded or the card was reset."""
    count = _fact(
        lambda: pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        )
    )
    return None if count is None else int(count)


def recovery(handle: Handle) -> str | None:
    """What the driver asks the operator for, of RECOVERIES."""
    values = _fact(lambda: pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]))
    if values is None or values[0].nvmlReturn != pynvml.NVML_SUCCESS or values[0].value.uiVal >= len(RECOVERIES):
        return None
    return RECOVERIES[values[0].value.uiVal]


def _fact(ask: Callable[[], T], lost: frozenset[int] = LOST) -> T | None:
    """One fact; None when it is not told. Raises GpuLostError when there is nobody left to tell it."""
    try:
        return ask()
    except pynvml.NVMLError as error:
        if error.value in lost:
            raise GpuLostError(str(error)) from None
        return None


def _slices(card: Handle) -> Iterator[Handle]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        handle = _fact(lambda at=index: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, at))  # type: ignore[misc]
        if handle is not None:
            yield handle


def _slice(card: Gpu, handle: Handle) -> Gpu:
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    instance = _fact(lambda: pynvml.nvmlDeviceGetGpuInstanceId(handle))
    return Gpu(uuid, name, card.index, memory_bytes(handle)[1], card.uuid, instance)


def _address(handle: Handle) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _explained(error: Any) -> DriverError:
    return DriverError(
        EXPLAINED.get(error.value, f"NVIDIA's driver does not work: {error}; see `nvidia-smi` and `dmesg | grep NVRM`")
    )

"""A driver to try: NVML as far as `orchestrator/nvml.py` calls it, over GPUs that a test scripts."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml  # type: ignore[import-untyped]
import pytest

from orchestrator import nvml

GIB = 2**30
WHOLE_CARD = 0xFFFFFFFF


@dataclass
class FakeGpu:
    """A card or a slice. `lost`: the error that all of its questions end with. `errors`: the error of one function."""

    uuid: str
    name: str = "NVIDIA H200"
    total: int = 141 * GIB
    used: int = GIB
    busy_percent: int = 50
    degrees: int = 40
    milliwatts: int = 350_000
    reasons: int = 0
    ecc: int = 0
    recovery: int = pynvml.NVML_GPU_RECOVERY_ACTION_NONE
    lost: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    slices: list[FakeGpu] | None = None
    instance: int = WHOLE_CARD


class FakeNvml:
    """Stands where `pynvml` does. Handles and event sets are good for one session, as the driver's are."""

    def __init__(self, *gpus: FakeGpu, init: int | None = None) -> None:
        self.gpus = list(gpus)
        self.init = init
        self.sessions = 0
        self.opened = 0
        self.hold = threading.Event()
        self.hold.set()
        self._owners: dict[int, FakeGpu] = {}
        self._sets: dict[int, set[int]] = {}
        self._events: list[Any] = []
        self._arrived = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        value = getattr(pynvml, name)
        if name.startswith("nvml") and callable(value):
            raise AttributeError(f"{name} is no function of this driver")
        return value

    # What a test does

    def report(self, gpu: FakeGpu, code: int, instance: int = WHOLE_CARD) -> None:
        """The driver reports an XID error of a card, or of one of its instances."""
        with self._arrived:
            self._events.append((gpu, code, instance))
            self._arrived.notify_all()

    # What the driver does

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init is not None:
            raise pynvml.NVMLError(self.init)
        self.sessions += 1
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check()
        self.sessions -= 1
        if not self.sessions:
            self._owners.clear()
            self._sets.clear()

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._check()
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        self._check()
        return 13_010

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        self._check()
        return self._handle(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetUUID(self, handle: Any) -> str:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetName").name

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:  # noqa: N802
        gpu = self._asked(handle, "nvmlDeviceGetMigMode")
        return [int(gpu.slices is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802
        self._asked(handle, "nvmlDeviceGetMaxMigDeviceCount")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        gpu = self._asked(handle, "nvmlDeviceGetMigDeviceHandleByIndex")
        if index >= len(gpu.slices or []):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._handle((gpu.slices or [])[index], "nvmlDeviceGetMigDeviceHandleByIndex")

    def nvmlDeviceGetGpuInstanceId(self, handle: Any) -> int:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetGpuInstanceId").instance

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        gpu = self._asked(handle, "nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=self._asked(handle, "nvmlDeviceGetUtilizationRates").busy_percent, memory=0)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._asked(handle, "nvmlDeviceGetTemperature").degrees

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetPowerUsage").milliwatts

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetCurrentClocksEventReasons").reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:  # noqa: N802
        return self._asked(handle, "nvmlDeviceGetCurrentClocksThrottleReasons").reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:  # noqa: N802
        assert (kind, counter) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        return self._asked(handle, "nvmlDeviceGetTotalEccErrors").ecc

    def nvmlDeviceGetFieldValues(self, handle: Any, fields: list[int]) -> Any:  # noqa: N802
        gpu = self._asked(handle, "nvmlDeviceGetFieldValues")
        assert fields == [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
        value = pynvml.c_nvmlFieldValue_t()
        value.nvmlReturn = gpu.errors.get("field", pynvml.NVML_SUCCESS)
        value.value.uiVal = gpu.recovery
        return [value]

    def nvmlEventSetCreate(self) -> int:  # noqa: N802
        self._check()
        self._sets[len(self._sets)] = set()
        return len(self._sets) - 1

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: int) -> None:  # noqa: N802
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        gpu = self._asked(handle, "nvmlDeviceRegisterEvents")
        assert gpu.instance == WHOLE_CARD, "events are the card's, never a slice's"
        self._sets[events].add(address(handle))

    def nvmlEventSetWait_v2(self, events: int, timeout_ms: int) -> Any:  # noqa: N802
        self._check()
        watched = {at: self._owners[at] for at in self._sets[events]}
        if any(gpu.lost is not None for gpu in watched.values()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._events, timeout_ms / 1000):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
            gpu, code, instance = self._events.pop(0)
        event = pynvml.c_nvmlEventData_t()
        event.device = pointer(next(at for at, owner in watched.items() if owner is gpu))
        event.eventType, event.eventData = pynvml.nvmlEventTypeXidCriticalError, code
        event.gpuInstanceId = instance
        return event

    def nvmlEventSetFree(self, events: int) -> None:  # noqa: N802
        self._check()
        del self._sets[events]

    def _check(self) -> None:
        if not self.sessions:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

    def _asked(self, handle: Any, function: str) -> FakeGpu:
        self._check()
        self.hold.wait(30)
        gpu = self._owners.get(address(handle))
        if gpu is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        error = gpu.lost if gpu.lost is not None else gpu.errors.get(function)
        if error is not None:
            raise pynvml.NVMLError(error)
        return gpu

    def _handle(self, gpu: FakeGpu, function: str) -> Any:
        error = gpu.lost if gpu.lost is not None else gpu.errors.get(function)
        if error is not None:
            raise pynvml.NVMLError(error)
        at = next((at for at, owner in self._owners.items() if owner is gpu), 0)
        at = at or 0x1000 * self.opened + 16 * (1 + len(self._owners))
        self._owners[at] = gpu
        return pointer(at)


def pointer(at: int) -> Any:
    """A handle, as NVML makes them."""
    return ctypes.cast(ctypes.c_void_p(at), pynvml.c_nvmlDevice_t)


def address(handle: Any) -> int:
    """Where a handle points."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def install(patch: pytest.MonkeyPatch, *gpus: FakeGpu, init: int | None = None) -> FakeNvml:
    """Makes this the driver that `orchestrator.nvml` speaks to."""
    driver = FakeNvml(*gpus, init=init)
    patch.setattr(nvml, "pynvml", driver)
    return driver


@contextmanager
def opened() -> Iterator[nvml.Nvml]:
    """A session with the installed driver."""
    session = nvml.open_nvml()
    assert session is not None
    try:
        yield session
    finally:
        session.close()

"""What the node learns from NVIDIA's driver, over one that the test scripts."""

from __future__ import annotations

import inspect
from pathlib import Path

import pynvml  # type: ignore[import-untyped]
import pytest

from orchestrator.gpus import DriverError, DriverFacts, Gpu, GpuLostError, GpuReading, XidEvent
from orchestrator.nvml import open_nvml
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml, install, opened

A100 = "NVIDIA A100-SXM4-40GB"


def partitioned() -> FakeGpu:
    """A card in MIG mode with two slices; the instances have numbers of their own."""
    slices = [FakeGpu(f"MIG-{i}", f"{A100} MIG 3g.20gb", 20 * GIB, instance=i) for i in (1, 2)]
    return FakeGpu("GPU-mig", A100, 40 * GIB, slices=slices)


def test_a_host_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No library, or no kernel driver: that is no fault, the host is none with GPUs."""
    for code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
        install(monkeypatch, init=code)
        assert open_nvml(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "have different versions, as after an update: restart the host"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "permission for /dev/nvidiactl"),
        (pynvml.NVML_ERROR_UNKNOWN, "a container whose devices were taken away"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "libnvidia-ml.so.1 is missing"),
        (pynvml.NVML_ERROR_IRQ_ISSUE, "NVIDIA's driver does not work: Interrupt Request Issue; see `nvidia-smi`"),
    ],
)
def test_a_driver_that_does_not_work_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str
) -> None:
    """It is never taken for a host without GPUs, on which a node would quietly compute on the CPU."""
    (tmp_path / "version").write_text("NVRM version: …")
    install(monkeypatch, init=code)
    with pytest.raises(DriverError) as caught:
        open_nvml(tmp_path / "version")
    assert said in str(caught.value)


def test_a_session_that_cannot_count_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails after the start is explained too, and left."""
    driver = install(monkeypatch)

    def fail() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(driver, "nvmlDeviceGetCount", fail)
    with pytest.raises(DriverError):
        open_nvml()
    assert driver.sessions == 0


def test_cards_and_slices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with UUID, name, place and memory; a slice with its own memory, and whose it is."""
    install(monkeypatch, FakeGpu("GPU-a"), partitioned())
    with opened() as session:
        assert session.driver() == DriverFacts("580.65.06", "13.1")
        assert session.gpus == (
            Gpu("GPU-a", "NVIDIA H200", 0, 141 * GIB),
            Gpu("GPU-mig", A100, 1, 40 * GIB, partitioned=True),
            Gpu("MIG-1", f"{A100} MIG 3g.20gb", 1, 20 * GIB, "GPU-mig", 1),
            Gpu("MIG-2", f"{A100} MIG 3g.20gb", 1, 20 * GIB, "GPU-mig", 2),
        )


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_card_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The others keep their places in the driver's order."""
    install(monkeypatch, FakeGpu("GPU-a", lost=code), FakeGpu("GPU-b"))
    with opened() as session:
        assert [(gpu.uuid, gpu.index) for gpu in session.gpus] == [("GPU-b", 1)]
        assert session.missing == 1
        with pytest.raises(GpuLostError):
            session.read("GPU-a")


def test_facts_come_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, a share, degrees, watts; whatever throttles by name, and idling is not among it."""
    reasons = (
        pynvml.nvmlClocksEventReasonGpuIdle
        | pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    )
    install(monkeypatch, FakeGpu("GPU-a", reasons=reasons, ecc=3, recovery=4))
    with opened() as session:
        assert session.read("GPU-a") == GpuReading(
            "GPU-a", GIB, 141 * GIB, 0.5, 40.0, 350.0, ("power_cap", "hw_thermal"), 3, "drain_and_reset"
        )


FACTS = {
    "nvmlDeviceGetMemoryInfo": ("memory_used_bytes", "memory_bytes"),
    "nvmlDeviceGetUtilizationRates": ("utilisation",),
    "nvmlDeviceGetTemperature": ("temperature_c",),
    "nvmlDeviceGetPowerUsage": ("power_w",),
    "nvmlDeviceGetTotalEccErrors": ("ecc_errors",),
    "nvmlDeviceGetFieldValues": ("recovery",),
}


@pytest.mark.parametrize("function", FACTS)
def test_a_fact_that_a_card_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Each by itself; unknown is not zero. Cards without ECC, MIG slices and laptops lack some."""
    gpu = FakeGpu("GPU-a", errors={function: pynvml.NVML_ERROR_NOT_SUPPORTED})
    install(monkeypatch, gpu)
    with opened() as session:
        reading = session.read("GPU-a")
        unknown = {name for name in reading.__slots__ if getattr(reading, name) is None}
    assert unknown == set(FACTS[function])


def test_what_throttles_is_asked_of_old_drivers_by_its_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 535 the new function is missing; a card that knows neither tells nothing."""
    missing = {"nvmlDeviceGetCurrentClocksEventReasons": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
    gpu = FakeGpu("GPU-a", reasons=pynvml.nvmlClocksThrottleReasonHwSlowdown, errors=missing)
    install(monkeypatch, gpu)
    with opened() as session:
        assert session.read("GPU-a").throttled == ("hw_slowdown",)
        missing["nvmlDeviceGetCurrentClocksThrottleReasons"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        assert session.read("GPU-a").throttled is None


def test_an_advice_that_nobody_knows_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field can fail by itself, and a later driver may have more numbers."""
    gpu = FakeGpu("GPU-a", recovery=99)
    install(monkeypatch, gpu)
    with opened() as session:
        assert session.read("GPU-a").recovery is None
        gpu.recovery, gpu.errors["field"] = 1, pynvml.NVML_ERROR_NOT_SUPPORTED
        assert session.read("GPU-a").recovery is None


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_RESET_REQUIRED]
)
def test_a_lost_card_is_no_card_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The difference decides whether its slot stops."""
    gpu = FakeGpu("GPU-a")
    install(monkeypatch, gpu, FakeGpu("GPU-b"))
    with opened() as session:
        gpu.lost = code
        with pytest.raises(GpuLostError):
            session.read("GPU-a")
        assert session.read("GPU-b").temperature_c == 40


@pytest.mark.parametrize("function", [name for name in FACTS if name != "nvmlDeviceGetMemoryInfo"])
def test_one_question_that_fails_is_no_lost_card(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Some systems fail at one for no reason that they know; a card that tells its memory is there."""
    install(monkeypatch, FakeGpu("GPU-a", errors={function: pynvml.NVML_ERROR_UNKNOWN}))
    with opened() as session:
        reading = session.read("GPU-a")
    assert all(getattr(reading, name) is None for name in FACTS[function])


def test_xid_errors_come_with_whom_they_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's error concerns its slices too, a slice's no other slice."""
    plain, card = FakeGpu("GPU-a"), partitioned()
    driver = install(monkeypatch, plain, card)
    with opened() as session:
        assert session.listen()
        assert session.next_xid(0.01) is None
        driver.report(plain, 31)
        driver.report(card, 48)
        driver.report(card, 13, instance=2)
        events = [session.next_xid(1) for _ in range(3)]
    assert events == [
        XidEvent(("GPU-a",), 31), XidEvent(("GPU-mig", "MIG-1", "MIG-2"), 48), XidEvent(("MIG-2",), 13)
    ]  # fmt: skip


def test_a_lost_card_ends_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver answers at once and for ever: whoever goes on asking would spin."""
    gpu = FakeGpu("GPU-a")
    install(monkeypatch, gpu)
    with opened() as session:
        assert session.listen()
        gpu.lost = pynvml.NVML_ERROR_GPU_IS_LOST
        with pytest.raises(GpuLostError):
            session.next_xid(0.01)


def test_cards_that_report_nothing_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can is enough; where none can, nobody waits for them."""
    mute = {"nvmlDeviceRegisterEvents": pynvml.NVML_ERROR_NOT_SUPPORTED}
    install(monkeypatch, FakeGpu("GPU-a", errors=mute), FakeGpu("GPU-b"))
    with opened() as session:
        assert session.listen()
    install(monkeypatch, FakeGpu("GPU-a", errors=mute))
    with opened() as session:
        assert not session.listen()


FUNCTIONS = [name for name in vars(FakeNvml) if name.startswith("nvml")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fake_driver_has_the_bindings_functions(name: str) -> None:
    """The names and the counts of arguments are those of the library that stands there in earnest."""
    ours = inspect.signature(getattr(FakeNvml, name)).parameters.values()
    theirs = inspect.signature(getattr(pynvml, name)).parameters.values()
    asked = [parameter for parameter in theirs if parameter.default is inspect.Parameter.empty]
    decorated = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in theirs)
    assert decorated or len(ours) - 1 == len(asked)


def test_a_session_ends_whatever_has_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is left open in the driver, or the card could not be reset."""
    gpu = FakeGpu("GPU-a")
    driver = install(monkeypatch, gpu)
    with opened() as session:
        session.listen()
        gpu.lost = pynvml.NVML_ERROR_GPU_IS_LOST
    assert driver.sessions == 0

"""The watch over a driver that the test scripts: what is read, what is told, and that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pynvml  # type: ignore[import-untyped]
import pytest

from orchestrator import gpu_watch
from orchestrator.gpu_watch import GpuWatch
from orchestrator.gpus import FaultKind
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml, install

POLL_S = 0.05


class Bench:
    """Two cards, a watch over them, and what it has told."""

    def __init__(self, patch: pytest.MonkeyPatch, poll_s: float = POLL_S) -> None:
        self.first, self.second = FakeGpu("GPU-a"), FakeGpu("GPU-b")
        self.driver: FakeNvml = install(patch, self.first, self.second)
        self.told: list[tuple[str, FaultKind, int, bool] | tuple[str, str]] = []
        self.watch = GpuWatch(
            ("GPU-a", "GPU-b"),
            poll_s,
            lambda uuid, fault: self.told.append((uuid, fault.kind, fault.code, fault.fatal)),
            lambda uuid: self.told.append((uuid, "back")),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The watch at work; afterwards no thread and no session is left."""
        task = asyncio.create_task(self.watch.run())
        try:
            await until(lambda: bool(self.watch.latest))
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert self.driver.sessions == 0
        await until(no_thread)


def no_thread() -> bool:
    """Whether every watch's thread has ended."""
    return not [thread for thread in threading.enumerate() if thread.name == "gpu watch"]


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what has to happen."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_readings_are_kept_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each card, again and again."""
    bench = Bench(monkeypatch)
    async with bench.running():
        assert set(bench.watch.latest) == {"GPU-a", "GPU-b"}
        bench.first.used = 7 * GIB
        await until(lambda: bench.watch.latest["GPU-a"].memory_used_bytes == 7 * GIB)
        assert bench.driver.opened == 1, "one session for as long as all is well"
    assert not bench.told


async def test_an_xid_error_is_told_long_before_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is listened to between polls."""
    bench = Bench(monkeypatch, poll_s=60)
    async with bench.running():
        bench.driver.report(bench.second, 31)
        await until(lambda: bool(bench.told))
    assert bench.told == [("GPU-b", FaultKind.XID, 31, False)]
    assert bench.watch.health.xids == {("GPU-b", 31): 1}


async def test_a_crash_that_comes_as_several_errors_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the runner that is started after the first would be restarted for the second."""
    bench = Bench(monkeypatch, poll_s=60)
    async with bench.running():
        for code in (13, 43, 45):
            bench.driver.report(bench.first, code)
        await until(lambda: bench.watch.health.xids.total() == 3)
        await until(lambda: bool(bench.told))
    assert bench.told == [("GPU-a", FaultKind.XID, 13, False)]


async def test_a_lost_card_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once; no session stays open that would hinder its reset; a new one sees it again."""
    bench = Bench(monkeypatch)
    async with bench.running():
        bench.first.lost = pynvml.NVML_ERROR_GPU_IS_LOST
        await until(lambda: len(bench.told) == 1)
        await until(lambda: bench.driver.opened >= 3)
        assert set(bench.watch.latest) == {"GPU-b"}, "the other card is watched all the while"
        assert "no longer reaches" in bench.watch.problem("GPU-a")
        assert not bench.watch.problem("GPU-b")
        bench.first.lost = None
        await until(lambda: len(bench.told) == 2)
        assert not bench.watch.problem("GPU-a")
    assert bench.told == [("GPU-a", FaultKind.LOST, 0, True), ("GPU-a", "back")]


async def test_a_fatal_error_lets_go_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not with the next poll; and it is over when the driver asks for nothing more."""
    bench = Bench(monkeypatch)
    bench.first.recovery = pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET
    async with bench.running():
        await until(lambda: len(bench.told) == 1 and bench.driver.sessions == 0)
        bench.first.recovery = pynvml.NVML_GPU_RECOVERY_ACTION_NONE
        await until(lambda: len(bench.told) == 2)
        await until(lambda: bench.driver.sessions == 1)
        bench.driver.report(bench.first, 119)
        await until(lambda: len(bench.told) == 3)
        await until(lambda: len(bench.told) == 4)
    assert bench.told == [
        ("GPU-a", FaultKind.XID, 154, True), ("GPU-a", "back"), ("GPU-a", FaultKind.XID, 119, True), ("GPU-a", "back")
    ]  # fmt: skip


async def test_a_driver_that_goes_away_takes_every_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an update under a running node; what can be done is in the log, and all come back with it."""
    bench = Bench(monkeypatch)
    async with bench.running():
        bench.first.lost = bench.second.lost = pynvml.NVML_ERROR_UNKNOWN
        bench.driver.init = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        await until(lambda: len(bench.told) == 2)
        bench.first.lost = bench.second.lost = bench.driver.init = None
        await until(lambda: len(bench.told) == 4)
    assert [told[0] for told in bench.told] == ["GPU-a", "GPU-b"] * 2
    assert [told[1] for told in bench.told] == [FaultKind.LOST, FaultKind.LOST, "back", "back"]


async def test_new_memory_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two polls."""
    bench = Bench(monkeypatch)
    bench.first.ecc = 4
    async with bench.running():
        bench.first.ecc = 6
        await until(lambda: bool(bench.told))
    assert bench.told == [("GPU-a", FaultKind.ECC, 2, False)]


async def test_cards_that_report_no_errors_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No XID events on some systems: the polls go on, and nothing spins."""
    bench = Bench(monkeypatch)
    for gpu in (bench.first, bench.second):
        gpu.errors["nvmlDeviceRegisterEvents"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    async with bench.running():
        bench.first.degrees = 77
        await until(lambda: bench.watch.latest["GPU-a"].temperature_c == 77)


async def test_a_driver_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is silent is said; the task ends within its bound, and the watch goes on when the driver does."""
    monkeypatch.setattr(gpu_watch, "SILENCE_S", 0.1)
    monkeypatch.setattr(gpu_watch, "STOP_S", 0.1)
    bench = Bench(monkeypatch)
    task = asyncio.create_task(bench.watch.run())
    await until(lambda: bool(bench.watch.latest))
    try:
        bench.driver.hold.clear()
        await until(lambda: bench.watch.silent)
        assert bench.watch.problem("GPU-a") == "NVIDIA's driver does not answer"
        bench.driver.hold.set()
        await until(lambda: not bench.watch.silent)
        assert not bench.told, "a hang names no card"
        bench.driver.hold.clear()
        await until(lambda: bench.watch.silent)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(task, return_exceptions=True)
    finally:
        bench.driver.hold.set()
    await until(no_thread)
    assert bench.driver.sessions == 0


async def test_a_fault_of_the_watch_itself_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task ends with it, and the node with the task."""
    bench = Bench(monkeypatch)
    watch = GpuWatch(("GPU-a",), POLL_S, lambda *_: None, lambda _: None, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await watch.run()
    assert bench.driver.sessions == 0

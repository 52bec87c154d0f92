"""SIGHUP reads the configuration again, as the signal that a process gets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from reelnet.errors import ConfigError
from reelnet.operating.hangup import hangups
from tests.fakes.pool import until


class Reloads:
    """Counts reloads; `errors` are raised by the first ones. One waits until `go` is set."""

    def __init__(self, *errors: Exception) -> None:
        self.begun = 0
        self.done = 0
        self.errors = list(errors)
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> tuple[str, ...]:
        self.begun += 1
        await self.go.wait()
        self.done += 1
        if self.errors:
            raise self.errors.pop(0)
        return ("changed",)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


async def test_each_signal_reloads() -> None:
    """Also the one that came before the node served."""
    reload = Reloads()
    async with hangups() as taken:
        hang_up()
        await asyncio.sleep(0)
        assert reload.begun == 0
        taken.follow(reload)
        await until(lambda: reload.done == 1, "the early signal is acted on")
        hang_up()
        await until(lambda: reload.done == 2, "the next one too")


async def test_a_bad_file_does_not_end_the_node() -> None:
    """Nor does a fault of the program: the next signal is heard."""
    reload = Reloads(ConfigError("bad"), RuntimeError("fault"))
    async with hangups() as taken:
        taken.follow(reload)
        for done in (1, 2, 3):
            hang_up()
            await until(lambda done=done: reload.done == done, "it reloads")


async def test_signals_during_a_reload_are_one_more() -> None:
    """None is lost, and they do not pile up."""
    reload = Reloads()
    reload.go.clear()
    async with hangups() as taken:
        taken.follow(reload)
        hang_up()
        await until(lambda: reload.begun == 1, "it began")
        for _ in range(3):
            hang_up()
            await asyncio.sleep(0.01)
        reload.go.set()
        await until(lambda: reload.done == 2, "once more")
        for _ in range(5):
            await asyncio.sleep(0.005)
        assert reload.begun == 2


async def test_the_manager_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELOADING, and READY when it is over, also after a bad file: systemd waits for it."""
    reload = Reloads(ConfigError("bad"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        async with hangups() as taken:
            taken.follow(reload)
            hang_up()
            heard = [(await asyncio.to_thread(manager.recv, 4096)).decode().split("\n")[0] for _ in range(2)]
    assert heard == ["RELOADING=1", "READY=1"]


async def test_afterwards_the_signal_is_as_before() -> None:
    """Nothing of the block is left."""
    before = signal.getsignal(signal.SIGHUP)
    async with hangups():
        assert signal.getsignal(signal.SIGHUP) != before
    assert signal.getsignal(signal.SIGHUP) == before

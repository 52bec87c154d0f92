"""Listeners and the process's life."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from reelnet.errors import StartError
from reelnet.settings import Listener
from runner.process import PROBE, Ends, RequestClock, RunnerServer, leave, tcp_listener, unix_listener


def test_the_socket_is_private_and_goes_with_its_runner(tmp_path: Path) -> None:
    """Mode 0600, and nothing is left at the end."""
    path = tmp_path / "runner.sock"
    with unix_listener(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_dead_runner_s_socket_is_replaced_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    """A killed runner leaves its socket behind; two runners never share one."""
    path = tmp_path / "runner.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with unix_listener(path), pytest.raises(StartError, match="another runner listens there"), unix_listener(path):
        pass


def test_what_cannot_be_listened_on_says_why(tmp_path: Path) -> None:
    """A missing folder, a file in the way, a path too long, a port in use."""
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "missing" / "x.sock", "does its folder exist"),
        (tmp_path / "file", "is no socket"),
        (tmp_path / ("x" * 120), "use a shorter one"),
    ):
        with pytest.raises(StartError, match=reason), unix_listener(path):
            pass
    with tcp_listener(Listener()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match="is it in use"), tcp_listener(Listener(port=port)):
            pass
    assert os.listdir(tmp_path) == ["file"]


async def test_an_open_request_is_not_idle() -> None:
    """Idle time counts from the end of the last request."""
    now = 0.0
    seen: list[float] = []

    async def app(*_: object) -> None:
        nonlocal now
        now += 50
        seen.append(clock.idle_s)

    clock = RequestClock(app, lambda: now)
    await clock({"type": "http", "headers": [(b"user-agent", b"node")]}, None, None)  # type: ignore[arg-type]
    now += 7
    assert seen == [0.0]
    assert clock.idle_s == 7


async def test_a_health_check_of_the_container_is_no_request() -> None:
    """Else no container would ever find that nobody needs it."""
    now, passed = 0.0, []

    async def app(*_: object) -> None:
        passed.append(now)

    clock = RequestClock(app, lambda: now)
    now = 7
    await clock({"type": "http", "headers": [PROBE]}, None, None)  # type: ignore[arg-type]
    assert passed == [7]
    assert clock.idle_s == 7


def worker(defunct_s: float | None = None, current: object = None) -> Any:
    """A worker whose threads have ended."""
    status = SimpleNamespace(reason="the device does not compute")
    return SimpleNamespace(defunct_s=defunct_s, current=current, ended=True, status=lambda: status)


@pytest.mark.parametrize(("lost_s", "ends"), [(None, False), (4.9, False), (5.1, True)])
async def test_a_runner_whose_device_is_lost_ends_after_it_could_be_asked(lost_s: float | None, ends: bool) -> None:
    """A node has time to read why; one that no node looks after does not stay for ever."""
    clock = RequestClock(lambda *_: None)  # type: ignore[arg-type,return-value]
    server = RunnerServer(uvicorn.Config(clock, log_config=None), worker(lost_s), clock, Ends(defunct_s=5))
    assert await server.on_tick(1) is ends


@pytest.mark.parametrize(("defunct_s", "current", "code"), [(None, None, None), (9.0, None, 1), (None, "job", 1)])
def test_a_runner_that_failed_says_so_by_its_code(
    defunct_s: float | None, current: str | None, code: int | None
) -> None:
    """0 after a clean stop; 1 for a lost device, or for a job that did not stop."""
    if code is None:
        leave(worker(defunct_s, current))
        return
    with pytest.raises(SystemExit) as left:
        leave(worker(defunct_s, current))
    assert left.value.code == code

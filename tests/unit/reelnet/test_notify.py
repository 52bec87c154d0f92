"""What a service manager is told, over a true datagram socket."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelnet import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end, by a path or by a name in the kernel."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0reelnet-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield sock


def test_each_message_is_a_datagram(manager: socket.socket) -> None:
    """In the manager's own words."""
    notify.ready()
    notify.reloading()
    notify.stopping()
    notify.watchdog()
    heard = [manager.recv(4096).decode() for _ in range(4)]
    assert heard[0] == "READY=1"
    word, _, at = heard[1].partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert at.isdecimal()
    assert heard[2:] == ["STOPPING=1", "WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:1:2"])
def test_without_a_manager_nothing_is_said(address: str) -> None:
    """Nor is another kind of address taken for one."""
    assert not notify.notify("READY=1", {"NOTIFY_SOCKET": address})


def test_a_manager_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    """The component goes on."""
    assert not notify.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 10),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_interval(environ: dict[str, str], interval_s: float | None) -> None:
    """A third of its patience; another process's watchdog is not ours to feed."""
    assert notify.watchdog_interval_s(environ, pid=7) == interval_s

"""The health check of the runner's container."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from runner import probe
from runner.app import build
from runner.worker import State
from tests.fakes.runner import BrokenBackend, serving, settings


async def test_a_ready_runner_is_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over its socket, with exit code 0."""
    async with serving(build(settings()), tmp_path) as client:
        await client.until(State.READY)
        assert await asyncio.to_thread(probe.main, str(tmp_path / "runner.sock")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "READY"


async def test_a_runner_without_a_usable_model_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers, and yet can take no job; the reason is shown by `docker inspect`."""
    broken = BrokenBackend(load=ValueError("no weights"))
    async with serving(build(settings(), broken), tmp_path) as client:
        await client.until(State.SETUP_FAILED)
        assert await asyncio.to_thread(probe.main, str(tmp_path / "runner.sock")) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "SETUP_FAILED ValueError: no weights"


def test_nobody_there_is_unhealthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As before the runner listens."""
    assert probe.main(str(tmp_path / "runner.sock")) == 1
    assert "no answer" in capsys.readouterr().out


def test_one_who_says_nothing_is_unhealthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check ends by itself, before the engine ends it."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.2)
    path = tmp_path / "runner.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        assert probe.main(str(path)) == 1
    assert "timed out" in capsys.readouterr().out

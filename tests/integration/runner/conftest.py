"""Served runners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runner.app import build
from runner.worker import State
from tests.fakes.runner import GatedBackend, RunnerClient, serving, settings


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A synthetic runner that is ready."""
    async with serving(build(settings()), tmp_path) as client:
        await client.until(State.READY)
        yield client


@pytest.fixture
def gate() -> Iterator[GatedBackend]:
    """A backend whose first job stands before its second step; opened at the end, whatever happens."""
    backend = GatedBackend()
    yield backend
    backend.open()


@pytest.fixture
async def gated(tmp_path: Path, gate: GatedBackend) -> AsyncIterator[RunnerClient]:
    """A runner over `gate`, with quick ticks."""
    async with serving(build(settings(tick_s=0.05), gate), tmp_path) as client:
        await client.until(State.READY)
        yield client
        gate.open()

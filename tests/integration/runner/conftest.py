"""Served runners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from runner.app import build
from runner.worker import State
from tests.fakes.runner import GatedBackend, RunnerClient, serving, settings


@pytest.fixture(autouse=True)
def _loop_never_blocks() -> Iterator[None]:
    """Fails a test in which the runner's own code blocks the event loop."""
    with blockbuster_ctx("runner") as watch:
        # An app is built and its listener bound before there is a loop; in these tests both happen in it.
        for call in watch.functions.values():
            call.can_block_in("runner/app.py", "build")
            call.can_block_in("runner/process.py", "unix_listener")
            call.can_block_in("runner/models/tiny_lora.py", "write_lora")  # tests make files with it
        yield


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

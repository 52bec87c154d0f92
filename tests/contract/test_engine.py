"""The contract of a RunnerEngine, on the in-process engine of the tests and on processes; tests/docker has Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.engine import RunnerEngine
from orchestrator.process_engine import ProcessEngine
from tests.contract.engine_suite import *  # noqa: F403  (a suite is all of its tests)
from tests.contract.engine_suite import MakeSpec
from tests.fakes.pool import InProcessEngine, until

ENGINES = [pytest.param(InProcessEngine, id="in-process"), pytest.param(ProcessEngine, id="process")]


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[RunnerEngine]:
    """Each engine in turn; closed at the end, whatever the test did."""
    running: RunnerEngine = request.param()
    yield running
    await running.close()


@pytest.fixture
async def real_engine() -> AsyncIterator[RunnerEngine]:
    """The engine whose runners are processes."""
    running = ProcessEngine()
    yield running
    await running.close()


@pytest.fixture
def image() -> None:
    """These engines need none."""


async def test_the_process_is_gone_after_stop(spec: MakeSpec) -> None:
    """Stop returns when the process has ended."""
    engine = ProcessEngine()
    handle = await engine.start(spec())
    pid = Path(f"/proc/{handle.ref}")
    await until(pid.exists, "the process is there")
    await engine.stop(handle, grace_s=5)
    assert not pid.exists()
    await engine.close()

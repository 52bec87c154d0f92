"""One Docker engine of the tests' own for the whole session, and the runner's image in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engines import TestEngine, need_engine, running_engine

HERE = Path(__file__).parent
LAST = "test_full_image.py"
"""Builds for minutes, and is no use when anything before it failed."""
TIMEOUT_S = 600
"""Longest test; the first one waits for the image."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here has the mark `docker` and time for an engine to start; the full image comes last."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.docker)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
    items.sort(key=lambda item: item.path == HERE / LAST)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[TestEngine]:
    """An engine without live-restore. A test that restarts it leaves it up, without containers."""
    need_engine()
    spare = Path(tempfile.mkdtemp(prefix="engine-"))  # a short path: sockets lie below
    try:
        with running_engine(spare) as engine:
            yield engine
    finally:
        shutil.rmtree(spare, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_engine_socket(docker_engine: TestEngine) -> Path:
    """Where the engine's API answers."""
    return docker_engine.socket


@pytest.fixture(scope="session")
def synthetic_image(docker_engine: TestEngine) -> str:
    """The id of the runner's image without a model library."""
    return docker_engine.build("synthetic")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a Unix socket lies below it."""
    return tmp_path_factory.mktemp("e")

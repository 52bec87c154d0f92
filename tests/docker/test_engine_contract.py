"""The contract of a RunnerEngine on Docker: a real engine, behind a filter that passes what SECURITY.md lists."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orchestrator.docker_engine import DockerEngine
from tests.contract.engine_suite import *  # noqa: F403
from tests.docker.engines import TestEngine
from tests.docker.nodes import docker_node


@pytest.fixture
async def engine(docker_engine: TestEngine) -> AsyncIterator[DockerEngine]:
    """A node's Docker engine."""
    async with docker_node(docker_engine) as node:
        yield node.engine


@pytest.fixture
def real_engine(engine: DockerEngine) -> DockerEngine:
    """The same: containers can die."""
    return engine


@pytest.fixture
def image(synthetic_image: str) -> str:
    """The runner's image."""
    return synthetic_image

"""From an image's name to what runs: a real engine, and a registry on loopback that lies when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.docker_api import DockerApi
from orchestrator.docker_container import DockerOptions
from orchestrator.docker_images import Images
from orchestrator.engine import EngineError
from tests.docker.engines import TestEngine
from tests.docker.nodes import docker_node, runner_spec
from tests.fakes.docker_proxy import DockerProxy, docker_proxy
from tests.fakes.registry import FakeRegistry, fake_registry


@dataclass(frozen=True)
class Place:
    """A registry, and a node's images on an engine behind a filter."""

    registry: FakeRegistry
    proxy: DockerProxy
    images: Images
    docker: TestEngine


@pytest.fixture
async def place(docker_engine: TestEngine, folder: Path) -> AsyncIterator[Place]:
    """With a second to wait for a download; what was downloaded is removed at the end."""
    async with fake_registry() as registry, docker_proxy(docker_engine.socket, folder / "docker.sock") as proxy:
        options = DockerOptions(proxy.socket, pull_s=3)
        api = DockerApi(options)
        there = Place(registry, proxy, Images(api, options), docker_engine)
        yield there
        there.registry.held = False
        if found := await there.images.local_id(registry.reference):
            await asyncio.to_thread(docker_engine.docker, "rmi", "--force", found)
        await api.close()


async def test_a_digest_is_downloaded_once(place: Place) -> None:
    """However many slots ask for it, and never again once it is here."""
    name = place.registry.reference
    ids = await asyncio.gather(*(place.images.id_of(name) for _ in range(3)))
    assert len(set(ids)) == 1
    assert ids[0].startswith("sha256:")
    assert await place.images.id_of(name) == ids[0]
    assert [call.path for call in place.proxy.calls].count("/images/create") == place.registry.manifests == 1


async def test_another_image_than_its_digest_is_refused(place: Place) -> None:
    """A registry that serves other bytes gets nothing run."""
    place.registry.forged = True
    with pytest.raises(EngineError, match="verification failed"):
        await place.images.id_of(place.registry.reference)
    assert await place.images.local_id(place.registry.reference) is None


async def test_an_unknown_digest_is_told(place: Place) -> None:
    """With the registry's words."""
    repository = place.registry.reference.partition("@")[0]
    with pytest.raises(EngineError, match="manifest unknown"):
        await place.images.id_of(f"{repository}@sha256:{'0' * 64}")


async def test_a_registry_that_hangs_holds_nobody(place: Place) -> None:
    """A download has its bound, and the error names the setting."""
    place.registry.held = True
    async with asyncio.timeout(20):
        with pytest.raises(EngineError, match="pull_s"):
            await place.images.id_of(place.registry.reference)


async def test_a_name_is_never_downloaded(place: Place) -> None:
    """A name without a digest could mean anything: it has to be on this host."""
    with pytest.raises(EngineError, match="scripts/image"):
        await place.images.id_of(f"127.0.0.1:{place.registry.port}/{place.registry.name}:latest")
    assert place.registry.manifests == 0


async def test_what_runs_is_the_id(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """A container is asked for by the id that its image's name meant."""
    async with docker_node(docker_engine) as node:
        name = f"reelnet-named:{node.id[:12]}"
        await asyncio.to_thread(docker_engine.docker, "tag", synthetic_image, name)
        try:
            await node.engine.start(runner_spec(folder, name))
        finally:
            await asyncio.to_thread(docker_engine.docker, "rmi", "--no-prune", name)
        assert node.proxy.bodies("/containers/create")[0]["Image"] == synthetic_image
        with pytest.raises(EngineError, match="no runner image is named"):
            await node.engine.start(runner_spec(folder, "", "slot-1"))

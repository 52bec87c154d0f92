"""Which GPU a container gets: its slot's and no other. A stand-in for NVIDIA's hook is on the engine's path."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.docker_container import DockerOptions
from orchestrator.docker_errors import TOOLKIT
from orchestrator.engine import EngineError, RunnerHandle
from tests.docker.engines import TestEngine
from tests.docker.inside import seen
from tests.docker.nodes import NodeEngine, docker_node, runner_spec
from tests.fakes.pool import until

FIRST, SECOND = "GPU-11111111-1111-1111-1111-111111111111", "GPU-22222222-2222-2222-2222-222222222222"
SLICE = "MIG-33333333-3333-3333-3333-333333333333"
ENVIRONMENT = """
import json
print(json.dumps([text for text in open("/proc/1/environ").read().split(chr(0)) if text]))
"""


@pytest.fixture
async def node(docker_engine: TestEngine) -> AsyncIterator[NodeEngine]:
    """A node on the tests' engine."""
    async with docker_node(docker_engine) as running:
        yield running


async def visible(node: NodeEngine, handle: RunnerHandle) -> set[str]:
    """All values of NVIDIA_VISIBLE_DEVICES that the runner's process has: the hook reads them."""
    environment = await asyncio.to_thread(seen, node.docker, handle.ref, ENVIRONMENT)
    pairs = [text.partition("=") for text in environment]
    return {value for name, _, value in pairs if name == "NVIDIA_VISIBLE_DEVICES"}


async def test_each_slot_gets_its_own_gpu(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A GPU, another one, a slice of one, and none; the same again after a restart of the runner."""
    places = {"a": FIRST, "b": SECOND, "c": SLICE}
    specs = {slot: runner_spec(folder, synthetic_image, slot, gpu=gpu, device="cuda:0") for slot, gpu in places.items()}
    for _ in range(2):
        handles = {slot: await node.engine.start(spec) for slot, spec in specs.items()}
        assert {slot: await visible(node, handle) for slot, handle in handles.items()} == {
            slot: {gpu} for slot, gpu in places.items()
        }
        for handle in handles.values():
            await node.engine.stop(handle, grace_s=1)


async def test_a_slot_on_the_cpu_sees_no_gpu(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """Also when its image asks for all of them."""
    name = f"reelnet-greedy:{node.id[:12]}"
    change = ["commit", "--change", "ENV NVIDIA_VISIBLE_DEVICES=all"]
    ref = await asyncio.to_thread(node.docker.docker, "create", "--network=none", synthetic_image)
    try:
        await asyncio.to_thread(node.docker.docker, *change, ref, name)
        handle = await node.engine.start(runner_spec(folder, name))
        assert await visible(node, handle) == {"void"}
        greedy = await node.engine.start(runner_spec(folder, name, "slot-1", gpu=FIRST, device="cuda:0"))
        assert await visible(node, greedy) == {FIRST}
        await node.engine.close()
    finally:
        await asyncio.to_thread(node.docker.docker, "rm", ref)
        await asyncio.to_thread(node.docker.docker, "rmi", "--force", name)


async def test_two_nodes_share_a_gpu_by_intent_alone(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """Each node's slot has the GPU that it was given; nothing here says that one is taken."""
    async with docker_node(node.docker) as other:
        for place in ("one", "two"):
            (folder / place).mkdir()
        first = await node.engine.start(runner_spec(folder / "one", synthetic_image, gpu=FIRST, device="cuda:0"))
        second = await other.engine.start(runner_spec(folder / "two", synthetic_image, gpu=SECOND, device="cuda:0"))
        third = await other.engine.start(
            runner_spec(folder / "two", synthetic_image, "slot-1", gpu=FIRST, device="cuda:0")
        )
        assert await visible(node, first) == await visible(other, third) == {FIRST}
        assert await visible(other, second) == {SECOND}


async def test_the_request_names_one_gpu(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """By its UUID, to the driver nvidia, never by a count."""
    await node.engine.start(runner_spec(folder, synthetic_image, gpu=FIRST, device="cuda:0"))
    asked = node.proxy.bodies("/containers/create")[0]["HostConfig"]["DeviceRequests"]
    assert asked == [{"Driver": "nvidia", "DeviceIDs": [FIRST], "Capabilities": [["gpu", "compute", "utility"]]}]


async def test_a_cdi_request_names_one_gpu(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """This engine knows no CDI and says so, which is explained; newer ones take the request as it stands."""
    async with docker_node(docker_engine, DockerOptions(gpu_request="cdi")) as node:
        with pytest.raises(EngineError) as raised:
            await node.engine.start(runner_spec(folder, synthetic_image, gpu=SLICE, device="cuda:0"))
        assert TOOLKIT in str(raised.value)
        asked = node.proxy.bodies("/containers/create")[0]
        assert asked["HostConfig"]["DeviceRequests"] == [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={SLICE}"]}]
        assert "NVIDIA_VISIBLE_DEVICES=void" in asked["Env"], "or an old hook would add a second one"
        assert node.containers() == [], "what could not be started is removed"


async def test_an_engine_without_the_toolkit_is_told(
    docker_engine: TestEngine, folder: Path, synthetic_image: str
) -> None:
    """What to install, configure and restart, instead of the engine's own words alone."""
    async with without_hook(docker_engine), docker_node(docker_engine) as node:
        with pytest.raises(EngineError) as raised:
            await node.engine.start(runner_spec(folder, synthetic_image, gpu=FIRST, device="cuda:0"))
        assert TOOLKIT in str(raised.value)
        assert "nvidia" in str(raised.value).rpartition("(")[2], "the engine's own words stand behind"


@contextlib.asynccontextmanager
async def without_hook(docker: TestEngine) -> AsyncIterator[None]:
    """The same engine, its dockerd started without the stand-in on its path."""
    command = Path(f"/proc/{docker.pid}/cmdline").read_text().split("\0")[:-1]
    await asyncio.to_thread(docker.stop)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as bare:
        try:
            await until(
                lambda: subprocess.run(docker.command("version"), capture_output=True).returncode == 0, "an answer"
            )
            yield
        finally:
            bare.terminate()
    await asyncio.to_thread(docker.up)

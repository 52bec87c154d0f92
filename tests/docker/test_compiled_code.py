"""The folder for compiled code, as runners in containers have it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from orchestrator.engine import RunnerHandle, RunnerSpec
from tests.docker.engines import TestEngine
from tests.docker.inside import seen
from tests.docker.nodes import NodeEngine, docker_node, runner_spec

WRITE = """
import json, os, subprocess
place = os.environ["REELNET_RUNNER_COMPILE_CACHE"]
program = place + "/program"
with open(program, "w") as file:
    file.write("#!/bin/sh\\necho ran")
os.chmod(program, 0o700)
said = subprocess.run([program], capture_output=True, text=True).stdout.strip()
status = os.stat(place)
print(json.dumps({"place": place, "said": said, "mode": status.st_mode & 0o777, "own": status.st_uid == os.getuid()}))
"""
LOOK = "import json, os; print(json.dumps(os.listdir(os.environ['REELNET_RUNNER_COMPILE_CACHE'])))"
WITHOUT = (
    "import json, os; print(json.dumps([os.path.exists('/compiled'), 'REELNET_RUNNER_COMPILE_CACHE' in os.environ]))"
)


def compiling(folder: Path, image: str, model: str, slot: str, **more: Any) -> RunnerSpec:
    """A runner that compiles the model of that name. Its files are no model, so it says so and waits."""
    place = folder / model
    if not place.exists():
        place.mkdir()
        (place / "weights.safetensors").touch()
    flags = {"compile": "true"}
    return runner_spec(folder, image, slot, backend="diffusers", model=str(place), **{"flags": flags, **more})


async def sees(node: NodeEngine, handle: RunnerHandle, program: str) -> Any:
    """What a program prints in the runner's container as JSON."""
    return await asyncio.to_thread(seen, node.docker, handle.ref, program)


async def test_compiled_code_is_its_pairs_alone(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """It can be written and run by the runner's user; the pair's next runner has it, another model's does not."""
    async with docker_node(docker_engine) as node:
        spec = compiling(folder, synthetic_image, "a", "slot-0")
        first = await node.engine.start(spec)
        found = await sees(node, first, WRITE)
        assert found == {"place": "/compiled", "said": "ran", "mode": 0o700, "own": True}
        other = await node.engine.start(compiling(folder, synthetic_image, "b", "slot-1"))
        assert await sees(node, other, LOOK) == []
        await node.engine.stop(first, grace_s=1)
        again = await node.engine.start(compiling(folder, synthetic_image, "a", "slot-2"))
        assert await sees(node, again, LOOK) == ["program"]


async def test_the_rest_stays_read_only(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """One more folder can be written to; a runner that compiles nothing does not have it."""
    async with docker_node(docker_engine) as node:
        plain = await node.engine.start(compiling(folder, synthetic_image, "a", "slot-0", flags={}))
        assert await sees(node, plain, WITHOUT) == [False, False]
        handle = await node.engine.start(compiling(folder, synthetic_image, "a", "slot-1"))
        written = await sees(
            node,
            handle,
            """
import json, os
written = []
for parent, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(parent, name) not in ("/proc", "/sys", "/tmp", "/dev")]
    try:
        with open(os.path.join(parent, "written"), "w"):
            written.append(parent)
    except OSError:
        pass
print(json.dumps(written))
""",
        )
        assert sorted(written) == ["/compiled", "/run/reelnet"]


async def test_a_runner_that_was_left_keeps_its_code(
    docker_engine: TestEngine, folder: Path, synthetic_image: str
) -> None:
    """A node that starts again notes the folder of each runner that it finds, so that it does not go as unused."""
    async with docker_node(docker_engine) as node:
        await node.engine.start(compiling(folder, synthetic_image, "a", "slot-0"))
        (pair,) = await asyncio.to_thread(lambda: list(node.compiled.glob("*/pair.json")))
        await asyncio.to_thread(os.utime, pair, (1, 1))
        (found,) = await node.again().recover()
        assert found.slot == "slot-0"
        assert (await asyncio.to_thread(pair.stat)).st_mtime > 1e9

"""A model's files as a container sees them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from orchestrator.engine import EngineError
from tests.docker.engines import TestEngine
from tests.docker.inside import seen
from tests.docker.nodes import docker_node, runner_spec

READ = """
import json, sys
words = open("/proc/1/cmdline").read().split(chr(0))
model = words[words.index("--model") + 1]
print(json.dumps(open(model + "/unet/weights.safetensors").read()))
"""


async def test_a_cache_of_links_is_seen_whole(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """A snapshot of a Hugging Face cache, whose files are links into its blobs: the runner's own words name it."""
    repo = folder / "models--acme--sd"
    snapshot = repo / "snapshots" / "abc"
    (repo / "blobs").mkdir(parents=True)
    (snapshot / "unet").mkdir(parents=True)
    (repo / "blobs" / "0f").write_text("weights")
    (snapshot / "unet" / "weights.safetensors").symlink_to("../../../blobs/0f")
    spec = runner_spec(folder, synthetic_image, backend="diffusers", model=str(snapshot))
    async with docker_node(docker_engine) as node:
        handle = await node.engine.start(spec)
        assert await asyncio.to_thread(seen, docker_engine, handle.ref, READ) == "weights"


async def test_a_link_that_leads_out_is_named(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """Before anything is started: in the container it would be a missing file."""
    model = folder / "model"
    model.mkdir()
    (folder / "elsewhere").write_text("weights")
    (model / "weights.safetensors").symlink_to(folder / "elsewhere")
    async with docker_node(docker_engine) as node:
        with pytest.raises(EngineError, match=r"model/weights\.safetensors: the link leads out"):
            await node.engine.start(runner_spec(folder, synthetic_image, backend="diffusers", model=str(model)))
        assert node.containers() == []


async def test_what_is_mounted_below_a_model_is_left_out(
    docker_engine: TestEngine, folder: Path, synthetic_image: str
) -> None:
    """Read-only holds for the folder itself alone, so another file system in it does not come along."""
    place = folder / "model" / "scratch"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs", str(place)], check=True, timeout=30)
    try:
        (place / "there").touch()
        spec = runner_spec(folder, synthetic_image, backend="diffusers", model=str(folder / "model"))
        async with docker_node(docker_engine) as node:
            handle = await node.engine.start(spec)
            listed = "import json, os; print(json.dumps(os.listdir('/model/scratch')))"
            assert await asyncio.to_thread(seen, docker_engine, handle.ref, listed) == []
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)

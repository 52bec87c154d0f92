"""True model code on tiny random weights, through all four hops: what changes an output, and what must not."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from orchestrator.engine import RunnerEngine
from orchestrator.process_engine import ProcessEngine
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import picture

pytestmark = pytest.mark.diffusers

DRAW = {"prompt": "a lighthouse", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 11}
CLIP = {"width": 64, "height": 64, "num_inference_steps": 2, "num_frames": 14, "fps": 7, "seed": 11}
SD, SVD = "reelnet/tiny-random-sd", "reelnet/tiny-random-svd"


def plan(home: Path, models_home: Path, engine: RunnerEngine) -> PoolPlan:
    """One node with both tiny models, from the models' home."""
    models = [{"model": SD}, {"model": SVD}]
    return PoolPlan(home, [engine], models, node={"models_home": str(models_home)})


@pytest.fixture
async def pool(tmp_path: Path, tiny_models: Path) -> AsyncIterator[Pool]:
    """A node with both tiny models, and a broadcaster."""
    async with running_pool(plan(tmp_path, tiny_models, InProcessEngine())) as running:
        yield running


async def draw(pool: Pool, **changes: Any) -> bytes:
    (data,) = await pool.outputs(await pool.job("text-to-image", {**DRAW, **changes}))
    return data


async def film(pool: Pool, image: bytes, **changes: Any) -> bytes:
    (data,) = await pool.outputs(await pool.job("image-to-video", {**CLIP, **changes}, image))
    return data


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def frames(mp4: bytes) -> list[np.ndarray[Any, Any]]:
    with av.open(io.BytesIO(mp4)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


async def test_everything_that_is_asked_changes_a_picture(pool: Pool) -> None:
    """Another prompt, another seed and one more step each change the picture; the same request does not."""
    first = await draw(pool)
    assert pixels(first).std() > 1, "constant"
    assert await draw(pool) == first
    for change in ({"prompt": "a submarine"}, {"seed": 12}, {"num_inference_steps": 4}, {"guidance_scale": 3.0}):
        other = await draw(pool, **change)
        assert np.abs(pixels(other) - pixels(first)).max() > 2, change


async def test_everything_that_is_asked_changes_a_clip(pool: Pool) -> None:
    """Another input picture, another seed and one more step each change the clip; its frames differ."""
    first = frames(await film(pool, picture(seed=1)))
    assert len(first) == 14
    assert all(frame.std() > 1 for frame in first)
    assert all(np.abs(a - b).max() > 2 for a, b in itertools.pairwise(first)), "two frames are equal"
    others = [
        await film(pool, picture(seed=2)),
        await film(pool, picture(seed=1), seed=12),
        await film(pool, picture(seed=1), num_inference_steps=3),
        await film(pool, picture(seed=1), fit="stretch"),
    ]
    for other in others:
        assert max(np.abs(a - b).max() for a, b in zip(first, frames(other), strict=True)) > 2


async def test_frames_are_made_between_a_clips_frames(pool: Pool) -> None:
    """By the network that lies beside the model, over every hop: as many as promised; its ends look as before."""
    plain = frames(await film(pool, picture(seed=1)))
    faster = frames(await film(pool, picture(seed=1), interpolate_to_fps=24))
    assert (len(plain), len(faster)) == (14, 48)
    for end in (0, -1):
        assert np.abs(plain[end] - faster[end]).mean() < 8


async def test_the_same_request_gives_the_same_bytes_on_every_node(tmp_path: Path, tiny_models: Path) -> None:
    """Two nodes with runners in processes of their own, which is a restart too: equal bytes, equal digests."""
    files, clips, digests = [], [], []
    for name in ("a", "b"):
        async with running_pool(plan(tmp_path / name, tiny_models, ProcessEngine())) as pool:
            answer = await pool.job("text-to-image", DRAW)
            files += await pool.outputs(answer)
            clips += [await film(pool, picture(seed=1)) for _ in range(2)]
            digests.append(answer.json()["job"]["model_digest"])
    assert len(files) == 2
    assert len(set(files)) == 1
    assert len(clips) == 4
    assert len(set(clips)) == 1, "a runner's history shows in its clips"
    assert len(set(digests)) == 1


@pytest.mark.parametrize("name", ["wan", "wan-ti2v"])
async def test_a_prompted_clip_follows_its_words(tmp_path: Path, tiny_models: Path, name: str) -> None:
    """Frames as asked at a size that is drawn larger; other words, other frames; the same request, the same bytes."""
    models, engine = [{"model": f"reelnet/tiny-random-{name}"}], InProcessEngine()
    async with running_pool(PoolPlan(tmp_path, [engine], models, node={"models_home": str(tiny_models)})) as pool:
        asked = {"num_frames": 5, "width": 72, "prompt": "a lighthouse", "guidance_scale": 8}
        first = await film(pool, picture(seed=1), **asked)
        assert [frame.shape for frame in frames(first)] == [(64, 72, 3)] * 5
        assert await film(pool, picture(seed=1), **asked) == first
        other = await film(pool, picture(seed=1), **{**asked, "prompt": "a submarine"})
        assert max(np.abs(a - b).max() for a, b in zip(frames(first), frames(other), strict=True)) > 2


@pytest.mark.parametrize("words", ["!fail node", "!hang", "!oom", "!die"])
async def test_fault_words_are_only_words_to_a_model(pool: Pool, words: str) -> None:
    """A prompt that would fail the synthetic backend is drawn like any other."""
    assert pixels(await draw(pool, prompt=words)).std() > 1

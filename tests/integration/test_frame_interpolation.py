"""A clip at another rate, over HTTP, gRPC and HTTP to a runner and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reelnet.clips import probe_clip
from tests.fakes.media import Clip
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool

PIPELINE = "frame-interpolation"


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """A synthetic node."""
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()])) as running:
        yield running


async def test_a_clip_comes_back_at_the_asked_rate(pool: Pool) -> None:
    """With its size and its very sound."""
    given = Clip(frames=14, fps=7, sound=True).encode()
    (data,) = await pool.outputs(await pool.job(PIPELINE, {"fps": 24}, given, "video"))
    found, before = probe_clip(data), probe_clip(given)
    assert (found.width, found.height, found.frames, found.fps, found.fps_den) == (64, 48, 48, 24, 1)
    assert found.sound == before.sound != ""


async def test_more_frames_than_are_made_is_the_user_s_to_change(pool: Pool) -> None:
    """Found before any node is asked."""
    given = Clip(32, 32, frames=40, fps=1, moving=False).encode()
    answer = await pool.job(PIPELINE, {"fps": 120}, given, "video")
    assert answer.status_code == 422
    assert "at most 3600" in answer.text

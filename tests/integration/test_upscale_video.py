"""A clip over HTTP, gRPC and HTTP to a runner and back, in one process, on the synthetic backend."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from structlog.testing import capture_logs

from reelnet.clips import inspect_clip, probe_clip
from tests.fakes.media import Clip, encoded, pattern
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, followed, running_pool, until
from tests.fakes.runner import GatedBackend

SMALL_LIMITS = {"limits": {"clip_frames": 30, "clip_pixels": 100 * 100, "clip_s": 5}}
FILM = Clip(frames=9, fps=Fraction(30000, 1001), sound=True, place="SECRETPLACE")


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """A synthetic node, and a broadcaster with small limits."""
    node = {"limits": {"progress_s": 0, "hold_s": 0}}
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], node=node, broadcaster=SMALL_LIMITS)) as running:
        yield running


def times(data: bytes, kind: str) -> list[float]:
    """When each packet of a clip's pictures or sound is shown or heard, in seconds, in order."""
    with av.open(io.BytesIO(data)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        assert stream.time_base is not None
        packets = [packet for packet in container.demux(stream) if packet.size]
        return sorted(float((packet.pts or 0) * stream.time_base) for packet in packets)


async def test_a_clip_comes_back_larger_with_its_rate_and_sound(pool: Pool) -> None:
    """Four times the sides; the frames, the rational rate, the moment of each frame and the very sound of the input."""
    given = FILM.encode()
    answer = await pool.job("upscale-video", {"seed": 3}, given, "video")
    (data,) = await pool.outputs(answer)
    found, before = probe_clip(data), probe_clip(given)
    assert (found.width, found.height) == (256, 192)
    assert (found.frames, Fraction(found.fps, found.fps_den)) == (9, Fraction(30000, 1001))
    assert found.sound == before.sound != ""
    assert times(data, "video") == pytest.approx(times(given, "video"), abs=1e-4)
    assert times(data, "audio") == pytest.approx(times(given, "audio"), abs=1e-4)
    assert b"SECRETPLACE" in given
    assert b"SECRETPLACE" not in data
    assert answer.json()["images"][0]["url"].endswith(".mp4")


@pytest.mark.parametrize("codec", ["av1", "vp9"])
async def test_a_clip_comes_back_as_the_codec_that_was_asked(pool: Pool, codec: str) -> None:
    """With the sound and the moments of the input, and with what was asked in its description."""
    given = FILM.encode()
    (data,) = await pool.outputs(
        await pool.job("upscale-video", {"video_codec": codec, "metadata": "true"}, given, "video")
    )
    assert times(data, "video") == pytest.approx(times(given, "video"), abs=1e-4)
    assert probe_clip(data).sound == probe_clip(given).sound
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
        assert json.loads(container.metadata["description"])["params"]["video_codec"] == codec


async def test_uneven_frames_keep_their_moments(pool: Pool) -> None:
    """A clip of variable rate is shown frame for frame when the input's frames are."""
    given = Clip(frames=12, fps=25, uneven=True).encode()
    (data,) = await pool.outputs(await pool.job("upscale-video", {}, given, "video"))
    assert times(data, "video") == pytest.approx(times(given, "video"), abs=1e-4)
    assert len(set(np.diff(times(data, "video")).round(3))) == 2


async def test_a_turned_clip_comes_back_upright(pool: Pool) -> None:
    """A phone's rotation is made into pixels: the output is as the input is seen, and not turned again."""
    (data,) = await pool.outputs(await pool.job("upscale-video", {}, Clip(rotation=90, frames=3).encode(), "video"))
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (192, 256, 0)


@pytest.mark.parametrize(
    ("clip", "status", "words"),
    [
        (Clip(frames=31, fps=30), 413, "30 frames"),
        (Clip(frames=20, fps=2), 413, "5 s"),
        (Clip(width=128, height=96, frames=2), 413, "10000 pixels"),
        (Clip(width=8, height=8, frames=2), 422, "at least 16"),
        (Clip(codec="mpeg2video", fps=25, frames=2), 415, "mpeg2video"),
    ],
)
async def test_a_clip_over_a_limit_is_refused_by_its_name(pool: Pool, clip: Clip, status: int, words: str) -> None:
    """What a clip claims is bounded before any of it is decoded, and the answer names the bound."""
    answer = await pool.job("upscale-video", {}, clip.encode(), "video")
    assert answer.status_code == status, answer.text
    assert words in answer.text


@pytest.mark.parametrize("cut", [0.5, 0.97])
async def test_a_clip_that_is_cut_off_is_refused(pool: Pool, tmp_path: Path, cut: float) -> None:
    """A file that does not decode whole is the app's fault, and no node hears of it."""
    (tmp_path / "given").write_bytes(FILM.encode())
    inspect_clip(tmp_path / "given", tmp_path / "whole")  # its index is in front
    data = (tmp_path / "whole").read_bytes()
    answer = await pool.job("upscale-video", {}, data[: int(len(data) * cut)], "video")
    assert answer.status_code == 415, answer.text
    assert "damaged" in answer.text


async def test_a_picture_is_no_clip(pool: Pool) -> None:
    """A picture where a clip is asked gets 415, and a missing clip 422 with the name of the field."""
    answer = await pool.job("upscale-video", {}, encoded(pattern(64, 48), "PNG"), "video")
    assert (answer.status_code, "MP4" in answer.text) == (415, True)
    answer = await pool.job("upscale-video", {}, encoded(pattern(64, 48), "PNG"))
    assert answer.status_code == 422
    assert "video" in answer.text


async def test_progress_counts_frames(tmp_path: Path) -> None:
    """A client that asks for events hears of the fourth frame while the fifth is held, and gets the clip at the end."""
    gate = GatedBackend(step=5, stage="upscale")
    engine = InProcessEngine(backend=lambda spec, settings: gate)
    files = {"video": ("clip.mp4", FILM.encode(), "video/mp4")}
    watch = {"accept": "text/event-stream"}
    events: list[tuple[str, dict[str, Any]]] = []
    async with (
        running_pool(PoolPlan(tmp_path, [engine])) as pool,
        pool.http.stream("POST", "/upscale-video", files=files, headers=watch) as answer,
    ):
        async for name, body in followed(answer):
            events.append((name, body))
            if name == "progress" and (body["stage"], body["step"]) == ("upscale", 4):
                gate.open()
    assert events[-1][0] == "result"
    told = [body for name, body in events if name == "progress" and body["stage"] == "upscale"]
    assert {body["total"] for body in told} == {9}


async def test_a_client_that_leaves_stops_the_clip_at_a_frame(tmp_path: Path) -> None:
    """A client that is gone ends the job at the next frame, and the runner takes another one."""
    gate = GatedBackend(step=3, stage="upscale")
    engine = InProcessEngine(backend=lambda spec, settings: gate)
    async with running_pool(PoolPlan(tmp_path, [engine])) as pool:
        task = asyncio.create_task(pool.job("upscale-video", {}, FILM.encode(), "video"))
        await gate.wait_held()
        task.cancel()
        (worker,) = engine.workers.values()
        await until(lambda: worker.current is None or worker.current.canceled.is_set(), "the runner hears of it")
        gate.open()
        await until(lambda: worker.current is None, "the job ends")
        await until(lambda: pool.slot().holder is None, "the slot is free")
        assert (await pool.job("upscale-video", {}, FILM.encode(), "video")).status_code == 200


async def test_an_output_that_looks_like_its_input_is_no_replay(pool: Pool) -> None:
    """That is what upscaling is: no mark for an audit."""
    with capture_logs() as logs:
        answer = await pool.job("upscale-video", {}, Clip(frames=4, smooth=True).encode(), "video")
    assert answer.status_code == 200
    assert not [row for row in logs if row["event"] == "audit"]

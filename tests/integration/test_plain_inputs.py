"""Pictures and clips of every kind through the whole path, over HTTP: what comes out is what a screen shows of them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from reelnet.icc import PRIMARIES, matrix_profile, power
from tests.fakes import ffmpeg
from tests.fakes.media import Clip, encoded, pattern
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.programs import needs

P3 = matrix_profile(PRIMARIES[12], power(2.2))


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()])) as running:
        yield running


async def test_a_broken_profile_is_told_and_a_good_one_is_not(pool: Pool) -> None:
    """The answer names the code and the input."""
    answer = await pool.job("image-to-image", {"prompt": "a"}, encoded(pattern(64, 64), "TIFF", icc_profile=b"none"))
    (warning,) = answer.json()["warnings"]
    assert (warning["code"], warning["parameter"]) == ("profile_ignored", "image")
    good = await pool.job("image-to-image", {"prompt": "a"}, encoded(pattern(64, 64), "AVIF", icc_profile=P3))
    assert good.json()["warnings"] == []


async def test_a_large_photo_is_fitted_when_the_request_says_so(pool: Pool) -> None:
    """12 megapixels are refused with advice, and with the wish the job is that of a smaller picture."""
    photo = encoded(Image.linear_gradient("L").resize((4000, 3000)), "JPEG")
    refused = await pool.job("image-to-image", {"prompt": "a"}, photo)
    assert refused.status_code == 413
    assert "fit_input=true makes it smaller here" in refused.json()["error"]["message"]
    (output,) = await pool.outputs(await pool.job("image-to-image", {"prompt": "a", "fit_input": "true"}, photo))
    size = Image.open(io.BytesIO(output)).size
    assert size == (2364, 1773)
    assert size[0] * size[1] <= 2048 * 2048


async def test_a_browsers_clip_comes_back_at_televisions_rate(pool: Pool, tmp_path: Path) -> None:
    """WebM with two sounds, at 29.97: ffprobe reads the exact rate and the whole length; the answer names the loss."""
    needs("ffmpeg", "ffprobe")
    sound = ("-f", "lavfi", "-i", "sine=d=2")
    data = ffmpeg.make(
        tmp_path / "a.webm", "-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", *sound, *sound,
        *("-map", 0, "-map", 1, "-map", 2), "-c:v", "libvpx", "-c:a", "libvorbis",
    )  # fmt: skip
    answer = await pool.job("frame-interpolation", {"fps": "29.97"}, data, "video")
    (made,) = await pool.outputs(answer)
    (tmp_path / "made.mp4").write_bytes(made)
    assert [(each["code"], each["parameter"]) for each in answer.json()["warnings"]] == [("tracks_dropped", "video")]
    video = ffmpeg.stream(tmp_path / "made.mp4", "video")
    assert (video["avg_frame_rate"], video["nb_frames"]) == ("30000/1001", "60")
    assert ffmpeg.stream(tmp_path / "made.mp4", "audio")["codec_name"] == "aac"


async def test_a_clip_of_another_kind_is_named(pool: Pool) -> None:
    """With what is read instead; a rate that is none is refused by its name."""
    answer = await pool.job("upscale-video", {}, encoded(pattern(32, 32), "GIF"), "video")
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "this is a GIF: send MP4, QuickTime, WebM or Matroska"
    answer = await pool.job("frame-interpolation", {"fps": "fast"}, Clip(frames=2).encode(), "video")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "fps"]
    assert "as 24, 29.97 or 30000/1001" in answer.json()["detail"][0]["msg"]

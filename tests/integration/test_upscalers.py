"""Upscalers with true model code, through all four hops."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from reelnet.clips import probe_clip
from reelnet.icc import PRIMARIES, matrix_profile, power
from reelnet.inspection import check_output
from reelnet.pipelines import MediaSpec, Work
from tests.fakes.media import Clip, encoded
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import picture

pytestmark = pytest.mark.diffusers

P3 = matrix_profile(PRIMARIES[12], power(2.2))
ESRGAN = "reelnet/tiny-random-esrgan"
CLIP = Clip(48, 32, frames=5, fps=Fraction(24000, 1001), sound=True, rotation=90)
PRICES = {"upscale": {"price": {"output_mpix": "0.01"}}, "upscale-video": {"price": {"output_mpix": "1"}}}


@pytest.fixture
async def pool(tmp_path: Path, tiny_models: Path) -> AsyncIterator[Pool]:
    """A node with a tiny ESRGAN, and a broadcaster."""
    node = {"models_home": str(tiny_models)}
    models = [{"model": ESRGAN, "pipelines": PRICES}]
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], models, node=node)) as running:
        yield running


async def test_a_picture_comes_back_four_times_as_large(pool: Pool) -> None:
    """What a Livepeer client sends to /upscale, an upscaler answers; its prompt is ignored."""
    answer = await pool.job("upscale", {"prompt": "a fox", "num_inference_steps": 75, "seed": 4}, picture(96, 64))
    (data,) = await pool.outputs(answer)
    check_output(data, "image/png", MediaSpec("image", 384, 256), 10**7)
    assert answer.json()["job"]["made_with"]["class"] == "Spandrel"


async def test_an_upscaled_picture_shows_what_was_sent(pool: Pool) -> None:
    """A profile is applied and needed no more; transparency stays, or is laid on what the request names."""
    picture = Image.new("RGBA", (32, 32), (200, 120, 80, 100))
    plain = encoded(Image.new("RGBA", (32, 32), (214, 116, 69, 100)), "PNG")
    kept = await upscaled(pool, encoded(picture, "PNG", icc_profile=P3))
    assert kept.tobytes() == (await upscaled(pool, plain)).tobytes()
    assert kept.getchannel("A").getextrema() == (100, 100)
    assert "icc_profile" not in kept.info
    hidden = encoded(Image.new("RGBA", (32, 32), (200, 120, 80, 0)), "PNG")
    black = encoded(Image.new("RGB", (32, 32)), "PNG")
    laid = await upscaled(pool, hidden, background="black")
    assert (laid.mode, laid.tobytes()) == ("RGB", (await upscaled(pool, black)).tobytes())
    for_jpeg = await upscaled(pool, hidden, output_format="jpeg")
    white = await upscaled(pool, encoded(Image.new("RGB", (32, 32), "white"), "PNG"), output_format="jpeg")
    assert for_jpeg.tobytes() == white.tobytes()


async def upscaled(pool: Pool, data: bytes, **params: object) -> Image.Image:
    (output,) = await pool.outputs(await pool.job("upscale", params, data))
    return Image.open(io.BytesIO(output))


async def test_a_clip_comes_back_four_times_as_large(pool: Pool) -> None:
    """With its frames, rate, sound, and upright; its price counts the pixels of every frame."""
    given = CLIP.encode()
    answer = await pool.job("upscale-video", {"seed": 4}, given, "video")
    (data,) = await pool.outputs(answer)
    found = probe_clip(data)
    assert (found.width, found.height, found.frames) == (128, 192, 5)
    assert Fraction(found.fps, found.fps_den) == Fraction(24000, 1001)
    assert found.sound == probe_clip(given).sound != ""
    work = Work(48 * 32 * 5, 128 * 192 * 5)
    assert answer.json()["job"]["price"] == f"{work.output_pixels / 10**6:.5f}"

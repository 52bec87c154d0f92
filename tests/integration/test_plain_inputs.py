"""Pictures of every kind through the whole path, over HTTP: what comes out is what a screen shows of what went in."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from reelnet.icc import PRIMARIES, matrix_profile, power
from tests.fakes.media import encoded, pattern
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool

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

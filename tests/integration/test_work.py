"""The work that a broadcaster writes into a ticket is what the runner finds in the input, whatever that is like."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fakes.pool import InProcessEngine, PoolPlan, running_pool

TURNED = 6
"""EXIF: the picture is seen a quarter turned."""


def photo(width: int, height: int, form: str, orientation: int) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "red").save(out, form, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_a_turned_picture_of_odd_size_is_no_other_work(tmp_path: Path, form: str) -> None:
    """Nobody honest is refused."""
    jobs: tuple[tuple[str, dict[str, Any]], ...] = (
        ("image-to-image", {"prompt": "x", "num_images_per_prompt": 2}),
        ("upscale", {"prompt": "x"}),
    )
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()])) as pool:
        for pipeline, params in jobs:
            for size in ((96, 64), (77, 51)):
                answer = await pool.job(pipeline, params, photo(*size, form, TURNED))
                assert answer.status_code == 200, answer.text

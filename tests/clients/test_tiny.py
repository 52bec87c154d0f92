"""The published clients on true model code with tiny random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.drivers import Driver
from tests.clients.failures import check_failure
from tests.clients.outputs import check_clip, check_picture, images
from tests.clients.pools import Pool

pytestmark = [pytest.mark.diffusers, pytest.mark.timeout(600)]  # 50 steps at full size, however slow the machine


def test_text_to_image_at_the_defaults(client: Driver, tiny: Pool) -> None:
    """1024 × 576 at 50 steps."""
    [image] = images(client.call(tiny.url, "text_to_image", prompt="a lighthouse"))
    check_picture(image, tiny.url, (1024, 576))


def test_image_to_video(client: Driver, tiny: Pool, photograph: Path) -> None:
    """A clip of 256 × 256 at 4 steps, of the seed that was asked."""
    size = {"width": 256, "height": 256, "num_inference_steps": 4}
    [clip] = images(client.call(tiny.url, "image_to_video", picture=photograph, seed=1, **size))
    assert clip["seed"] == 1
    check_clip(clip, tiny.url, (256, 256))


def test_a_pipeline_that_no_node_serves(client: Driver, tiny: Pool, small_picture: Path) -> None:
    """503: a node that serves it may come."""
    answer = client.call(tiny.url, "upscale", picture=small_picture, prompt="")
    check_failure(answer, 503, "no node of this pool serves upscale now")

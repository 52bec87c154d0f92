"""The published clients, unmodified, get what they ask of a synthetic pool: at their defaults and otherwise."""

from __future__ import annotations

from pathlib import Path

from tests.clients.drivers import Driver
from tests.clients.outputs import check_clip, check_picture, images
from tests.clients.pools import Pool, StrictBroadcaster

DEFAULTS = {
    "model_id": "",
    "loras": "",
    "prompt": "a lighthouse",
    "height": 576,
    "width": 1024,
    "guidance_scale": 7.5,
    "negative_prompt": "",
    "safety_check": True,
    "num_inference_steps": 50,
    "num_images_per_prompt": 1,
}
"""What both send for text-to-image when an app names a prompt alone."""


def test_text_to_image_at_the_defaults(client: Driver, synthetic: Pool) -> None:
    """A prompt is enough: empty texts mean the defaults, and the answer is one picture."""
    answer = client.call(synthetic.url, "text_to_image", prompt="a lighthouse")
    [image] = images(answer)
    assert answer.sent == DEFAULTS
    check_picture(image, synthetic.url, (1024, 576))


def test_image_to_video_at_the_defaults(client: Driver, synthetic: Pool, photograph: Path) -> None:
    """A picture is enough: the clip stands among `images`."""
    [clip] = images(client.call(synthetic.url, "image_to_video", picture=photograph))
    check_clip(clip, synthetic.url, (1024, 576))


def test_image_to_image_at_the_defaults(client: Driver, synthetic: Pool, small_picture: Path) -> None:
    """The output is as large as the input."""
    answer = client.call(synthetic.url, "image_to_image", picture=small_picture, prompt="at night")
    [image] = images(answer)
    check_picture(image, synthetic.url, (64, 48))


def test_upscale_at_the_defaults(client: Driver, synthetic: Pool, small_picture: Path) -> None:
    """Four times as large."""
    answer = client.call(synthetic.url, "upscale", picture=small_picture, prompt="")
    [image] = images(answer)
    check_picture(image, synthetic.url, (256, 192))


def test_seeds_count_up(client: Driver, synthetic: Pool) -> None:
    """Image i is the image of seed + i, and says so."""
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    answer = client.call(synthetic.url, "text_to_image", prompt="boat", seed=7, num_images_per_prompt=3, **size)
    assert [image["seed"] for image in images(answer)] == [7, 8, 9]
    assert len({image["url"] for image in images(answer)}) == 3


def test_a_job_of_a_failing_node_succeeds(client: Driver, synthetic: Pool) -> None:
    """The broadcaster tries the next node: the client sees one answer."""
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    [image] = images(client.call(synthetic.url, "text_to_image", prompt="boat !fail node once", **size))
    check_picture(image, synthetic.url, (64, 64))


def test_a_base_below_a_path(client: Driver, strict: StrictBroadcaster, photograph: Path) -> None:
    """With the right key, and a slash or none behind the base; links go through the path too, without a key."""
    key, size = strict.keys[0], {"width": 128, "height": 64, "num_inference_steps": 2}
    for url in (strict.url, f"{strict.url}/"):
        [image] = images(client.call(url, "text_to_image", key=key, prompt="boat", **size))
        check_picture(image, strict.url, (128, 64))
    [clip] = images(client.call(strict.url, "image_to_video", key=key, picture=photograph, **size))
    check_clip(clip, strict.url, (128, 64))

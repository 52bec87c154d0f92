"""Work units of a job, and what its outputs have to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import UserError
from reelnet.parameters import ImageEdit, ImageToImage, ImageToVideo, TextToImage, Upscale
from reelnet.pipelines import FAMILIES, PIPELINES, MediaSpec, Size, Work

SOURCE = Size(640, 480)


def test_text_to_image() -> None:
    """Pixels × steps × images; one promise an image."""
    pipeline = PIPELINES["text-to-image"]
    params = TextToImage(prompt="x", width=512, height=256, num_inference_steps=30, num_images_per_prompt=3)
    assert pipeline.work(params) == Work(512 * 256 * 30 * 3, 512 * 256 * 3)
    assert pipeline.promises(params) == (MediaSpec("image", 512, 256, media_type="image/png"),) * 3


def test_image_to_video() -> None:
    """Pixels × steps × frames; one clip of the asked frames at the asked rate, whatever the input's size."""
    pipeline = PIPELINES["image-to-video"]
    params = ImageToVideo(width=512, height=256, num_inference_steps=10, num_frames=20, fps=8)
    assert pipeline.work(params, SOURCE) == Work(512 * 256 * 10 * 20, 512 * 256 * 20)
    assert pipeline.promises(params, SOURCE) == (MediaSpec("video", 512, 256, 20, 8),)
    assert pipeline.work(params) == pipeline.work(params, SOURCE)


def test_an_interpolated_clip() -> None:
    """14 frames at 7 a second are 2 s at 24 too; a frame that is made between two counts as one step more."""
    params = ImageToVideo(
        width=512, height=256, num_inference_steps=10, fps=7, interpolate_to_fps=24, video_codec="av1"
    )
    pipeline = PIPELINES["image-to-video"]
    (spec,) = pipeline.promises(params)
    assert spec == MediaSpec("video", 512, 256, 48, 24, codec="av1")
    made = 48 - 2 - 3  # two stand where one of the model's frames does, and three show its last one
    assert pipeline.work(params) == Work(512 * 256 * (10 * 14 + made), 512 * 256 * 48)


@pytest.mark.parametrize(("strength", "run"), [(1.0, 50), (0.8, 40), (0.5, 25), (0.29, 14), (0.001, 1)])
def test_image_to_image(strength: float, run: int) -> None:
    """Only the strength's share of the steps is run and paid, one at least; the input's size is kept."""
    pipeline = PIPELINES["image-to-image"]
    params = ImageToImage(prompt="x", strength=strength, num_inference_steps=50, num_images_per_prompt=2)
    assert pipeline.work(params, SOURCE) == Work(SOURCE.pixels * run * 2, SOURCE.pixels * 2)
    assert pipeline.promises(params, SOURCE) == (MediaSpec("image", 640, 480, media_type="image/png"),) * 2


def test_an_edit_by_words_runs_every_step() -> None:
    """InstructPix2Pix begins with noise, whatever a request says of strength."""
    pipeline = FAMILIES["image-to-image", "pix2pix"]
    params = ImageEdit(prompt="x", num_inference_steps=50, num_images_per_prompt=2)
    assert pipeline.work(params, SOURCE) == Work(SOURCE.pixels * 50 * 2, SOURCE.pixels * 2)
    assert pipeline.promises(params, SOURCE) == (MediaSpec("image", 640, 480, media_type="image/png"),) * 2


def test_upscale() -> None:
    """The steps are paid at the input's size, the output at its own."""
    pipeline = PIPELINES["upscale"]
    assert pipeline.work(Upscale(num_inference_steps=20), SOURCE) == Work(SOURCE.pixels * 20, SOURCE.pixels * 16)
    assert pipeline.promises(Upscale(), SOURCE) == (MediaSpec("image", 2560, 1920, media_type="image/png"),)


@pytest.mark.parametrize(("name", "params"), [("image-to-image", ImageToImage(prompt="x")), ("upscale", Upscale())])
def test_a_missing_picture_is_the_users_fault(name: str, params: object) -> None:
    """Where the output's size is the input's, there is no work without one."""
    with pytest.raises(UserError, match="input picture") as caught:
        PIPELINES[name].work(params)  # type: ignore[arg-type]
    assert caught.value.code == "input"


@given(st.integers(8, 512), st.integers(8, 128), st.integers(1, 200), st.integers(1, 10))
def test_work_grows_with_each_factor(columns: int, rows: int, steps: int, images: int) -> None:
    """Twice the images are twice the work, and so are twice the steps."""
    pipeline = PIPELINES["text-to-image"]
    base = {"seed": 1, "prompt": "x", "width": columns * 8, "height": rows * 8}
    one = pipeline.work(pipeline.parse({**base, "num_inference_steps": 1, "num_images_per_prompt": 1}))
    all_of = pipeline.work(pipeline.parse({**base, "num_inference_steps": steps, "num_images_per_prompt": images}))
    assert all_of == Work(one.pixel_steps * steps * images, one.output_pixels * images)

"""Small JPEGs of unfinished pictures."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reelnet.jobs import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE
from reelnet.pipelines import PIPELINES
from runner.backend import Pixels, RunnerJob, Sketch
from runner.events import Preview
from runner.previews import PreviewEncoder, Previewer

PATIENCE_S = 20.0


def _job(**params: Any) -> RunnerJob:
    values = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_images_per_prompt": 2, **params}
    return RunnerJob("j", 1, "text-to-image", PIPELINES["text-to-image"].parse(values))


def _grey() -> Pixels:
    return np.full((4, 8, 3), 128, np.uint8)


def _sketch(step: int, draw: Any = _grey) -> Sketch:
    return Sketch(0, step, 9, (64, 64), draw)


def _opened(data: bytes | None) -> Image.Image:
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.format == "JPEG"
    return picture


@pytest.mark.parametrize(
    ("size", "side", "shown"),
    [
        ((1024, 576), 256, (256, 144)),
        ((576, 1024), 100, (56, 100)),
        ((64, 64), 256, (64, 64)),
        ((4096, 8), 256, (256, 1)),
    ],
)
def test_a_preview_has_the_output_s_shape_and_is_small(
    size: tuple[int, int], side: int, shown: tuple[int, int]
) -> None:
    """Its longest side is the setting's, and never more than the output's; there is no metadata in it."""
    picture = _opened(PreviewEncoder(side).encode(np.zeros((8, 8, 3), np.uint8), size, size))
    assert picture.size == shown
    assert picture.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_what_was_drawn_beside_the_output_is_not_shown() -> None:
    """A canvas that is larger than the output is cut at the right and the bottom."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = pixels[4:] = 255
    picture = _opened(PreviewEncoder().encode(pixels, (64, 64), (32, 32)))
    assert picture.size == (32, 32)
    assert np.asarray(picture)[:24, :24].max() < 10  # the border is smooth


def test_no_preview_is_larger_than_a_node_passes_on() -> None:
    """Noise costs quality, and where that is not enough there is none."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    size = (MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE)
    data = PreviewEncoder(MAX_PREVIEW_SIDE, quality=80).encode(noise, size, size)
    assert data is not None
    assert len(data) <= MAX_PREVIEW_BYTES
    assert PreviewEncoder(MAX_PREVIEW_SIDE, quality=400).encode(noise, size, size) is None


def test_of_the_sketches_that_wait_the_newest_is_made() -> None:
    """An encoder that is behind leaves the older ones out, and whoever offers one never waits."""
    previewer = Previewer()
    held, opened, made = threading.Event(), threading.Event(), threading.Semaphore(0)
    told: list[Preview] = []

    def slow() -> Pixels:
        held.set()
        assert opened.wait(PATIENCE_S)
        return _grey()

    def show(preview: Preview) -> None:
        told.append(preview)
        made.release()

    previewer.start()
    try:
        previewer.offer(_job(), _sketch(1, slow), show)
        assert held.wait(PATIENCE_S)
        for step in (2, 3, 4):
            previewer.offer(_job(), _sketch(step), show)
        opened.set()
        assert all(made.acquire(timeout=PATIENCE_S) for _ in range(2))
    finally:
        opened.set()
        assert previewer.close(PATIENCE_S)
    assert [(preview.step, preview.total, preview.index) for preview in told] == [(1, 9, 0), (4, 9, 0)]


def test_a_sketch_that_cannot_be_drawn_is_left_out() -> None:
    """The next one is made."""
    previewer, told = Previewer(), list[int]()

    def broken() -> Pixels:
        raise RuntimeError("the device is lost")

    previewer.start()
    made = threading.Event()
    try:
        tried = threading.Event()
        previewer.offer(
            _job(), _sketch(1, lambda: (tried.set(), broken())[1]), lambda preview: told.append(preview.step)
        )
        assert tried.wait(PATIENCE_S)
        previewer.offer(_job(), _sketch(2), lambda preview: (told.append(preview.step), made.set()))  # type: ignore[arg-type,return-value]
        assert made.wait(PATIENCE_S)
    finally:
        assert previewer.close(PATIENCE_S)
    assert told == [2]


def test_previews_are_due_at_the_asked_steps_and_never_at_the_last() -> None:
    """After the last step the result itself follows."""
    shown = [step for step in range(1, 13) if _job(preview_steps=3).shows(step, 12)]
    assert shown == [3, 6, 9]
    assert not any(_job().shows(step, 12) for step in range(1, 13))
    assert not any(_job(preview_steps=20).shows(step, 12) for step in range(1, 13))


@pytest.mark.parametrize(("policy", "shown"), [("", True), ("flag", True), ("blur", False), ("refuse", False)])
def test_nobody_sees_what_the_checker_has_to_see_first(policy: str, shown: bool) -> None:
    """A job whose pictures are blurred or withheld when they are unsafe has no previews."""
    assert _job(preview_steps=1, safety=policy).shows(1, 9) is shown


def test_a_pipeline_without_the_parameter_shows_nothing() -> None:
    """Upscalers, say."""
    picture = {"image": Image.new("RGB", (16, 16))}
    job = RunnerJob("j", 1, "upscale", PIPELINES["upscale"].parse({"seed": 1}), picture)
    assert not job.shows(1, 9)

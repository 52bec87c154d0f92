"""Which of a node's previews an app gets to see."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broadcaster.job import JobRequest, new_job_id
from broadcaster.previews import EARLY, REFUSED, SHOWN, PreviewGate, bare_jpeg
from reelnet.jobs import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE, Event, Preview, Progress
from reelnet.pipelines import PIPELINES


def jpeg(width: int = 64, height: int = 32, **more: Any) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "JPEG", **more)
    return out.getvalue()


def located() -> bytes:
    """A picture that says where it was taken, and in words by whom."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x013B] = "a secret person"
    return jpeg(exif=exif, comment=b"a secret place")


def noisy() -> bytes:
    """A picture within the sides but over the bytes of a preview."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


class Stage:
    """A gate with all that stands around it."""

    def __init__(self, interval_s: float = 0.0, **params: Any) -> None:
        values = {"prompt": "a fox", "seed": 1, "num_images_per_prompt": 2, "preview_steps": 1, **params}
        pipeline = PIPELINES["text-to-image"]
        request = JobRequest(new_job_id(), pipeline, "m", pipeline.parse(values), (), 0, None)
        self.now = 100.0
        self.heard: list[Event] = []
        self.counted: list[str] = []
        self.gate = PreviewGate(request, self.heard.append, interval_s, self.counted.append, lambda: self.now)


def test_a_small_jpeg_is_shown_and_everything_else_passes() -> None:
    """A preview that is in order reaches the app as it is, beside the other events."""
    stage, preview = Stage(), Preview(jpeg(), 1, 3, 9)
    for event in (Progress("denoise", 3, 9), preview):
        stage.gate(event)
    assert stage.heard == [Progress("denoise", 3, 9), preview]
    assert stage.counted == [SHOWN]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(), id="png"),
        pytest.param(b"", id="nothing"),
        pytest.param(jpeg()[:-2], id="cut"),
        pytest.param(jpeg(MAX_PREVIEW_SIDE + 8, 8), id="wide"),
        pytest.param(jpeg(8, MAX_PREVIEW_SIDE + 8), id="high"),
        pytest.param(noisy(), id="many-bytes"),
        pytest.param(jpeg().replace(b"\xff\xc0", b"\xff\xfe"), id="no-size"),
        pytest.param(b"\xff\xd8\xff\xd9", id="no-picture"),
        pytest.param(b"\xff\xd8" + b"\xff\xd0" * 30_000 + jpeg()[2:], id="thousands-of-markers"),
        pytest.param(b"<html>" + jpeg(), id="html"),
    ],
)
def test_what_is_no_small_jpeg_is_dropped(data: bytes) -> None:
    """And counted; nothing is told and nothing fails."""
    stage = Stage()
    stage.gate(Preview(data, 0, 1, 9))
    assert (stage.heard, stage.counted) == ([], [REFUSED])


def test_what_the_bound_is_for() -> None:
    """The pictures of the test before are within all other bounds."""
    assert len(noisy()) > MAX_PREVIEW_BYTES
    assert len(b"\xff\xd0" * 30_000 + jpeg()) < MAX_PREVIEW_BYTES
    for options in ({}, {"progressive": True}, {"quality": 95, "subsampling": 0}):
        assert bare_jpeg(jpeg(MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE, **options)) is not None


def test_metadata_does_not_reach_the_app() -> None:
    """The pixels do."""
    given, stage = located(), Stage()
    assert b"secret" in given
    stage.gate(Preview(given + b"behind the end", 0, 1, 9))
    (shown,) = stage.heard
    assert isinstance(shown, Preview)
    assert not any(word in shown.data for word in (b"secret", b"Exif", b"behind"))
    with Image.open(io.BytesIO(shown.data)) as after, Image.open(io.BytesIO(given)) as before:
        assert np.array_equal(np.asarray(after), np.asarray(before))


@pytest.mark.parametrize("preview", [Preview(jpeg(), 2, 1, 9), Preview(jpeg(), 2**31, 1, 9)])
def test_a_preview_is_of_an_output(preview: Preview) -> None:
    """There are two."""
    stage = Stage()
    stage.gate(preview)
    assert (stage.heard, stage.counted) == ([], [REFUSED])


def test_a_job_that_asked_for_none_gets_none() -> None:
    """Whatever the node thinks."""
    stage = Stage(preview_steps=0)
    stage.gate(Preview(jpeg(), 0, 1, 9))
    assert (stage.heard, stage.counted) == ([], [REFUSED])


def test_previews_come_one_in_an_interval() -> None:
    """A node cannot have the app flooded; those between are dropped unread."""
    stage = Stage(interval_s=0.5)
    for step in range(1, 8):
        stage.gate(Preview(jpeg() if step % 2 else b"no picture", 0, step, 9))
        stage.now += 0.25
    assert [event.step for event in stage.heard if isinstance(event, Preview)] == [1, 3, 5, 7]
    assert stage.counted == [SHOWN, EARLY] * 3 + [SHOWN]

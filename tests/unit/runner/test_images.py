"""Pictures in and out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from reelnet.errors import UserError
from runner.images import decode, fit, jpeg, picture_of, png, webp
from tests.fakes.runner import picture


def _saved(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decodes_the_known_formats_as_rgb(kind: str, mode: str) -> None:
    """Whatever comes in, a model gets RGB."""
    image = decode(_saved(Image.new(mode, (20, 10)), kind), 1000)
    assert (image.mode, image.size) == ("RGB", (20, 10))


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", picture()[:-40], picture()[:30], _saved(Image.new("RGB", (9, 9)), "BMP"), b"GIF89a" + bytes(40)],
    ids=["empty", "text", "truncated", "header only", "bmp", "gif"],
)
def test_refuses_what_is_no_whole_picture(data: bytes) -> None:
    """415, whether it is no picture, one of an unknown format, or cut short."""
    with pytest.raises(UserError) as caught:
        decode(data, 10_000)
    assert caught.value.http_status == 415


def test_refuses_too_many_pixels_by_the_header_alone() -> None:
    """The limit holds before a pixel is decoded: here there are none."""
    header = _saved(Image.new("RGB", (2000, 1000)), "PNG")[:64]
    with pytest.raises(UserError) as caught:
        decode(header, 1_999_999)
    assert caught.value.http_status == 413


def test_refuses_a_decompression_bomb() -> None:
    """Pillow's own alarm is an answer too, not a crash."""
    bomb = bytearray(_saved(Image.new("1", (64, 64)), "PNG"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(UserError) as caught:
        decode(bytes(bomb), 50_000_000)
    assert caught.value.http_status in (413, 415)


def test_fit_cuts_around_the_centre() -> None:
    """A wide picture loses its sides, not its proportions."""
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    fitted = np.asarray(fit(Image.fromarray(pixels), 16, 16))
    assert fitted.shape == (16, 16, 3)
    assert fitted.min() > 200


def test_png_is_lossless_and_repeatable() -> None:
    """Equal pixels give equal bytes, and the bytes give the pixels."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
    data = png(picture_of(frames), 1)
    assert data == png(picture_of(frames), 1)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info == {}
        assert (np.asarray(image) == frames[0]).all()


FRAMES = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (12, 16), np.uint8)


def test_png_and_webp_keep_the_transparency() -> None:
    """Each pixel has its colour and its alpha, also where it is not seen."""
    for data in (png(picture_of(FRAMES, ALPHA), 1), webp(picture_of(FRAMES, ALPHA))):
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == "RGBA"
            assert (np.asarray(image) == np.dstack([FRAMES[0], ALPHA])).all()


def test_jpeg_has_white_where_nothing_is() -> None:
    """JPEG knows no transparency: the picture is laid on white."""
    frames, alpha = np.zeros((1, 16, 32, 3), np.uint8), np.full((16, 32), 255, np.uint8)
    alpha[:, :16], alpha[:, 8:16] = 0, 128
    with Image.open(io.BytesIO(jpeg(picture_of(frames, alpha), 95))) as image:
        seen = np.asarray(image).astype(int)
    assert image.mode == "RGB"
    assert seen[:, :7].min() > 247
    assert np.abs(seen[:, 10:14] - 127).max() < 12
    assert seen[:, 18:].max() < 8

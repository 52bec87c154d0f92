"""Pictures in and out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from reelnet.errors import UserError
from runner.images import FitRule, decode, fit, jpeg, picture_of, png, webp
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


WIDE, TALL, EQUAL = (120, 40), (40, 120), (60, 60)


def _marked(size: tuple[int, int]) -> Image.Image:
    """White with a grey border of a quarter along both ends of its longer side; grey all around when it is a square."""
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    width, height = size[0] // 4, size[1] // 4
    if width >= height:
        pixels[:, :width] = pixels[:, -width:] = 128
    if height >= width:
        pixels[:height] = pixels[-height:] = 128
    return Image.fromarray(pixels)


def _rows_and_columns(picture: Image.Image) -> tuple[list[int], list[int]]:
    """The middle column from above and the middle row from the left, each at seven places away from any edge."""
    pixels = np.asarray(picture)[..., 0].astype(int)
    places = [round((n + 0.5) * pixels.shape[0] / 8) for n in (0, 1, 3, 4, 6, 7)]
    return pixels[places, pixels.shape[1] // 2].tolist(), pixels[pixels.shape[0] // 2, places].tolist()


W, G, B = 255, 128, 0
FITTED: list[tuple[FitRule, tuple[int, int], list[int], list[int]]] = [
    ("crop", WIDE, [W, W, W, W, W, W], [W, W, W, W, W, W]),
    ("crop", TALL, [W, W, W, W, W, W], [W, W, W, W, W, W]),
    ("crop", EQUAL, [G, G, W, W, G, G], [G, G, W, W, G, G]),
    ("pad", WIDE, [B, B, W, W, B, B], [G, G, W, W, G, G]),
    ("pad", TALL, [G, G, W, W, G, G], [B, B, W, W, B, B]),
    ("pad", EQUAL, [G, G, W, W, G, G], [G, G, W, W, G, G]),
    ("stretch", WIDE, [W, W, W, W, W, W], [G, G, W, W, G, G]),
    ("stretch", TALL, [G, G, W, W, G, G], [W, W, W, W, W, W]),
    ("stretch", EQUAL, [G, G, W, W, G, G], [G, G, W, W, G, G]),
]


@pytest.mark.parametrize(("rule", "size", "down", "across"), FITTED)
def test_each_rule_does_what_it_says(rule: FitRule, size: tuple[int, int], down: list[int], across: list[int]) -> None:
    """crop loses both ends of the longer side, pad has black beside the shorter one, stretch keeps all of both."""
    fitted = fit(_marked(size), (80, 80), rule)
    assert fitted.size == (80, 80)
    found = _rows_and_columns(fitted)
    assert found[0] == pytest.approx(down, abs=6)
    assert found[1] == pytest.approx(across, abs=6)


@pytest.mark.parametrize("rule", ["crop", "pad", "stretch"])
def test_a_picture_of_the_size_stays_as_it_is(rule: FitRule) -> None:
    """To the byte: nothing is resampled."""
    picture = _marked(WIDE)
    assert fit(picture, WIDE, rule) is picture


@pytest.mark.parametrize("size", [(16, 16384), (16384, 16), (1, 1), (33, 64)])
@pytest.mark.parametrize("rule", ["crop", "pad", "stretch"])
def test_any_aspect_fits(rule: FitRule, size: tuple[int, int]) -> None:
    """The size is the asked one, also where a side of what is left is under a pixel."""
    assert fit(Image.new("RGB", size, "white"), (64, 32), rule).size == (64, 32)


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


def test_a_runner_sees_what_a_broadcaster_sends() -> None:
    """Hidden colours and deep pixels come out right also where no broadcaster has made them plain."""
    hidden = Image.new("RGBA", (20, 10), (200, 0, 0, 0))
    assert decode(_saved(hidden, "PNG"), 1000).getpixel((3, 3)) == (255, 255, 255)
    assert decode(_saved(hidden, "PNG"), 1000, alpha=True).getpixel((3, 3)) == (0, 0, 0, 0)
    deep = Image.fromarray(np.full((10, 20), 0x8000, np.uint16))
    assert decode(_saved(deep, "PNG"), 1000).getpixel((3, 3)) == (128, 128, 128)

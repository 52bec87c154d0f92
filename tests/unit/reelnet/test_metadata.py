"""Metadata goes, pixels stay."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from reelnet.metadata import JPEG, PNG, WEBP, BrokenPictureError, claimed_size, dissect, strip, strip_metadata
from tests.fakes.media import encoded, exif, noisy_png, pattern, png_claiming

SECRET = b"SECRETCAMERA"
COMMENT = {"comment": b"SECRETCAMERA comment"}
XMP = b"<x:xmpmeta>SECRETCAMERA</x:xmpmeta>"


def _pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.mode, picture.size, picture.tobytes()


FILES = {
    "jpeg": (encoded(pattern(40, 30), "JPEG", exif=exif(), xmp=XMP, **COMMENT), JPEG),
    "progressive jpeg": (encoded(pattern(40, 30), "JPEG", exif=exif(), progressive=True, **COMMENT), JPEG),
    "cmyk jpeg": (encoded(pattern(40, 30).convert("CMYK"), "JPEG", exif=exif(), **COMMENT), JPEG),
    "jpeg with restarts": (encoded(pattern(40, 30), "JPEG", exif=exif(), restart_marker_blocks=1), JPEG),
    "png": (noisy_png(), PNG),
    "palette png": (encoded(pattern(40, 30).quantize(16), "PNG", exif=exif(), transparency=3), PNG),
    "webp": (encoded(pattern(40, 31), "WEBP", exif=exif(), xmp=XMP), WEBP),
    "lossless webp": (encoded(pattern(41, 31), "WEBP", exif=exif(), xmp=XMP, lossless=True), WEBP),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_stay_and_metadata_goes(name: str) -> None:
    """The stripped file decodes to equal pixels, holds no metadata, and is of the same type."""
    data, media_type = FILES[name]
    bare, written = strip(data, media_type)
    assert written == media_type
    assert _pixels(bare) == _pixels(data)
    assert SECRET not in bare
    with Image.open(io.BytesIO(bare)) as picture:
        picture.load()
        assert not picture.getexif()
        assert not {"exif", "xmp", "comment", "Comment", "Software", "XML:com.adobe.xmp"} & picture.info.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_follows_the_end_is_dropped(name: str) -> None:
    """A file hidden behind the picture does not travel with it."""
    data, media_type = FILES[name]
    bare, _ = strip(data, media_type)
    polyglot, _ = strip(data + b"PK\x03\x04 a zip archive", media_type)
    assert polyglot == bare
    assert strip(bare, media_type) == (bare, media_type)


@pytest.mark.parametrize("media_type", [JPEG, PNG, WEBP])
def test_colour_profiles_stay(media_type: str) -> None:
    """A picture keeps the colours it is seen in."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(pattern(32, 32), media_type.removeprefix("image/"), icc_profile=profile, exif=exif())
    bare, _ = strip(data, media_type)
    with Image.open(io.BytesIO(bare)) as picture:
        assert picture.info["icc_profile"] == profile


def test_a_thumbnail_of_jfif_goes() -> None:
    """JFIF's own thumbnail is a second picture; only its fixed fields stay."""
    data = encoded(pattern(32, 32), "JPEG")
    assert data[2:11] == b"\xff\xe0\x00\x10JFIF\x00"
    thumbnail = b"\xff\xe0" + (16 + 12).to_bytes(2, "big") + data[6:18] + b"\x02\x02" + b"thumbnail..."
    bare, _ = strip(data[:2] + thumbnail + data[20:], JPEG)
    assert bare == data


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("media_type", [JPEG, PNG, WEBP])
def test_a_turned_picture_is_set_upright(orientation: int, media_type: str) -> None:
    """EXIF's orientation is applied to the pixels and the result is a PNG, without loss."""
    data = encoded(pattern(40, 24), media_type.removeprefix("image/"), exif=exif(orientation))
    bare, written = strip(data, media_type)
    with Image.open(io.BytesIO(data)) as picture:
        seen = ImageOps.exif_transpose(picture)
        assert (written, _pixels(bare)) == (PNG, (seen.mode, seen.size, seen.tobytes()))
    assert SECRET not in bare


def test_a_turned_picture_keeps_transparency() -> None:
    """A palette picture with a transparent colour looks the same after it was turned."""
    data = encoded(pattern(40, 24).quantize(16), "PNG", exif=exif(3), transparency=3)
    bare, _ = strip(data, PNG)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(bare)) as after:
        upright = before.convert("RGBA").transpose(Image.Transpose.ROTATE_180)
        assert after.convert("RGBA").tobytes() == upright.tobytes()


def test_a_turned_cmyk_picture_becomes_rgb() -> None:
    """PNG has no CMYK."""
    data = encoded(pattern(40, 24).convert("CMYK"), "JPEG", exif=exif(6))
    assert _pixels(strip(data, JPEG)[0])[:2] == ("RGB", (24, 40))


def test_files_are_written(tmp_path: Path) -> None:
    """`strip_metadata` goes from path to path."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(noisy_png())
    assert strip_metadata(source, target, PNG) == PNG
    assert target.read_bytes() == strip(noisy_png(), PNG)[0]


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_noticed(name: str) -> None:
    """No beginning of a picture's file passes as a whole one."""
    data = strip(*FILES[name])[0]
    for end in range(16, len(data)):
        with pytest.raises(BrokenPictureError):
            dissect(data[:end], FILES[name][1])


def test_a_wrong_checksum_is_noticed() -> None:
    """A PNG whose pixels changed on the way is damaged."""
    data = bytearray(encoded(pattern(32, 32), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(BrokenPictureError, match="checksum"):
        dissect(bytes(data), PNG)


def test_sizes_come_from_the_header() -> None:
    """The size is known before anything is decoded, for each format and for a header alone."""
    assert {claimed_size(*FILES[name]) for name in FILES} == {(40, 30), (40, 31), (41, 31)}
    assert claimed_size(png_claiming(14143, 14143)[:33], PNG) == (14143, 14143)
    extended = encoded(pattern(40, 30).convert("RGBA"), "WEBP", exif=exif())
    assert claimed_size(extended, WEBP) == (40, 30)


def test_animations_are_known() -> None:
    """An animated PNG or WebP says so before it is decoded."""
    frames = [pattern(32, 32, shift) for shift in (1, 2)]
    for media_type in (PNG, WEBP):
        data = encoded(pattern(32, 32), media_type.removeprefix("image/"), save_all=True, append_images=frames)
        assert dissect(data, media_type)[0].animated


@given(st.sampled_from(sorted(FILES)), st.data())
def test_damage_never_crashes(name: str, data: st.DataObject) -> None:
    """Any change of bytes is either harmless or a BrokenPictureError."""
    original, media_type = FILES[name]
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(16, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for check in (dissect, claimed_size):
        with contextlib.suppress(BrokenPictureError):
            check(bytes(changed), media_type)

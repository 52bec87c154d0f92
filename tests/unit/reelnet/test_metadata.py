"""Metadata goes, pixels stay."""

from __future__ import annotations

import contextlib
import io
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from reelnet import metadata
from reelnet.metadata import (
    JPEG,
    MAX_PARTS,
    MAX_SCANS,
    PNG,
    WEBP,
    BrokenPictureError,
    TooManyPartsError,
    claimed_size,
    dissect,
)
from tests.fakes.media import (
    encoded,
    exif,
    jpeg_of_scans,
    noisy_png,
    pattern,
    png_chunk,
    png_claiming,
    with_parts,
)

SECRET = b"SECRETCAMERA"
COMMENT = {"comment": b"SECRETCAMERA comment"}
XMP = b"<x:xmpmeta>SECRETCAMERA</x:xmpmeta>"


def strip(data: bytes, media_type: str) -> bytes:
    """The file without metadata."""
    return dissect(data, media_type)[1]


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
    """The stripped file decodes to equal pixels and holds no metadata."""
    data, media_type = FILES[name]
    bare = strip(data, media_type)
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
    bare = strip(data, media_type)
    polyglot = strip(data + b"PK\x03\x04 a zip archive", media_type)
    assert polyglot == bare
    assert strip(bare, media_type) == bare


@pytest.mark.parametrize("media_type", [JPEG, PNG, WEBP])
def test_colour_profiles_stay(media_type: str) -> None:
    """A picture keeps the colours it is seen in."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(pattern(32, 32), media_type.removeprefix("image/"), icc_profile=profile, exif=exif())
    bare = strip(data, media_type)
    with Image.open(io.BytesIO(bare)) as picture:
        assert picture.info["icc_profile"] == profile


def test_a_thumbnail_of_jfif_goes() -> None:
    """JFIF's own thumbnail is a second picture; only its fixed fields stay."""
    data = encoded(pattern(32, 32), "JPEG")
    assert data[2:11] == b"\xff\xe0\x00\x10JFIF\x00"
    thumbnail = b"\xff\xe0" + (16 + 12).to_bytes(2, "big") + data[6:18] + b"\x02\x02" + b"thumbnail..."
    bare = strip(data[:2] + thumbnail + data[20:], JPEG)
    assert bare == data


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_noticed(name: str) -> None:
    """No beginning of a picture's file passes as a whole one."""
    data = strip(*FILES[name])
    for end in range(16, len(data)):
        with pytest.raises(BrokenPictureError):
            dissect(data[:end], FILES[name][1])


def test_a_chunk_that_is_longer_than_its_file_is_noticed() -> None:
    """A WebP's last chunk may not claim bytes behind the end of the RIFF file."""
    chunk = b"VP8L" + struct.pack("<I", 100) + b"\x2f" + bytes(9)
    data = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    with pytest.raises(BrokenPictureError, match="longer than the file"):
        dissect(data, WEBP)


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


@pytest.mark.parametrize("media_type", [JPEG, PNG, WEBP])
def test_the_parts_of_a_file_are_bounded(media_type: str) -> None:
    """As many parts as the bound are taken; with one more neither walk goes on, whatever the format."""
    plain = encoded(pattern(32, 32), media_type.removeprefix("image/"))
    own = len(list(metadata._PARTS[media_type](plain)))
    assert strip(with_parts(plain, media_type, MAX_PARTS - own), media_type) == strip(plain, media_type)
    with pytest.raises(TooManyPartsError, match="more than 65536 parts"):
        dissect(with_parts(plain, media_type, MAX_PARTS - own + 1), media_type)
    if media_type != WEBP:  # whose header comes first in any case
        with pytest.raises(TooManyPartsError):
            claimed_size(with_parts(plain, media_type, MAX_PARTS, first=True), media_type)


def test_the_chunks_that_encoders_write_fit() -> None:
    """60 MB of pixels in chunks of 1 KiB are a picture like any other."""
    bare = encoded(pattern(32, 32), "PNG")
    at = bare.index(b"IEND") - 4
    data = bare[:at] + png_chunk(b"IDAT", bytes(1024)) * 60_000 + bare[at:]
    assert dissect(data, PNG)[1] == data


def test_the_scans_of_a_jpeg_are_bounded() -> None:
    """A decoder goes over the whole picture for each scan, however few bytes it has."""
    assert claimed_size(jpeg_of_scans(MAX_SCANS), JPEG) == (32, 32)
    assert dissect(jpeg_of_scans(MAX_SCANS), JPEG)[0].orientation == 1
    with pytest.raises(TooManyPartsError, match="more than 64 scans"):
        dissect(jpeg_of_scans(MAX_SCANS + 1), JPEG)


@given(st.lists(st.sampled_from([b"\xff", b"\x00", b"\xd0", b"\xd8", b"\xd9", b"\xfe", b"a"]), max_size=40))
def test_markers_stand_where_they_did(pieces: list[bytes]) -> None:
    """A marker is a byte that is neither 0x00 nor 0xFF behind one or more of 0xFF, and a scan ends at one but RST."""
    data = b"".join(pieces)
    for ours, plain in (
        (metadata._JPEG_MARKER, rb"\xff+[^\x00\xff]"),
        (metadata._JPEG_SCAN_END, rb"\xff+[^\x00\xd0-\xd7\xff]"),
    ):
        assert [match.end() for match in ours.finditer(data)] == [match.end() for match in re.finditer(plain, data)]


@pytest.mark.parametrize("marker", [metadata._JPEG_MARKER, metadata._JPEG_SCAN_END])
def test_a_run_of_fill_bytes_is_gone_through_once(marker: re.Pattern[bytes]) -> None:
    """No pattern repeats anything, so that each place of a file is two bytes of work."""
    assert not re.search(rb"[+*?{]", marker.pattern)


@pytest.mark.parametrize("media_type", [PNG, WEBP])
def test_of_what_a_picture_has_once_the_first_stays(media_type: str) -> None:
    """A second colour profile is unpacked by no decoder: 1 KiB of it would be 1 MiB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(pattern(32, 32), media_type.removeprefix("image/"), icc_profile=profile)
    kind = {PNG: b"iCCP", WEBP: b"ICCP"}[media_type]
    many = with_parts(data, media_type, 50, kind)
    assert strip(many, media_type).count(kind) == 1
    assert _pixels(strip(many, media_type)) == _pixels(data)


def test_the_first_exif_says_how_a_picture_stands() -> None:
    """Others are not read: a file has room for thousands of them."""
    turned, upright = (encoded(pattern(40, 24), "PNG", exif=exif(way)) for way in (6, 1))
    block = turned[turned.index(b"eXIf") - 4 : turned.index(b"IDAT") - 4]
    at = upright.index(b"eXIf") - 4
    assert dissect(upright[:at] + block + upright[at:], PNG)[0].orientation == 6
    at = upright.index(b"IDAT") - 4
    assert dissect(upright[:at] + block + upright[at:], PNG)[0].orientation == 1


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

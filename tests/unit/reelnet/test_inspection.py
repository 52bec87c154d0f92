"""Is this file what was asked?"""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from reelnet import metadata
from reelnet.errors import NodeError, ReelnetError, UserError
from reelnet.inspection import Handling, InputLimits, PictureFacts, check_output, inspect_picture, sniff
from reelnet.metadata import JPEG, PNG, dissect
from reelnet.pipelines import MediaSpec
from tests.fakes.media import (
    Clip,
    encoded,
    exif,
    jpeg_of_scans,
    noisy_png,
    pattern,
    png_claiming,
    with_parts,
)

PLAIN = Handling()
HTML = b"<!doctype html><script>alert(1)</script>" * 4
PNG_BYTES = encoded(pattern(64, 48), "PNG")
CLIP = Clip()
CLIP_BYTES = CLIP.encode()
CLIP_SPEC = MediaSpec("video", CLIP.width, CLIP.height, CLIP.frames, CLIP.fps)
ENCODERS = {"h264": "libx264", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
CODED = {codec: Clip(codec=encoder).encode() for codec, encoder in ENCODERS.items()}
STILL = MediaSpec("image", 64, 48)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def inspect(file: Path, data: bytes, limits: InputLimits | None = None) -> PictureFacts:
    file.write_bytes(data)
    return inspect_picture(file, limits or InputLimits())


def handled(file: Path, data: bytes, handling: Handling = PLAIN) -> tuple[PictureFacts, bytes]:
    """The facts of a picture, and the file that goes to a node."""
    file.write_bytes(data)
    copy = file.with_name("copy")
    return inspect_picture(file, InputLimits(), handling, stripped_to=copy), copy.read_bytes()


def refused(file: Path, data: bytes, limits: InputLimits | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        inspect(file, data, limits)
    assert caught.value.loc == ("image",)
    return caught.value


def failed(file: Path, data: bytes, media_type: str, spec: MediaSpec, max_bytes: int = 10**7) -> NodeError:
    file.write_bytes(data)
    with pytest.raises(NodeError) as caught:
        check_output(file, media_type, spec, max_bytes)
    return caught.value


def test_types_are_sniffed_from_the_first_bytes() -> None:
    """Names and claims play no part; what is not one of four types is none."""
    for kind, media_type in TYPES.items():
        assert sniff(encoded(pattern(32, 32), kind)[:32]) == media_type
    assert sniff(CLIP_BYTES[:32]) == "video/mp4"
    for other in (b"", b"\x89PNG", HTML, encoded(pattern(32, 32), "GIF"), encoded(pattern(32, 32), "AVIF")):
        assert sniff(other[:32]) is None


@pytest.mark.parametrize("kind", TYPES)
def test_a_good_picture(file: Path, kind: str) -> None:
    """Its facts are its size, its bytes and what it looks like."""
    data = encoded(pattern(64, 48), kind)
    facts = inspect(file, data)
    assert (facts.media_type, facts.width, facts.height, facts.size) == (TYPES[kind], 64, 48, len(data))
    assert len(facts.sha256) == 64
    assert len(facts.fingerprint) == 16
    assert not facts.constant


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_is_understood(file: Path, mode: str) -> None:
    """Grey, palette, transparent, deep and print pictures pass, and one colour is seen in each."""
    kind = "JPEG" if mode == "CMYK" else "PNG"
    words = pattern(64, 48).convert("I").point(lambda value: value * 257)
    picture = words.convert(mode) if mode == "I;16" else pattern(64, 48).convert(mode)
    assert not inspect(file, encoded(picture, kind)).constant
    assert inspect(file, encoded(Image.new(mode, (64, 48)), kind)).constant


def test_the_size_is_as_it_is_seen(file: Path) -> None:
    """A picture on its side has the sides of the upright one."""
    facts = inspect(file, encoded(pattern(64, 48), "JPEG", exif=exif(6)))
    assert (facts.width, facts.height) == (48, 64)


def test_damaged_metadata_is_no_damage(file: Path) -> None:
    """The decoder never sees EXIF, so broken EXIF neither warns (warnings are errors here) nor fails."""
    data = encoded(pattern(64, 48), "JPEG", exif=exif()[:-60])
    assert inspect(file, data).width == 64


def test_fingerprints_tell_pictures_apart(file: Path) -> None:
    """The same picture in other formats has the same fingerprint, another one has not."""
    prints = {inspect(file, encoded(pattern(64, 48), kind)).fingerprint for kind in TYPES}
    other = inspect(file, encoded(pattern(64, 48).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG")).fingerprint
    assert len(prints) == 1
    assert other not in prints


@pytest.mark.parametrize("kind", TYPES)
def test_a_cut_picture_is_refused(file: Path, kind: str) -> None:
    """An upload that broke off is the request's fault and says so."""
    error = refused(file, encoded(pattern(64, 48), kind)[:-20])
    assert (error.code, error.http_status) == ("damaged", 415)
    assert error.message.startswith("the picture is damaged or cut off: ")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "no picture"),
        (b"hello, I am a text", "no picture"),
        (HTML, "an HTML page"),
        (CLIP_BYTES, "a clip"),
        (b"%PDF-1.7\n", "a PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"8BPS\x00\x01", "a Photoshop file (PSD)"),
        (b"\xff\x0a\x00", "a JPEG XL"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000"),
        (encoded(pattern(32, 32), "JPEG2000"), "a JPEG 2000"),
        (encoded(pattern(32, 32), "PPM"), "a Netpbm picture (PPM, PGM, PBM)"),
        (encoded(pattern(32, 32), "ICO"), "an icon (ICO)"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", "a camera's raw file (CR2)"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01", "a camera's raw file (CR3)"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "a clip (AVI)"),
        (b"data:image/png;base64,iVBOR", "a data URI"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(file: Path, data: bytes, name: str) -> None:
    """A text, a page, a clip or a format that is not taken: the message says what was sent and what is read."""
    error = refused(file, data)
    assert (error.code, error.http_status) == ("not_a_picture", 415)
    assert error.message == f"this is {name}: expected PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP or TIFF"


def test_only_the_allowed_formats_are_named(file: Path) -> None:
    """Limits may take fewer formats."""
    error = refused(file, encoded(pattern(32, 32), "WEBP"), InputLimits(formats=("image/png",)))
    assert error.message == "this is a WebP: expected PNG"


@pytest.mark.parametrize("rows", [0, 14143])
def test_a_bomb_is_refused_by_its_header(file: Path, rows: int) -> None:
    """200 megapixels in 25 kB are refused before a single row is decoded."""
    bomb = png_claiming(14143, 14143, rows)
    assert len(bomb) < 30_000
    begun = time.process_time()
    error = refused(file, bomb)
    assert time.process_time() - begun < 0.05
    assert (error.code, error.http_status) == ("too_large", 413)
    assert error.message == "the picture is 14143×14143 = 200.0 megapixels; at most 50.0 are allowed"


def test_sides_are_bounded(file: Path) -> None:
    """Neither ribbons nor specks."""
    wide, tiny = refused(file, png_claiming(20000, 100, 100)), refused(file, png_claiming(8, 100, 100))
    assert (wide.code, wide.http_status) == ("too_large", 413)
    assert (tiny.code, tiny.http_status) == ("too_small", 422)


def test_pillows_own_bomb_warning_stays_silent(file: Path) -> None:
    """Our limits decide, also above those that Pillow warns at (warnings are errors here)."""
    facts = inspect(file, png_claiming(10_000, 9_000, 9_000), InputLimits(max_pixels=100_000_000))
    assert facts.constant


@pytest.mark.parametrize("kind", TYPES)
def test_a_picture_of_too_many_parts_is_refused(file: Path, kind: str) -> None:
    """An app's and a node's alike, with a text of its own: what is cut so small would hold the only checker."""
    data = with_parts(encoded(pattern(64, 48), kind), TYPES[kind], 65_536)
    error = refused(file, data)
    assert (error.code, error.http_status) == ("too_many_parts", 415)
    assert error.message == "the picture has more than 65536 parts; save it anew"
    assert failed(file, data, TYPES[kind], STILL).code == "too_many_parts"


def test_a_jpeg_of_too_many_scans_is_refused(file: Path) -> None:
    """64 scans pass, one more says how many are taken."""
    assert inspect(file, jpeg_of_scans(64)).width == 32
    assert refused(file, jpeg_of_scans(65)).message == "the picture has more than 64 scans; save it anew"


def test_a_copy_without_metadata_is_told_of(file: Path, tmp_path: Path) -> None:
    """Type, size and digest are the copy's: the file's own parts where a screen shows them as they are coded."""
    data = encoded(pattern(64, 48), "JPEG", exif=exif(), comment=b"SECRETCAMERA")
    facts, copy = handled(file, data)
    assert copy == dissect(data, JPEG)[1]
    assert (facts.media_type, facts.size, facts.sha256) == (JPEG, len(copy), hashlib.sha256(copy).hexdigest())
    assert b"SECRETCAMERA" not in copy


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [*TYPES, "TIFF", "AVIF"])
def test_a_turned_picture_is_set_upright(file: Path, orientation: int, kind: str) -> None:
    """EXIF's orientation is applied to the pixels, without loss, and the result says nothing of the camera."""
    data = encoded(pattern(40, 24), kind, exif=exif(orientation))
    facts, copy = handled(file, data)
    with Image.open(io.BytesIO(data)) as given, Image.open(io.BytesIO(copy)) as kept:
        seen = ImageOps.exif_transpose(given)
        assert (kept.size, kept.tobytes()) == (seen.size, seen.tobytes())
    assert facts.media_type == (TYPES[kind] if orientation == 1 and kind in TYPES else PNG)
    assert b"SECRETCAMERA" not in copy


@pytest.mark.parametrize("stripped", [False, True])
def test_a_file_is_gone_through_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stripped: bool
) -> None:
    """What is kept of the walk is what is decoded and written; the header is looked at before."""
    walks: list[int] = []

    def counted(*args: Any) -> Any:
        walks.append(1)
        return metadata.dissect(*args)

    monkeypatch.setattr("reelnet.inspection.dissect", counted)
    file.write_bytes(noisy_png())
    inspect_picture(file, stripped_to=tmp_path / "copy" if stripped else None)
    assert len(walks) == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(file: Path, kind: str) -> None:
    """Which frame was meant is not ours to guess; a node may not send one either."""
    data = encoded(pattern(64, 48), kind, save_all=True, append_images=[pattern(64, 48, 9)])
    assert refused(file, data).code == "animated"
    assert failed(file, data, TYPES[kind], STILL).code == "frames"


def test_a_header_that_lies_about_the_size_is_damage(file: Path) -> None:
    """A second header chunk cannot smuggle another size past the limits."""
    small, large = png_claiming(64, 48, 48), png_claiming(14143, 14143)
    data = small[:33] + large[8:33] + small[33:]
    assert refused(file, data).code == "damaged"


@pytest.mark.parametrize("kind", TYPES)
def test_a_good_picture_is_delivered(file: Path, kind: str) -> None:
    """What was asked passes, with its soft facts."""
    data = encoded(pattern(64, 48), kind)
    file.write_bytes(data)
    facts = check_output(file, TYPES[kind], STILL, len(data))
    assert (facts.media_type, facts.width, facts.height, facts.size) == (TYPES[kind], 64, 48, len(data))
    assert (facts.frames, facts.fps, facts.constant, facts.still) == (None, None, False, False)


@pytest.mark.parametrize(
    ("data", "media_type", "spec", "code"),
    [
        (HTML, "image/png", STILL, "media_type"),
        (b"", "image/png", STILL, "media_type"),
        (PNG_BYTES, "image/jpeg", STILL, "media_type"),
        (PNG_BYTES, "image/png", CLIP_SPEC, "media_type"),
        (PNG_BYTES, "image/png", MediaSpec("image", 64, 48, media_type="image/webp"), "media_type"),
        (CLIP_BYTES, "video/mp4", STILL, "media_type"),
        (PNG_BYTES, "image/png", MediaSpec("image", 48, 64), "size"),
        (png_claiming(14143, 14143), "image/png", STILL, "size"),
        (PNG_BYTES[:-30], "image/png", STILL, "damaged"),
        (PNG_BYTES[:40] + b"\x00" * 40 + PNG_BYTES[80:], "image/png", STILL, "damaged"),
    ],
)
def test_a_wrong_picture_is_the_nodes_failure(
    file: Path, data: bytes, media_type: str, spec: MediaSpec, code: str
) -> None:
    """Each hard check has its code."""
    assert failed(file, data, media_type, spec).code == code


def test_an_output_has_its_bytes_bounded(file: Path) -> None:
    """The size on disk is looked at first."""
    error = failed(file, PNG_BYTES, "image/png", STILL, len(PNG_BYTES) - 1)
    assert error.code == "bytes"


def test_a_clip_as_asked(file: Path) -> None:
    """14 frames at 6 a second."""
    file.write_bytes(CLIP_BYTES)
    facts = check_output(file, "video/mp4", CLIP_SPEC, len(CLIP_BYTES))
    assert (facts.frames, facts.fps, facts.width, facts.height) == (14, 6.0, 64, 48)
    assert not facts.constant
    assert not facts.still


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (Clip(frames=13), "frames"),
        (Clip(frames=15), "frames"),
        (Clip(frames=200), "frames"),
        (Clip(fps=7), "fps"),
        (Clip(width=48, height=64), "size"),
        (Clip(width=128, height=96), "size"),
        (Clip(codec="mpeg4"), "media_type"),
    ],
)
def test_a_wrong_clip_is_the_nodes_failure(file: Path, clip: Clip, code: str) -> None:
    """Count, rate, size and codec are checked on the decoded clip."""
    assert failed(file, clip.encode(), "video/mp4", CLIP_SPEC).code == code


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_clip_is_coded_as_asked(file: Path, codec: str) -> None:
    """Each codec passes where it was asked, and nowhere else."""
    data = CODED[codec]
    file.write_bytes(data)
    for asked in ENCODERS:
        spec = replace(CLIP_SPEC, codec=asked)
        if asked == codec:
            assert check_output(file, "video/mp4", spec, len(data)).frames == 14
        else:
            error = failed(file, data, "video/mp4", spec)
            assert (error.code, error.message) == ("media_type", f"the output is coded as {codec}; {asked} was asked")


@pytest.mark.parametrize("codec", ENCODERS)
def test_a_turned_or_cut_clip_of_any_codec_is_refused(file: Path, codec: str) -> None:
    """What the container says of showing counts, and a last packet that is not whole, in a file with its index."""
    spec = replace(CLIP_SPEC, codec=codec)
    turned = Clip(width=48, height=64, codec=ENCODERS[codec], rotation=90).encode()
    assert failed(file, turned, "video/mp4", replace(spec, width=48, height=64)).code == "size"
    indexed = front(CODED[codec])
    for cut in (1, 8, 40):
        assert failed(file, indexed[:-cut], "video/mp4", spec).code == "damaged"


@pytest.mark.parametrize("codec", ENCODERS)
def test_damage_inside_pictures_is_found_as_far_as_a_codec_tells(file: Path, codec: str) -> None:
    """40 bytes of nothing are nearly always found in AV1 and VP9; H.264's decoder takes many of them for a picture."""
    data = CODED[codec]
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    found = 0
    for at in np.linspace(start, end - 41, 20).astype(int):
        file.write_bytes(data[:at] + bytes(40) + data[at + 40 :])
        try:
            check_output(file, "video/mp4", replace(CLIP_SPEC, codec=codec), len(data))
        except NodeError as error:
            found += error.code in {"damaged", "frames", "size"}
    assert found >= (5 if codec == "h264" else 18)


def front(data: bytes) -> bytes:
    """The same clip with its index in front, so that its end is the pictures'."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        options = {"movflags": "+faststart"}
        with av.open(io.BytesIO(data)) as clip, av.open(str(path), "w", format="mp4", options=options) as copy:
            stream = copy.add_stream_from_template(clip.streams.video[0], opaque=True)
            for packet in clip.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    copy.mux(packet)
        return path.read_bytes()


def test_a_still_clip_is_marked(file: Path) -> None:
    """A clip in which nothing moves is what was asked, and worth a look."""
    file.write_bytes(Clip(moving=False, crf=18).encode())
    facts = check_output(file, "video/mp4", CLIP_SPEC, 10**7)
    assert facts.still
    assert not facts.constant


@pytest.mark.parametrize(
    "end",
    [40, CLIP_BYTES.index(b"mdat") + 500, CLIP_BYTES.index(b"stsz") + 8],
    ids=["at its head", "in a frame", "in its tables"],
)
def test_a_cut_clip_is_damaged(file: Path, end: int) -> None:
    """Its index is missing."""
    assert failed(file, CLIP_BYTES[:end], "video/mp4", CLIP_SPEC).code == "damaged"


def test_damage_inside_a_clip_is_no_success(file: Path) -> None:
    """A decoder conceals errors when it may; here it may not."""
    start = CLIP_BYTES.index(b"mdat") + 1200
    data = CLIP_BYTES[:start] + bytes(400) + CLIP_BYTES[start + 400 :]
    assert failed(file, data, "video/mp4", CLIP_SPEC).code == "damaged"


@given(st.sampled_from([PNG_BYTES, CLIP_BYTES, noisy_png(), encoded(pattern(64, 48), "WEBP")]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_typed(file: Path, original: bytes, data: st.DataObject) -> None:
    """Whatever a file holds, the answer is facts or one of our errors."""
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(changed)
    for check in (
        lambda: inspect_picture(file, InputLimits()),
        lambda: check_output(file, sniff(changed[:32]) or "image/png", CLIP_SPEC, 10**7),
        lambda: check_output(file, sniff(changed[:32]) or "image/png", STILL, 10**7),
    ):
        with contextlib.suppress(ReelnetError):
            check()


def test_naming_the_types_loads_no_decoder() -> None:
    """A process that only speaks of facts needs neither Pillow nor PyAV."""
    code = "import sys, reelnet.inspection_worker; sys.exit('PIL' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""How PNG, JPEG and WebP files are built: what a header claims, and the file again without what is no pixel.

Formats: PNG (W3C, third edition), JPEG (ITU-T T.81, JFIF 1.02), WebP (RFC 9649), EXIF's orientation (CIPA DC-008).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

PNG, JPEG, WEBP = "image/png", "image/jpeg", "image/webp"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
    | {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"pHYs"}
)
_WEBP_KEPT = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP"})
_OFTEN = frozenset({b"IHDR", b"IDAT"})
"""Kept chunks that are passed on each time they stand there: pixels, and a header that would say another size."""
_WEBP_EXIF_AND_XMP = 0x0C
MAX_PARTS = 65_536
"""Most chunks or segments of a file. 64 MiB of PNG in libpng's blocks of 8 KiB are 8,192; some write 1 KiB."""
MAX_SCANS = 64
"""Most scans of a JPEG: a decoder goes over the whole picture for each. Encoders write 1 to some 20."""
_ANIMATION = frozenset({b"acTL", b"ANIM"})
# Two bytes each and no repetition: a run of 0xFF, which may stand before a marker, is gone through once.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])")
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_EOI, _SOS, _APP0, _APP1, _APP2, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers without a length: TEM, RST0-7, SOI, EOI."""
_EXIF_PREFIX = b"Exif\x00\x00"
_ORIENTATION_TAG, _EXIF_TAG, _SPACE_TAG, _INTEROP_TAG = 0x0112, 0x8769, 0xA001, 0xA005
_SHORT, _ADOBE_SPACE = 3, 2
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
_CUT = "the file ends before its end marker"


class BrokenPictureError(ValueError):
    """The file's structure is not what its format says, or it ends early."""


class TooManyPartsError(BrokenPictureError):
    """The file is cut into more pieces than any picture needs; the text says how many are taken."""


class Part(NamedTuple):
    """A chunk or segment: its type, the file's bytes of all of it, and its payload where somebody reads it."""

    kind: bytes
    whole: bytes | memoryview
    body: bytes


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a walk over a whole file found. `orientation` is the first EXIF's, 1-8; 1 is upright and the default.

    `bits`: of a sample of a PNG; 8 of the others. `chunks`: a PNG's that tell its colours, by name.
    `adobe_rgb`: the camera says so, in EXIF.
    """

    orientation: int
    animated: bool
    bits: int = 8
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    adobe_rgb: bool = False


def claimed_size(data: bytes, media_type: str) -> tuple[int, int]:
    """Width and height in pixels, as stored, from the header alone. Raises BrokenPictureError when there is none."""
    for part in _walk(data, media_type, MAX_PARTS):
        if size := _SIZE[media_type](part):
            return size
    raise BrokenPictureError("no header with a size")


def dissect(data: bytes, media_type: str, max_parts: int = MAX_PARTS) -> tuple[Anatomy, bytes]:
    """Walks the file up to its end marker; what was found, and the file with the parts that make pixels and colours.

    Raises BrokenPictureError when it is cut or a checksum is wrong, TooManyPartsError when it has more than
    `max_parts`, or a JPEG more than MAX_SCANS scans.
    """
    parts = tuple(_walk(data, media_type, max_parts))
    return _anatomy(parts, media_type), _BARE[media_type](parts)


def _walk(data: bytes, media_type: str, max_parts: int) -> Iterator[Part]:
    for count, part in enumerate(_PARTS[media_type](data), start=1):
        if count > max_parts:
            raise TooManyPartsError(f"more than {max_parts} parts")
        yield part


def _anatomy(parts: Sequence[Part], media_type: str) -> Anatomy:
    exif = next(filter(None, (_exif(part, media_type) for part in parts)), b"")
    animated = any(part.kind in _ANIMATION for part in parts)
    if media_type != PNG:
        return Anatomy(_orientation_of(exif), animated, adobe_rgb=_says_adobe_rgb(exif))
    read = {part.kind: part.body for part in reversed(parts) if part.kind in _PNG_COLOURS | {b"IHDR"}}
    bits = read.pop(b"IHDR", bytes(9))[8:9] or b"\x08"
    return Anatomy(_orientation_of(exif), animated, bits[0], read)


def open_picture(data: bytes, media_type: str) -> Image.Image:
    """A Pillow image of exactly that format, not yet decoded.

    It goes to the format's class directly: `Image.open` guesses formats, and warns about sizes that are checked here.
    """
    from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    kinds: dict[str, Callable[[io.BytesIO], Image.Image]] = {
        PNG: PngImagePlugin.PngImageFile,
        JPEG: JpegImagePlugin.JpegImageFile,
        WEBP: WebPImagePlugin.WebPImageFile,
    }
    return kinds[media_type](io.BytesIO(data))


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture as EXIF's orientation (1-8) wants it seen."""
    from PIL import Image

    ways = Image.Transpose
    way = {
        1: None,
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }[orientation]
    return picture if way is None else picture.transpose(way)


def _unpack(layout: str, data: bytes, at: int) -> Any:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        raise BrokenPictureError(_CUT) from None


def _found(pattern: re.Pattern[bytes], data: bytes, at: int) -> re.Match[bytes]:
    match = pattern.search(data, at)
    if match is None:
        raise BrokenPictureError(_CUT)
    return match


_PNG_COLOURS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"})
_PNG_READ = frozenset({b"IHDR", b"eXIf"}) | _PNG_COLOURS
# PNG: signature, then chunks of length, type, body, CRC-32 over type and body.


def _png_parts(data: bytes) -> Iterator[Part]:
    at, kind, view = len(PNG_SIGNATURE), b"", memoryview(data)  # a slice of a view is no copy
    while kind != b"IEND":
        length, kind = _unpack(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BrokenPictureError(_CUT)
        if kind in _PNG_KEPT and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise BrokenPictureError("a checksum is wrong")
        yield Part(kind, view[at:end], data[at + 8 : end - 4] if kind in _PNG_READ else b"")
        at = end


def _png_size(part: Part) -> tuple[int, int] | None:
    return _unpack(">II", part.body, 0) if part.kind == b"IHDR" else None


def _bare_png(parts: Iterable[Part]) -> bytes:
    readable = (part for part in parts if part.kind not in _PNG_COLOURS or _is_readable(part))
    return PNG_SIGNATURE + b"".join(part.whole for part in _kept_once(readable, _PNG_KEPT))


def _is_readable(part: Part) -> bool:
    """Whether a chunk of colours is built as it should be: a decoder would give up the picture for one that is not."""
    if part.kind != b"iCCP":
        return len(part.body) == {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4}[part.kind]
    name, _, rest = part.body.partition(b"\x00")
    return 0 < len(name) < 80 and rest[:1] == b"\x00"


def _kept_once(parts: Iterable[Part], kept: frozenset[bytes]) -> Iterator[Part]:
    """The parts of kinds that are kept, only the first of each where one is all a picture has.

    A decoder would unpack a second colour profile too, up to 1 MiB of it, and then a third.
    """
    seen: set[bytes] = set()
    for part in parts:
        if part.kind in kept and (part.kind in _OFTEN or part.kind not in seen):
            seen.add(part.kind)
            yield part


# JPEG: segments of 0xFF, marker, big-endian length, body; a scan's coded data runs to the next true marker.


def _jpeg_parts(data: bytes) -> Iterator[Part]:
    at, marker, scans = 0, 0, 0
    while marker != _EOI:
        match = _found(_JPEG_MARKER, data, at)
        marker, start, at = match[1][0], match.start(), match.end()
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise TooManyPartsError(f"more than {MAX_SCANS} scans")
        body_end = at
        if marker not in _JPEG_BARE:
            body_end = at + max(2, *_unpack(">H", data, at))
            at = _found(_JPEG_SCAN_END, data, body_end).start() if marker == _SOS else body_end
        if at > len(data):
            raise BrokenPictureError(_CUT)
        yield Part(match[1], data[start:at], data[start + 4 : body_end])


def _jpeg_size(part: Part) -> tuple[int, int] | None:
    if part.kind[0] not in _SOF:
        return None
    height, width = _unpack(">HH", part.body, 1)
    return width, height


def _bare_jpeg(parts: Iterable[Part]) -> bytes:
    return b"".join(_jpeg_kept(part) for part in parts)


def _jpeg_kept(part: Part) -> bytes:
    """The segment as it is written: no application data but ICC, and JFIF and Adobe cut to their fixed fields."""
    marker, body = part.kind[0], part.body
    if marker == _APP0 and body.startswith(b"JFIF\x00") and len(body) >= 14:
        return _segment(part.kind, body[:12] + b"\x00\x00")  # the last two: size of a thumbnail
    if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        return _segment(part.kind, body[:12])
    icc = marker == _APP2 and body.startswith(b"ICC_PROFILE\x00")
    return bytes(part.whole) if icc or marker in range(0xC0, 0xE0) else b""


def _segment(kind: bytes, body: bytes) -> bytes:
    return b"\xff" + kind + struct.pack(">H", len(body) + 2) + body


# WebP: a RIFF file whose chunks are type, little-endian length, body, and a byte of padding after an odd one.


def _webp_parts(data: bytes) -> Iterator[Part]:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise BrokenPictureError(_CUT)
    at = 12
    while at + 8 <= end:
        kind, length = _unpack("<4sI", data, at)
        if at + 8 + length > end:
            raise BrokenPictureError("a chunk is longer than the file")
        body = data[at + 8 : at + 8 + length]
        yield Part(kind, data[at : at + 8] + body + b"\x00" * (length % 2), body)
        at += 8 + length + length % 2


def _webp_size(part: Part) -> tuple[int, int] | None:
    body = part.body
    if part.kind == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if part.kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = _unpack("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if part.kind == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _bare_webp(parts: Iterable[Part]) -> bytes:
    kept = b"".join(_webp_kept(part) for part in _kept_once(parts, _WEBP_KEPT))
    return b"RIFF" + struct.pack("<I", len(kept) + 4) + b"WEBP" + kept


def _webp_kept(part: Part) -> bytes:
    if part.kind != b"VP8X" or not part.body:
        return bytes(part.whole)
    flags = part.body[0] & ~_WEBP_EXIF_AND_XMP
    whole = bytes(part.whole)
    return whole[:8] + bytes((flags,)) + whole[9:]


def _exif(part: Part, media_type: str) -> bytes:
    """The TIFF structure that the part carries, or nothing."""
    if media_type == JPEG:
        marked = part.kind[0] == _APP1 and part.body.startswith(_EXIF_PREFIX)
        return part.body[len(_EXIF_PREFIX) :] if marked else b""
    return part.body.removeprefix(_EXIF_PREFIX) if part.kind in {b"eXIf", b"EXIF"} else b""


def _orientation_of(tiff: bytes) -> int:
    """Tag 274 of the first directory; 1 when it is missing, or not one of 1-8."""
    kind, value = _tags(tiff, None).get(_ORIENTATION_TAG, (0, b""))
    turned = _number(tiff, value[:2])
    return turned if kind == _SHORT and 1 <= turned <= 8 else 1


def _says_adobe_rgb(tiff: bytes) -> bool:
    """Whether a camera names Adobe RGB: by the index R03 of interoperability (DCF 2.0), or as colour space 2."""
    exif = _tags(tiff, _pointer(tiff, _tags(tiff, None), _EXIF_TAG))
    interop = _tags(tiff, _pointer(tiff, exif, _INTEROP_TAG))
    _, space = exif.get(_SPACE_TAG, (0, b""))
    return interop.get(1, (0, b""))[1] == b"R03\x00" or _number(tiff, space[:2]) == _ADOBE_SPACE


_Tags = Mapping[int, tuple[int, bytes]]
"""What a directory of a TIFF structure says: by tag its type, and the four bytes of its value, or where that is."""


def _tags(tiff: bytes, directory: int | None) -> _Tags:
    """The directory at a place, by default the first one; empty where it points out of the file."""
    order = _ORDERS.get(tiff[:4])
    if order is None or directory == 0:
        return {}
    found: dict[int, tuple[int, bytes]] = {}
    try:
        at = struct.unpack_from(f"{order}I", tiff, 4)[0] if directory is None else directory
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHI4s", tiff, at + 2 + 12 * entry)
            found.setdefault(tag, (kind, value))
    except struct.error:
        pass
    return found


def _number(tiff: bytes, value: bytes) -> int:
    return int.from_bytes(value, "little" if tiff[:2] == b"II" else "big")


def _pointer(tiff: bytes, tags: _Tags, tag: int) -> int:
    """Where the directory is that a tag names; 0 for none."""
    return _number(tiff, tags.get(tag, (0, b""))[1])


_PARTS: dict[str, Callable[[bytes], Iterator[Part]]] = {PNG: _png_parts, JPEG: _jpeg_parts, WEBP: _webp_parts}
_SIZE: dict[str, Callable[[Part], tuple[int, int] | None]] = {PNG: _png_size, JPEG: _jpeg_size, WEBP: _webp_size}
_BARE: dict[str, Callable[[Iterable[Part]], bytes]] = {PNG: _bare_png, JPEG: _bare_jpeg, WEBP: _bare_webp}

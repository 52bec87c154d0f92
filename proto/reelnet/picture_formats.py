"""Which pictures are read: formats by their first bytes, and the decoders of those whose files are not walked here.

AVIF, GIF, BMP and TIFF are Pillow's, HEIC is libheif's by way of pi-heif. Each is opened by its own class, never by
guessing. They are imported where a picture is opened.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reelnet.colours import Claims
from reelnet.metadata import JPEG, PNG, PNG_SIGNATURE, WEBP

if TYPE_CHECKING:
    from PIL import Image

AVIF, HEIC, GIF, BMP, TIFF = "image/avif", "image/heic", "image/gif", "image/bmp", "image/tiff"
NAMES = {
    PNG: "PNG", JPEG: "JPEG", WEBP: "WebP", AVIF: "AVIF", HEIC: "HEIC", GIF: "GIF", BMP: "BMP", TIFF: "TIFF",
}  # fmt: skip
"""Every kind of picture that an app may send, with its name. Nodes get the first three."""
WALKED = frozenset({PNG, JPEG, WEBP})
"""Those whose files `reelnet.metadata` takes apart, and that go to nodes as they are where nothing is to be changed."""
HEAD_BYTES = 512
"""As many of a file's first bytes as `kind_of` and `named` look at."""
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"heif"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_SEQUENCES = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1", b"avis"})
_SUBFILE, _BITS, _PHOTOMETRIC, _DNG = 254, 258, 262, 50706
_REDUCED, _LOW_IS_WHITE = 1, 0


class SeveralError(Exception):
    """The file holds more than one picture to be seen; the text says which."""


class UnreadKindError(Exception):
    """A kind of its format that is not read; the text says which."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture whose header was read, not yet decoded; `orientation` (EXIF's, 1-8) is still to be applied."""

    picture: Image.Image
    orientation: int = 1
    claims: Claims = field(default_factory=Claims)


def kind_of(head: bytes) -> str | None:
    """The media type of a picture that is read, or None."""
    for start, media_type in _STARTS:
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    return _kind_of_boxes(head)


_STARTS = (
    (PNG_SIGNATURE, PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"BM", BMP),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
)


def _kind_of_boxes(head: bytes) -> str | None:
    """By the brands of an ISO base media file; `mif1` alone may be either, and another brand decides."""
    brands = _brands(head)
    if _AVIF_BRANDS.intersection(brands):
        return AVIF
    return HEIC if _HEIC_BRANDS.intersection(brands) or _SEQUENCES.intersection(brands[:1]) else None


def _brands(head: bytes) -> list[bytes]:
    """The brands of an ISO base media file, its own first; none for another file."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[at : at + 4] for at in (8, *range(16, end - 3, 4))]


def named(head: bytes) -> str:
    """What a file is, as "a PDF"; empty where its first bytes do not say."""
    if media_type := kind_of(head):
        return f"{'an' if media_type == AVIF else 'a'} {NAMES[media_type]}"
    for at, start, name in _OTHERS:
        if head[at : at + len(start)] == start:
            return name
    if any(brand[:3] in {b"iso", b"mp4", b"avc", b"qt ", b"M4V", b"3gp"} for brand in _brands(head)):
        return "a clip"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return ""


_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file (PSD)"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL \r\n", "a JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  \r\n", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"II\xbc\x01", "a JPEG XR"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"IIU\x00", "a camera's raw file (RW2)"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIRS", "a camera's raw file (ORF)"),
    (8, b"crx ", "a camera's raw file (CR3)"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x02\x00", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"KTX ", "a KTX texture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"gimp xcf", "a GIMP file (XCF)"),
    (0, b"BPG\xfb", "a BPG picture"),
    (0, b"FLIF", "a FLIF picture"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    *((0, b"P%d" % n + end, "a Netpbm picture (PPM, PGM, PBM)") for n in range(1, 8) for end in (b"\n", b" ", b"\r\n")),
    (0, b"\x1aE\xdf\xa3", "a clip (Matroska or WebM)"),
    (8, b"AVI ", "a clip (AVI)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"FLV\x01", "a clip (FLV)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a clip (WMV)"),
    (0, b"\x00\x00\x01\xba", "a clip (MPEG)"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"fLaC", "sound (FLAC)"),
    (0, b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"{", "JSON"),
    (0, b"data:", "a data URI"),
)


def open_unwalked(data: bytes, media_type: str) -> Opened:
    """The picture in a file of AVIF, HEIC, GIF, BMP or TIFF, its header read.

    Raises SeveralError, UnreadKindError, and what the decoders raise for damage (see `reelnet.inspection`).
    """
    if _SEQUENCES.intersection(_brands(data[:HEAD_BYTES])[:1]):
        raise SeveralError("is animated; send one frame of it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, which goes nowhere, and of sizes, which are checked
        return _OPENERS[media_type](data)


def load(opened: Opened) -> None:
    """Decodes the picture. Raises what the decoders raise for damage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened.picture.load()


def _open_gif(data: bytes) -> Opened:
    from PIL import GifImagePlugin

    picture = GifImagePlugin.GifImageFile(io.BytesIO(data))
    _check_single(picture, "is animated; send one frame of it")
    return Opened(picture)


def _open_bmp(data: bytes) -> Opened:
    from PIL import BmpImagePlugin

    picture = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    return Opened(picture)


def _open_tiff(data: bytes) -> Opened:
    """Its orientation is applied by its decoder. A camera's raw file shows its thumbnail as a TIFF: it is refused."""
    from PIL import TiffImagePlugin

    if data[8:10] == b"CR":
        raise UnreadKindError("a camera's raw file (CR2)")
    try:
        picture = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except SyntaxError as error:
        if "unknown pixel mode" in str(error):
            raise UnreadKindError("a TIFF whose pixels are of a rare kind") from None
        raise
    tags: Any = picture.tag_v2
    if _DNG in tags or tags.get(_SUBFILE, 0) & _REDUCED:
        raise UnreadKindError("a camera's raw file (as DNG or NEF)")
    _check_single(picture, "has several pages; send one of them", reduced=True)
    bits = max(_numbers(tags.get(_BITS, 1)))
    inverted = tags.get(_PHOTOMETRIC) == _LOW_IS_WHITE
    return Opened(picture, 1, Claims(bits if bits in {8, 12, 16, 32} else 8, inverted, {}, _icc(picture)))


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _open_avif(data: bytes) -> Opened:
    from PIL import AvifImagePlugin, ExifTags

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    picture = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    _check_single(picture, "is animated; send one frame of it")
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1)  # Pillow has put the file's own rotation there
    return Opened(picture, turned if turned in range(1, 9) else 1, _claims_of_boxes(picture, data))


def _open_heic(data: bytes) -> Opened:
    """Its orientation is applied by libheif. Of several pictures the primary one counts."""
    import pi_heif
    from pi_heif.as_plugin import HeifImageFile

    pi_heif.options.DECODE_THREADS = 1
    pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
    picture: Image.Image = HeifImageFile(io.BytesIO(data))
    return Opened(picture, 1, _claims_of_boxes(picture, data))


_OPENERS: dict[str, Callable[[bytes], Opened]] = {
    GIF: _open_gif,
    BMP: _open_bmp,
    TIFF: _open_tiff,
    AVIF: _open_avif,
    HEIC: _open_heic,
}


def _check_single(picture: Image.Image, message: str, *, reduced: bool = False) -> None:
    """Raises SeveralError when there is a second picture, which is no smaller copy of the first."""
    try:
        picture.seek(1)
    except EOFError:
        return
    if not (reduced and getattr(picture, "tag_v2", {}).get(_SUBFILE, 0) & _REDUCED):
        raise SeveralError(message)
    picture.seek(0)


def _icc(picture: Image.Image) -> bytes | None:
    found = picture.info.get("icc_profile") or b""
    return found if isinstance(found, bytes) else None


def _claims_of_boxes(picture: Image.Image, data: bytes) -> Claims:
    """The colours of an AVIF or HEIC: its profile, else its code points, which say the same as a PNG's `cICP`."""
    icc = _icc(picture)
    points = b"" if icc else _code_points(data)
    return Claims(8, False, {b"cICP": points} if points else {}, icc)


def _code_points(data: bytes) -> bytes:
    """Primaries and transfer of the first `colr` box of kind `nclx`, a byte each; empty for none."""
    body = data
    for name in (b"meta", b"iprp", b"ipco"):
        body = next((inner for kind, inner in _boxes(body) if kind == name), b"")
        body = body[4:] if name == b"meta" else body  # without version and flags
    for kind, colour in _boxes(body):
        if kind == b"colr" and colour[:4] == b"nclx" and len(colour) >= 8:
            return bytes(min(255, int.from_bytes(colour[at : at + 2], "big")) for at in (4, 6))
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and bodies of an ISO base media file's boxes, up to the first one that makes no sense."""
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = 16 if length == 1 else 8
        length = int.from_bytes(data[at + 8 : at + 16], "big") if length == 1 else length or len(data) - at
        if length < start:
            return
        yield kind, data[at + start : at + length]
        at += length

"""Pictures in and out: decoding of inputs under limits, fitting, and files of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from reelnet.colours import see_through
from reelnet.errors import UserError
from reelnet.inspection import Handling, InputLimits, read_picture
from reelnet.metadata import JPEG, PNG, WEBP
from runner.backend import Frames

PNG_CHUNK_OVERHEAD = 12
PNG_KEYWORD = "Description"
"""What a PNG's text is called that JPEG and WebP have as EXIF's ImageDescription."""
FORMATS = (PNG, JPEG, WEBP)
"""What an input may be; the long tail of Pillow's decoders is no stranger's to reach."""
FitRule = Literal["crop", "pad", "stretch"]
"""How a picture gets another aspect: `Clip.fit`."""
_RESAMPLING = Image.Resampling.LANCZOS


def decode(data: bytes, max_pixels: int, name: str = "image", *, alpha: bool = False) -> Image.Image:
    """The picture in `data` as it is to be seen: RGB in sRGB, on white; RGBA where `alpha` is asked and it has any.

    Raises UserError: 415 for what is no whole picture, 413 above `max_pixels`. The size is read from the header,
    before any pixel is decoded.
    """
    limits = InputLimits(max_pixels, max_side=max_pixels, min_side=1, formats=FORMATS)
    try:
        picture = read_picture(data, limits, Handling(keep_alpha=alpha)).picture
    except UserError as error:
        raise UserError(error.message, code=error.code, loc=(name,), http_status=error.http_status) from None
    return picture if picture.mode == "RGB" else picture.convert("RGBA" if see_through(picture) else "RGB")


def fit(picture: Image.Image, size: tuple[int, int], rule: FitRule = "crop") -> Image.Image:
    """`picture` at another size (width, height).

    crop: cut around its centre to the asked aspect, then resized. pad: all of it, as large as it goes, with black left
    and right or above and below. stretch: resized whatever its aspect is.
    """
    match rule:
        case _ if picture.size == size:
            return picture
        case "crop":
            return ImageOps.fit(picture, size, _RESAMPLING)
        case "pad":
            return _bordered(picture, size)
        case "stretch":
            return picture.resize(size, _RESAMPLING)


def picture_of(frames: Frames, alpha: npt.NDArray[np.uint8] | None = None) -> Image.Image:
    """The first frame, with its transparency of shape (height, width) where it has one."""
    picture = Image.fromarray(frames[0])
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    return picture


def png(picture: Image.Image, level: int, note: str = "") -> bytes:
    """The picture as PNG. Equal pixels give equal bytes: it says nothing of itself but `note`, in ASCII."""
    out = io.BytesIO()
    said = PngImagePlugin.PngInfo()
    if note:
        said.add_text(PNG_KEYWORD, note)
    picture.save(out, "PNG", compress_level=level, pnginfo=said)
    return out.getvalue()


def jpeg(picture: Image.Image, quality: int, note: str = "") -> bytes:
    """The picture as JPEG with full colour resolution; what is transparent, on white. `note` as in `png`."""
    out = io.BytesIO()
    _on_white(picture).save(out, "JPEG", quality=quality, subsampling=0, exif=_exif(note))
    return out.getvalue()


def webp(picture: Image.Image, note: str = "") -> bytes:
    """The picture as lossless WebP: method 0 is smaller than PNG and three times as fast. `note` as in `png`."""
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True, quality=0, method=0, exact=True, exif=_exif(note))
    return out.getvalue()


def padded(data: bytes, size: int) -> bytes:
    """A PNG made `size` bytes long by a private chunk that no reader looks at; as it is when it is longer already."""
    missing = size - len(data) - PNG_CHUNK_OVERHEAD
    if missing < 0:
        return data
    chunk = b"paDd" + bytes(missing)
    framed = struct.pack(">I", missing) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = data.rindex(b"IEND") - 4
    return data[:end] + framed + data[end:]


def _bordered(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` on black, centred, as large as it goes; Pillow's own fails where a side would be under a pixel."""
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    canvas = Image.new(picture.mode, size)
    canvas.paste(picture.resize(inner, _RESAMPLING), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas


def _exif(note: str) -> bytes:
    if not note:
        return b""
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = note
    return tags.tobytes()


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")

"""Pictures in and out: decoding of inputs under limits, fitting, and files of them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from reelnet.errors import UserError
from runner.backend import Frames

PNG_CHUNK_OVERHEAD = 12
Alpha = npt.NDArray[np.uint8] | None
"""A picture's transparency, shape (height, width); None: it has none."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""What an input may be; the long tail of Pillow's decoders is no stranger's to reach."""


def decode(data: bytes, max_pixels: int, name: str = "image", *, alpha: bool = False) -> Image.Image:
    """The RGB picture in `data`, RGBA where `alpha` is asked and it has any.

    Raises UserError: 415 for what is no whole picture, 413 above `max_pixels`. The size is read from the header,
    before any pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture, max_pixels, name)
            return picture.convert("RGBA" if alpha and picture.has_transparency_data else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, max_pixels) from None
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: not a picture; send PNG, JPEG or WebP", code="media_type", loc=(name,), http_status=415
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise UserError(
            f"{name}: the picture is truncated or damaged", code="media_damaged", loc=(name,), http_status=415
        ) from None


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """`picture` cut around its centre to the asked aspect, then resized."""
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def png(frames: Frames, level: int, alpha: Alpha = None) -> bytes:
    """The first frame as PNG without metadata, with its transparency: equal pixels give equal bytes."""
    out = io.BytesIO()
    _picture(frames, alpha).save(out, "PNG", compress_level=level)
    return out.getvalue()


def jpeg(frames: Frames, quality: int, alpha: Alpha = None) -> bytes:
    """The first frame as JPEG with full colour resolution, without metadata; what is transparent, on white."""
    out = io.BytesIO()
    _on_white(_picture(frames, alpha)).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def webp(frames: Frames, alpha: Alpha = None) -> bytes:
    """The first frame as lossless WebP, with its transparency: method 0 is smaller than PNG and three times as fast."""
    out = io.BytesIO()
    _picture(frames, alpha).save(out, "WEBP", lossless=True, quality=0, method=0, exact=True)
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


def _picture(frames: Frames, alpha: Alpha) -> Image.Image:
    picture = Image.fromarray(frames[0])
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _check_size(picture: Image.Image, max_pixels: int, name: str) -> None:
    if picture.width * picture.height > max_pixels:
        raise _too_large(name, max_pixels)


def _too_large(name: str, max_pixels: int) -> UserError:
    return UserError(f"{name}: more than {max_pixels} pixels", code="media_size", loc=(name,), http_status=413)

"""What a picture or a clip looks like: soft facts, which mark an output for an audit and fail nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from PIL import Image

_CONSTANT_TOLERANCE = 2
_STILL_TOLERANCE = 6
"""Greys of 255. A photograph coded by x264 at crf 18 to 28 differs from itself by 3 or 4; under a camera that moves by
half a pixel in all, by 8."""
_THUMB_SIDE = 64
_BOX = 4  # Pillow's Image.Resampling.BOX: this module loads without Pillow


def constant(picture: Image.Image) -> bool:
    """Whether every band spans at most the tolerance."""
    shown = picture.convert("RGBA") if picture.mode in {"P", "PA"} else picture
    extrema: Any = shown.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(high - low <= _CONSTANT_TOLERANCE for low, high in bands)


def fingerprint(picture: Image.Image) -> str:
    """A difference hash: the grey picture at 9 × 8, one bit for each pixel that is darker than its right neighbour."""
    greys = picture.convert("L").resize((9, 8), resample=_BOX).tobytes()
    darker = ["01"[grey < right] for grey, right in pairwise(greys)]
    del darker[8::9]  # from a row's last pixel to the next row's first
    return f"{int(''.join(darker), 2):016x}"


def thumb(frame: VideoFrame) -> bytes:
    """The frame's greys, averaged to a small square."""
    small = frame.reformat(_THUMB_SIDE, _THUMB_SIDE, "gray", interpolation="AREA", threads=1).planes[0]
    rows, stride = bytes(small), small.line_size
    return b"".join(rows[at : at + _THUMB_SIDE] for at in range(0, stride * _THUMB_SIDE, stride))


def alike(thumbs: set[bytes]) -> bool:
    """Whether no grey differs from the same one of another thumb by more than the coding's noise."""
    return all(max(place) - min(place) <= _STILL_TOLERANCE for place in zip(*thumbs, strict=True))

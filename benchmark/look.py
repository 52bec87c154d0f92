"""What an output looks like, small enough to compare every two of a run: thumbnails, and how alike two of them are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

SIDE = 32
"""Pixels of a thumbnail's side; three bands."""
THUMB_BYTES = SIDE * SIDE * 3
KEPT_FRAMES = 3
"""First, middle and last frame of a clip are kept."""
REPEAT_RMS = 0.05
"""Grey levels by which a frame differs at most from the one before that it repeats: less than any coding noise."""
Thumb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """An output's thumbnails (shape frames × 32 × 32 × 3), and the share of frames that repeat the one before."""

    thumbs: Thumb
    repeated: float = 0.0


def thumb(picture: Image.Image) -> Thumb:
    """A picture averaged to a small square (shape 32 × 32 × 3), whatever its sides are."""
    from PIL import Image

    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def look_at_picture(data: bytes) -> Look:
    """The look of a PNG, JPEG or WebP file that has been checked."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return Look(thumb(picture)[None])


def look_at_clip(path: Path) -> Look:
    """The look of a clip that has been checked."""
    import av
    from PIL import Image

    with path.open("rb") as file, av.open(file, "r", format="mp4", metadata_errors="replace") as container:
        # in full size first: scaled on the way, the coarser colour of a clip lands beside its brightness
        frames = [thumb(Image.fromarray(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    table = np.stack(frames)
    steps = [rms(before, after) for before, after in pairwise(table)]
    repeated = sum(step < REPEAT_RMS for step in steps) / max(1, len(steps))
    return Look(table[[0, len(table) // 2, -1]], repeated)


def rms(one: Thumb, other: Thumb) -> float:
    """Root mean square difference, grey levels (0 to 255)."""
    return float(np.sqrt(((one.astype(np.float64) - other) ** 2).mean()))


def signature(look: Look) -> NDArray[np.float32]:
    """The look as a vector of length 1, so that the product of two is their correlation.

    The mean of each band and frame is taken off and the contrast is made equal: brightness, contrast, scaling, slight
    noise and coding change next to nothing. A look without contrast is the zero vector, which is like nothing.
    """
    values = look.thumbs.astype(np.float32)
    values = values - values.mean(axis=(1, 2), keepdims=True)
    length = float(np.linalg.norm(values))
    unit = values / length if length > values.size**0.5 else values * 0
    return np.asarray(unit.ravel(), dtype=np.float32)


def mirrored(look: Look) -> Look:
    """The look, left and right exchanged."""
    return Look(look.thumbs[:, :, ::-1], look.repeated)

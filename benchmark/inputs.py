"""Pictures and clips for jobs that need one: the same for a seed each time, those of two seeds alike in nothing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from reelnet.pipelines import ClipSize, Size

if TYPE_CHECKING:
    from PIL import Image

TURN = 12.0
"""Degrees by which a clip's picture turns from frame to frame: no frame repeats the one before."""


def draw(size: Size, seed: int) -> bytes:
    """A PNG of that size: soft patches of colour and discs, so that a model has something to move."""
    out = io.BytesIO()
    _drawn(size, seed).save(out, "PNG", compress_level=1)
    return out.getvalue()


def film(size: ClipSize, seed: int) -> bytes:
    """An MP4 without sound of that size, in which the picture of that seed turns."""
    import av

    picture = _drawn(Size(2 * size.width, 2 * size.height), seed)
    left, top = size.width // 2, size.height // 2
    window = (left, top, left + size.width, top + size.height)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=size.fps, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        for index in range(size.frames):
            turned = picture.rotate(index * TURN).crop(window)
            container.mux(stream.encode(av.VideoFrame.from_image(turned)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
    return out.getvalue()


def _drawn(size: Size, seed: int) -> Image.Image:
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    picture = patches.resize((size.width, size.height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for x, y, share in rng.uniform(0.1, 0.9, (4, 3)):
        centre, radius = (x * size.width, y * size.height), share * min(size.width, size.height) / 5
        pen.circle(centre, radius, fill=tuple(int(band) for band in rng.integers(0, 256, 3)))
    return picture

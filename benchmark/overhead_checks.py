"""What the check of a result costs by itself: of a picture padded to a size, and of one that is all picture."""

from __future__ import annotations

import io
import time
from statistics import median

import numpy as np
from PIL import Image

from benchmark.floor.messages import MEDIA_TYPE, request
from reelnet.inspection import check_output
from reelnet.pipelines import MediaSpec

TIMES = 15
REAL_SIDE = 577
"""Pixels of a side: noise of 577×577 in three bytes a pixel is a PNG of 1.0 MB."""


def padded_ms(data: bytes) -> float:
    """Of a result of the benchmark, milliseconds."""
    asked = request(len(data))
    return _ms(data, MediaSpec("image", int(asked["width"]), int(asked["height"])))


def real_ms() -> tuple[float, int]:
    """Of a PNG of about 1 MB that is all picture: milliseconds, and its bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (REAL_SIDE, REAL_SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    data = file.getvalue()
    return _ms(data, MediaSpec("image", REAL_SIDE, REAL_SIDE)), len(data)


def _ms(data: bytes, spec: MediaSpec) -> float:
    return median(_once(data, spec) for _ in range(TIMES)) * 1e3


def _once(data: bytes, spec: MediaSpec) -> float:
    began = time.perf_counter()
    check_output(data, MEDIA_TYPE, spec, len(data))
    return time.perf_counter() - began

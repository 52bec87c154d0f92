"""What a score's throughput is measured against: a number with its source, said in every report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

H200 = "arithmetic limit of one H200 (790 TFLOP/s bf16): computed, never reached"
TINY = "measured once on two CPU cores; it says nothing of a real model"
"""576 × 1024 × 50 steps in 7.4 s; 14 frames of 256² × 4 steps in 4.5 s."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Megapixel·steps per second that count as 1, and where the number is from."""

    mpix_steps_per_s: float
    source: str


# 571 images a minute of 512² × 50 steps (SD 1.5), 114 of 1024² × 30 steps (SDXL), 11.4 clips of 25 frames of
# 576 × 1024 × 25 steps (SVD-XT), with classifier-free guidance: docs/benchmark.md derives them.
_TABLE: tuple[tuple[str, str, Reference], ...] = (
    ("text-to-image", r"^reelnet/tiny-", Reference(4.0, TINY)),
    ("image-to-video", r"^reelnet/tiny-", Reference(0.8, TINY)),
    ("text-to-image", r"sdxl|stable-diffusion-xl", Reference(59.8, H200)),
    ("image-to-image", r"sdxl|stable-diffusion-xl", Reference(59.8, H200)),
    ("text-to-image", r"stable-diffusion-(v1|1)|sd-?1[.-]?5", Reference(124.7, H200)),
    ("image-to-image", r"stable-diffusion-(v1|1)|sd-?1[.-]?5", Reference(124.7, H200)),
    ("image-to-video", r"stable-video-diffusion|\bsvd\b", Reference(70.0, H200)),
)


def reference_for(pipeline: str, model: str, asked: float | None) -> Reference | None:
    """The reference asked for, else the table's; None when the model is not in it."""
    if asked is not None:
        return Reference(asked, "given by --reference")
    rows = (found for name, pattern, found in _TABLE if name == pipeline and re.search(pattern, model, re.IGNORECASE))
    return next(rows, None)


def best_of(rates: Sequence[float | None]) -> Reference | None:
    """The fastest of this run: the reference of a model that has no other. None when nothing was done."""
    best = max((rate for rate in rates if rate), default=None)
    return Reference(best, "fastest of this run: there is no reference for this model") if best else None

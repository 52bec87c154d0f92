"""How like its frames a clip is, by luma: PSNR, and SSIM (Wang et al. 2004) over blocks of 8 × 8."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from runner.backend import Frames
from runner.bench.films import FPS
from runner.video_codecs import ClipOutput
from runner.video_file import clip_of

Luma = npt.NDArray[np.float32]
"""Shape (height, width)."""
_BLOCK = 8
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True, slots=True)
class Likeness:
    """One codec on one film: frames a second of CPU, bytes, and the means of PSNR (dB) and SSIM over the frames."""

    codec: str
    rate: float
    size: int
    psnr: float
    ssim: float


def likeness(frames: Frames, output: ClipOutput, codec: str) -> Likeness:
    """Codes the film once and compares."""
    began = time.process_time()
    data = bytes(clip_of(frames, Fraction(FPS), replace(output, codec=codec), lambda _: None).data)
    spent_s = time.process_time() - began
    with av.open(io.BytesIO(data), "r") as container:
        pairs = [(_given(a), _luma(b)) for a, b in zip(frames, container.decode(video=0), strict=True)]
    errors = [float(np.square(a - b).mean()) for a, b in pairs]
    psnr = float(10 * np.log10(255**2 / np.mean(errors)))
    return Likeness(codec, len(frames) / spent_s, len(data), psnr, float(np.mean([ssim(a, b) for a, b in pairs])))


def ssim(first: Luma, second: Luma) -> float:
    """1 for equal pictures."""
    mean_a, mean_b = _blocks(first), _blocks(second)
    spread_a, spread_b = _blocks(first * first) - mean_a**2, _blocks(second * second) - mean_b**2
    shared = _blocks(first * second) - mean_a * mean_b
    above = (2 * mean_a * mean_b + _C1) * (2 * shared + _C2)
    return float((above / ((mean_a**2 + mean_b**2 + _C1) * (spread_a + spread_b + _C2))).mean())


def _blocks(plane: Luma) -> npt.NDArray[np.float64]:
    """The mean of each block; rows and columns that fill none are left out."""
    high, wide = (side // _BLOCK for side in plane.shape)
    cut = plane[: high * _BLOCK, : wide * _BLOCK].astype(np.float64)
    return np.asarray(cut.reshape(high, _BLOCK, wide, _BLOCK).mean(axis=(1, 3)))


def _given(pixels: npt.NDArray[np.uint8]) -> Luma:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return _luma(frame.reformat(format="yuv420p", dst_colorspace=1))


def _luma(frame: av.VideoFrame) -> Luma:
    return np.asarray(frame.to_ndarray()[: frame.height], np.float32)

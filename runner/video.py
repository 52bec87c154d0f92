"""Clips out: MP4 with H.264, by PyAV."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

from runner.backend import Frames


def mp4(frames: Frames, fps: int | Fraction, crf: int, ticked: Callable[[int], None]) -> bytes:
    """`frames` as MP4 (H.264, yuv420p, index in front) at `fps`; equal frames give equal bytes.

    Sides have to be even. `ticked` is called with the count of frames encoded so far. The index can only be moved to
    the front of a file that can be reopened, so the clip goes through a temporary one.
    """
    with tempfile.TemporaryDirectory(prefix="reelnet-mp4-") as folder:
        path = Path(folder) / "clip.mp4"
        _write(path, frames, fps, crf, ticked)
        return path.read_bytes()


def _write(path: Path, frames: Frames, fps: int | Fraction, crf: int, ticked: Callable[[int], None]) -> None:
    # bitexact leaves out the encoder's version and the time; one thread makes x264's choices repeatable. Its
    # macroblock tree reads memory that nobody wrote, in the vector code: equal frames gave one of four files.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "libx264",
            rate=fps,
            options={"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"},
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for count, pixels in enumerate(frames, start=1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            ticked(count)
        container.mux(stream.encode())

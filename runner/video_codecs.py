"""How clips are coded: what each encoder is told, so that equal frames give equal bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from runner.backend import RunnerJob
from runner.provenance import note_of

os.environ.setdefault("SVT_LOG", "1")  # errors alone: SVT-AV1 tells its settings at each clip, and reads nothing else

X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"]

_VP9_GOOD = 5
"""The fastest of libvpx's "good" searches."""


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """How clips are written: as which `codec`, at what quality and pace of each encoder, and how many frames may wait.

    `crf`, `av1_crf` and `vp9_crf` are constant rate factors of x264, SVT-AV1 and libvpx: less is better and larger.
    `note` is what the file says of itself.
    """

    crf: int = 18
    av1_crf: int = 6
    vp9_crf: int = 6
    preset: X264Preset = "veryfast"
    av1_preset: int = 8
    vp9_speed: int = 6
    window: int = 4
    codec: str = "h264"
    note: str = ""

    def of(self, job: RunnerJob) -> ClipOutput:
        """As the job wants its one clip."""
        return replace(self, codec=job.promises[0].codec, note=note_of(job, job.seed))


def encoder(output: ClipOutput) -> tuple[str, dict[str, str]]:
    """FFmpeg's name of the encoder of `output.codec`, and its options."""
    name, options = _ENCODERS[output.codec]
    return name, options(output)


def bitstream_filter(codec: str) -> str | None:
    """What encoded pictures go through: x264 writes its version and settings into the first one."""
    return "filter_units=remove_types=6" if codec == "h264" else None


def _x264(output: ClipOutput) -> dict[str, str]:
    # One thread makes x264's choices repeatable. Its macroblock tree reads memory that nobody wrote, in the vector
    # code: equal frames gave one of four files. Where B-frames are not weighed, motion is sought in a diamond and
    # blocks are transformed by 4 × 4 alone, clips are no larger and a fifth faster.
    steady = "mbtree=0:b-adapt=0:me=dia:8x8dct=0"
    return {"crf": str(output.crf), "preset": output.preset, "threads": "1", "x264-params": steady}


def _svt_av1(output: ClipOutput) -> dict[str, str]:
    return {"crf": str(output.av1_crf), "preset": str(output.av1_preset), "svtav1-params": "lp=1"}


def _vpx_vp9(output: ClipOutput) -> dict[str, str]:
    # Its "good" search has no speed above 5; real-time coding goes on from there, and is told no time here.
    deadline = "good" if output.vp9_speed <= _VP9_GOOD else "realtime"
    pace = {"deadline": deadline, "cpu-used": str(output.vp9_speed)}
    return {"crf": str(output.vp9_crf), "b": "0", **pace, "threads": "1", "row-mt": "0", "tile-columns": "0"}


_ENCODERS: dict[str, tuple[str, Callable[[ClipOutput], dict[str, str]]]] = {
    "h264": ("libx264", _x264),
    "av1": ("libsvtav1", _svt_av1),
    "vp9": ("libvpx-vp9", _vpx_vp9),
}

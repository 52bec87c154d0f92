"""From rendered frames to the file that is delivered."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

from runner import images, video
from runner.backend import Rendered


@dataclass(frozen=True, slots=True)
class Encoded:
    """One output as a file."""

    media_type: str
    data: bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes pictures as PNG and clips as MP4. `png_level` is zlib's, `crf` x264's."""

    png_level: int = 1
    crf: int = 18

    def encode(self, rendered: Rendered, ticked: Callable[[int], None]) -> Encoded:
        """The file of one output; `ticked` hears of each frame that is encoded."""
        if rendered.clip:
            return Encoded("video/mp4", rendered.clip.data)
        if rendered.fps is not None:
            return Encoded("video/mp4", video.mp4(rendered.frames, rendered.fps, self.crf, ticked))
        data = rendered.file or images.png(rendered.frames, self.png_level, rendered.alpha)
        ticked(1)
        return Encoded("image/png", data)

"""From rendered frames to the file that is delivered."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

from reelnet.metadata import JPEG, WEBP
from runner import images, video
from runner.backend import Rendered


@dataclass(frozen=True, slots=True)
class Encoded:
    """One output as a file."""

    media_type: str
    data: bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes pictures as what they say and clips as MP4. `png_level` is zlib's, `crf` x264's, `jpeg_quality` 1…100."""

    png_level: int = 1
    crf: int = 18
    jpeg_quality: int = 90

    def encode(self, rendered: Rendered, ticked: Callable[[int], None]) -> Encoded:
        """The file of one output; `ticked` hears of each frame that is encoded."""
        if rendered.clip:
            return Encoded("video/mp4", rendered.clip.data)
        if rendered.fps is not None:
            return Encoded("video/mp4", video.mp4(rendered.frames, rendered.fps, self.crf, ticked))
        data = rendered.file or self._picture(rendered)
        ticked(1)
        return Encoded(rendered.media_type, data)

    def _picture(self, rendered: Rendered) -> bytes:
        if rendered.media_type == JPEG:
            return images.jpeg(rendered.frames, self.jpeg_quality)
        if rendered.media_type == WEBP:
            return images.webp(rendered.frames)
        return images.png(rendered.frames, self.png_level, rendered.alpha)

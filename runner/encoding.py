"""From rendered frames to the file that is delivered."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from reelnet.inspection import MP4
from reelnet.metadata import JPEG, PNG, WEBP
from reelnet.pipelines import MediaSpec
from runner import images
from runner.backend import Rendered
from runner.video_codecs import ClipOutput
from runner.video_file import clip_of


@dataclass(frozen=True, slots=True)
class Encoded:
    """One output as a file."""

    media_type: str
    data: bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes outputs as what was promised. `png_level` is zlib's, `jpeg_quality` 1…100, `clips` for every clip."""

    png_level: int = 1
    jpeg_quality: int = 90
    clips: ClipOutput = field(default_factory=ClipOutput)

    def encode(self, rendered: Rendered, promised: MediaSpec, note: str, ticked: Callable[[int], None]) -> Encoded:
        """The file of one output, which says `note` of itself; `ticked` hears of each frame that is encoded."""
        if rendered.clip:
            return Encoded(MP4, rendered.clip.data)
        if rendered.fps is not None:
            output = replace(self.clips, codec=promised.codec, note=note)
            return Encoded(MP4, clip_of(rendered.frames, Fraction(rendered.fps), output, ticked).data)
        media_type = promised.media_type or PNG
        data = rendered.file or self._picture(rendered, media_type, note)
        ticked(1)
        return Encoded(media_type, data)

    def _picture(self, rendered: Rendered, media_type: str, note: str) -> bytes:
        picture = images.picture_of(rendered.frames, rendered.alpha)
        if media_type == JPEG:
            return images.jpeg(picture, self.jpeg_quality, note)
        if media_type == WEBP:
            return images.webp(picture, note)
        return images.png(picture, self.png_level, note)

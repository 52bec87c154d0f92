"""Clips in: frames one at a time as they are to be seen, and the packets of the sound between them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.packet import Packet

from reelnet.clip_streams import sound_stream, video_stream
from reelnet.display import SkewError, Stand, stand_of
from reelnet.errors import UserError
from reelnet.parameters import VIDEO
from runner.backend import InputClip, Pixels
from runner.deinterlacing import Deinterlacer


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a clip, and when it is shown: `pts` and `duration` count the reader's `time_base`."""

    pixels: Pixels
    pts: int
    duration: int


@dataclass(frozen=True, slots=True)
class Colours:
    """What a clip's numbers mean, as FFmpeg counts them: 2 is unknown. `aspect` is a pixel's width by its height."""

    space: int = 2
    primaries: int = 2
    transfer: int = 2
    aspect: Fraction | None = None


class ClipReader:
    """An open clip. Iterating decodes it, a frame when it is asked for; `decoded` counts them.

    Frames come as they are seen: turned, mirrored, and of interlaced ones each with all of its lines at one moment.

    Raises UserError where the clip is damaged.
    """

    def __init__(self, clip: InputClip) -> None:
        self.source = clip.source
        self.decoded = 0
        self._container = av.open(io.BytesIO(clip.data), "r", format="mp4", options={"enable_drefs": "0"})
        self.video = video_stream(self._container)
        self.sound = sound_stream(self._container)
        self.time_base = self.video.time_base or 1 / Fraction(clip.source.fps, clip.source.fps_den)
        self._last_pts = -(2**62)
        self._shown = 0
        self._stand = Stand()
        self._lines = Deinterlacer(self.video)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._container.close()

    @property
    def colours(self) -> Colours:
        """As the clip says. A turned clip's pixels are turned too."""
        context = self.video.codec_context
        aspect = context.sample_aspect_ratio or None
        turned = (context.width, context.height) != (self.source.width, self.source.height)
        return Colours(
            int(context.colorspace),
            int(context.color_primaries),
            int(context.color_trc),
            1 / aspect if aspect and turned else aspect,
        )

    def __iter__(self) -> Iterator[Frame | Packet[Any]]:
        with contextlib.ExitStack() as stack:
            stack.callback(self.video.codec_context.flush_buffers)
            try:
                yield from self._items()
            except av.FFmpegError as error:
                message = f"the clip is damaged: {error.strerror}"
                raise UserError(message, code="damaged", loc=(VIDEO,), http_status=415) from None

    def _items(self) -> Iterator[Frame | Packet[Any]]:
        streams = [self.video, self.sound] if self.sound else [self.video]
        for packet in self._container.demux(streams):
            if packet.stream.index == self.video.index:
                for frame in self.video.decode(packet):
                    yield from self._taken(frame)
                if not packet.size:  # the last one
                    yield from map(self._upright, self._lines.rest())
            elif packet.size:
                yield packet

    def _taken(self, frame: av.VideoFrame) -> Iterator[Frame]:
        if not self.decoded:
            self._stand = _stand_of(frame)
        self.decoded += 1
        yield from map(self._upright, self._lines.took(frame))

    def _upright(self, frame: av.VideoFrame) -> Frame:
        stored: Pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        pixels = np.ascontiguousarray(self._stand.shown(stored))
        self._last_pts = pts = max(self._last_pts + 1, frame.pts or 0)
        self._shown += 1
        # A decoder tells for how long a frame was decoded; for how long the last one is shown, the whole file tells.
        is_last = self._shown == self.source.frames
        return Frame(pixels, pts, round(self.source.last_s / self.time_base) if is_last else frame.duration)


def _stand_of(frame: av.VideoFrame) -> Stand:
    try:
        return stand_of(frame)
    except SkewError as error:
        raise UserError(str(error), code="rotation", loc=(VIDEO,), http_status=422) from None

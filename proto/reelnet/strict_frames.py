"""A delivered clip's frames, decoded so that damage is an error wherever its codec lets it be known.

H.264 and AV1 have decoders that give up at the first damage when told to. FFmpeg's own VP9 decoder goes on over nearly
all of it; libvpx's looks at how each part of a frame ends. No codec has checksums: a changed bit that makes another
valid picture stays unseen, most often with H.264.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reelnet.display import SkewError, stand_of
from reelnet.errors import NodeError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_STRICTER = {"vp9": "libvpx-vp9"}
"""Decoders that are taken in place of FFmpeg's choice."""


def strict_frames(container: InputContainer, stream: VideoStream, sound: Hash) -> Iterator[VideoFrame]:
    """The frames in their order, decoded on one thread; `sound` hears of every packet of sound.

    Raises NodeError `size` for a clip that is to be shown turned, and what PyAV raises for damage.
    """
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}
    stricter, first = _stricter(stream), True
    for packet in container.demux():
        if packet.stream.index != stream.index:
            sound.update(bytes(packet))
            continue
        # Only the stream's own decoder knows how the container wants it shown.
        frames = stream.decode(packet) if first or stricter is None else []
        first = False
        if any(_turned(frame) for frame in frames):
            raise NodeError("the output is to be shown turned", code="size")
        yield from frames if stricter is None else stricter.decode(packet if packet.size else None)


def _turned(frame: VideoFrame) -> bool:
    try:
        return not stand_of(frame).upright
    except SkewError:
        return True


def _stricter(stream: VideoStream) -> VideoCodecContext | None:
    import av

    name = _STRICTER.get(stream.codec_context.codec.canonical_name)
    if name is None:
        return None
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    return decoder

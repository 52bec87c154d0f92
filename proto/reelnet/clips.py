"""Clips that apps send: what a file claims, whether it decodes whole, and the same clip without what it says besides.

Sizes, counts and durations are read from the container and bounded before anything is decoded. PyAV is imported where
a file is read. Strangers' files belong into a child process with limits: see `reelnet.inspection_worker`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelnet import looks
from reelnet.clip_copy import copy_clip
from reelnet.clip_streams import check_count, open_clip, packets_of, refusal, sound_stream, video_stream
from reelnet.display import SkewError, stand_of
from reelnet.inspection import MP4, mean_rate
from reelnet.pipelines import ClipSize

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """Bounds of an input clip: frames, seconds, pixels of a frame, sides in pixels."""

    max_frames: int = 900
    max_s: float = 60.0
    max_pixels: int = 1920 * 1080
    max_side: int = 4096
    min_side: int = 16


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """An input clip that was decoded whole, as it goes to a node: `size` and `sha256` (hex) are that file's.

    Width, height, frames, rate, last and sound as in ClipSize; `constant` and `fingerprint` of the first frame as in
    PictureFacts, as are `notes`.
    """

    media_type: str
    width: int
    height: int
    frames: int
    fps: int
    fps_den: int
    last: int
    last_den: int
    sound: str
    size: int
    sha256: str
    constant: bool
    fingerprint: str
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> ClipSize:
        """What the job's work and promises follow from."""
        rate, last = (self.fps, self.fps_den), (self.last, self.last_den)
        return ClipSize(self.width, self.height, self.frames, *rate, self.sound, *last)


def inspect_clip(source: Path, target: Path, limits: ClipLimits = ClipLimits()) -> ClipFacts:
    """Writes the clip at `source` to `target` without metadata, decodes that whole, and returns its facts.

    The copy is an MP4 with the first stream of pictures and of sound, packet for packet where an MP4 can carry them
    (see `reelnet.clip_copy`): titles, places, chapters, subtitles and further streams are left out; the rotation stays.

    Raises UserError, `loc` ("video",): 413 `too_large` or `too_long` from what the file claims, 415 `not_a_clip`,
    `damaged` or `codec`, 422 `too_small` or `rotation`.
    """
    with source.open("rb") as given, open_clip(given) as container:
        _check_claims(container, limits)
        notes = copy_clip(container, target, limits.max_frames)
    with target.open("rb") as kept, open_clip(kept, plain=True) as container:
        clip, constant, fingerprint = _decode_whole(container, limits)
    data = target.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    rate, last = (clip.fps, clip.fps_den), (clip.last, clip.last_den)
    size = (clip.width, clip.height, clip.frames, *rate, *last, clip.sound)
    return ClipFacts(MP4, *size, len(data), digest, constant, fingerprint, notes)


def probe_clip(data: bytes, limits: ClipLimits = ClipLimits()) -> ClipSize:
    """The size, count, rate and sound of an MP4; of its frames only the first is decoded. Raises as `inspect_clip`."""
    with open_clip(io.BytesIO(data), plain=True) as container:
        video = _check_claims(container, limits)
        found = _Found(video)
        for packet in _with_flush(container, limits):
            if packet is not None and packet.stream.index != video.index:
                found.sound.update(bytes(packet))
                continue
            if packet is not None and not packet.is_discard:
                found.moments.append(packet.pts or 0)
            if not any(found.shape):
                found.shape = next((seen_size(frame) for frame in video.decode(packet)), found.shape)
        return found.size(limits, heard=sound_stream(container) is not None)


def seen_size(frame: VideoFrame) -> tuple[int, int]:
    """Width and height of a frame as it is seen. Raises UserError for a rotation that is no right angle."""
    try:
        return stand_of(frame).size(frame.width, frame.height)
    except SkewError as error:
        raise refusal(str(error), "rotation", 422) from None


@dataclass(slots=True)
class _Found:
    """What is known of a clip while it is read: when its frames are shown, in ticks."""

    video: VideoStream
    moments: list[int] = field(default_factory=list)
    shape: tuple[int, int] = (0, 0)
    sound: Any = field(default_factory=hashlib.sha256)

    def size(self, limits: ClipLimits, *, heard: bool) -> ClipSize:
        """The clip's size. Raises UserError for one without frames or without a rate, and for one that is too long."""
        rate = mean_rate(self.video, self.moments)
        if not all(self.shape) or rate is None:
            raise refusal("the clip has no frames, or no known rate", "damaged")
        span, last = (len(self.moments) - 1) / rate, self._last_s(rate)
        if span + last > limits.max_s + 1:
            raise _too_long(float(span + last), limits)
        sound = self.sound.hexdigest() if heard else ""
        told = Fraction(0) if last == 1 / rate else last
        return ClipSize(*self.shape, len(self.moments), *rate.as_integer_ratio(), sound, *told.as_integer_ratio())

    def _last_s(self, rate: Fraction) -> Fraction:
        """For how long the last frame is shown, seconds.

        A file tells for how long all frames are decoded, one after the other, and what is left is the last one's. Where
        frames come unevenly and out of order that can be nothing: then it is shown for as long as the one before.
        """
        base = self.video.time_base or Fraction(0)
        told = (self.video.duration or 0) * base - (len(self.moments) - 1) / rate
        before = sorted(self.moments)[-2:]
        return told if told > 0 else (before[-1] - before[0]) * base or 1 / rate


def _check_claims(container: InputContainer, limits: ClipLimits) -> VideoStream:
    """The stream of pictures, when what the file says of itself is within the limits."""
    video = video_stream(container)
    width, height = video.codec_context.width, video.codec_context.height
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        allowed = f"at most {limits.max_pixels} pixels and {limits.max_side} a side are allowed"
        raise refusal(f"the clip is {width}×{height}; {allowed}", "too_large", 413)
    if min(width, height) < limits.min_side:
        raise refusal(f"the clip is {width}×{height}; at least {limits.min_side} a side", "too_small", 422)
    seconds = (container.duration or 0) / 1e6
    if seconds > limits.max_s:
        raise _too_long(seconds, limits)
    check_count(video.frames, limits.max_frames)
    return video


def _too_long(seconds: float, limits: ClipLimits) -> Exception:
    return refusal(f"the clip takes {seconds:.1f} s; at most {limits.max_s:g} s are allowed", "too_long", 413)


def _decode_whole(container: InputContainer, limits: ClipLimits) -> tuple[ClipSize, bool, str]:
    """The clip's size, and whether its first frame is one colour, and that one's fingerprint."""
    video = _check_claims(container, limits)
    video.codec_context.thread_count = 1
    video.codec_context.options = {"err_detect": "explode"}
    look, decoded, found = (False, ""), 0, _Found(video)
    for packet in _with_flush(container, limits):
        if packet is not None and packet.stream.index != video.index:
            found.sound.update(bytes(packet))
            continue
        if packet is not None and not packet.is_discard:
            found.moments.append(packet.pts or 0)
        for frame in video.decode(packet):
            if not decoded:
                picture = frame.to_image()  # type: ignore[no-untyped-call]
                found.shape, look = seen_size(frame), (looks.constant(picture), looks.fingerprint(picture))
            if seen_size(frame) != found.shape:
                raise refusal("the clip changes its size on the way", "damaged")
            decoded += 1
    if decoded != len(found.moments):
        message = f"the clip says {len(found.moments)} frames and decodes to {decoded}; convert it to MP4 anew"
        raise refusal(message, "damaged")
    return found.size(limits, heard=sound_stream(container) is not None), *look


def _with_flush(container: InputContainer, limits: ClipLimits) -> Iterator[Packet[Any] | None]:
    """The packets, and None at their end, which has a decoder give its last frames."""
    yield from packets_of(container, video_stream(container), sound_stream(container), limits.max_frames)
    yield None

"""Clips that apps send: what a file claims, whether it decodes whole, and the same clip without what it says besides.

Sizes, counts and durations are read from the container and bounded before anything is decoded. PyAV is imported where
a file is read. Strangers' files belong into a child process with limits: see `reelnet.inspection_worker`.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from reelnet import looks
from reelnet.errors import UserError, printable
from reelnet.inspection import HEAD_BYTES, MP4, SOUND_CODECS, mean_rate
from reelnet.parameters import VIDEO
from reelnet.pipelines import ClipSize

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_CODECS = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "mpeg4"})
"""Decoders by FFmpeg's names; the long tail is no stranger's to reach."""
MAX_SOUND_PACKETS = 65_536
"""Most packets of a clip's sound: AAC has 2,813 a minute at 48 kHz, Opus in its smallest frames 24,000."""
_READ_OPTIONS = {"enable_drefs": "0"}
_WRITE_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}


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

    Width, height, frames, rate and sound as in ClipSize; `constant` and `fingerprint` of the first frame as in
    PictureFacts, as are `notes`.
    """

    media_type: str
    width: int
    height: int
    frames: int
    fps: int
    fps_den: int
    sound: str
    size: int
    sha256: str
    constant: bool
    fingerprint: str
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> ClipSize:
        """What the job's work and promises follow from."""
        return ClipSize(self.width, self.height, self.frames, self.fps, self.fps_den, self.sound)


def inspect_clip(source: Path, target: Path, limits: ClipLimits = ClipLimits()) -> ClipFacts:
    """Writes the clip at `source` to `target` without metadata, decodes that whole, and returns its facts.

    The copy is an MP4 with the first stream of pictures and of sound, packet for packet: titles, places, chapters,
    subtitles, further streams and a sound that no MP4 carries are left out; the rotation stays.

    Raises UserError, `loc` ("video",): 413 `too_large` or `too_long` from what the file claims, 415 `not_a_clip`,
    `damaged` or `codec`, 422 `too_small` or `rotation`.
    """
    with source.open("rb") as given, _open(given) as container:
        _check_claims(container, limits)
        _copy(container, target, limits)
    with target.open("rb") as kept, _open(kept) as container:
        clip, constant, fingerprint = _decode_whole(container, limits)
    data = target.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return ClipFacts(
        MP4,
        clip.width,
        clip.height,
        clip.frames,
        clip.fps,
        clip.fps_den,
        clip.sound,
        len(data),
        digest,
        constant,
        fingerprint,
    )


def probe_clip(data: bytes, limits: ClipLimits = ClipLimits()) -> ClipSize:
    """The size, count, rate and sound of a clip; of its frames only the first is decoded. Raises as `inspect_clip`."""
    with _open(io.BytesIO(data)) as container:
        video = _check_claims(container, limits)
        sound = sound_stream(container)
        moments: list[int] = []
        digest, shape = hashlib.sha256(), (0, 0)
        for packet in _packets(container, limits):
            if sound and packet.stream.index == sound.index:
                digest.update(bytes(packet))
            elif packet.stream.index == video.index:
                moments += [] if packet.is_discard else [packet.pts or 0]
                if not any(shape):
                    shape = next((seen_size(frame) for frame in video.decode(packet)), shape)
        if not any(shape):
            shape = next((seen_size(frame) for frame in video.decode(None)), shape)
        return _size(video, moments, shape, digest.hexdigest() if sound else "")


def seen_size(frame: VideoFrame) -> tuple[int, int]:
    """Width and height of a frame as it is seen. Raises UserError for a rotation that is no right angle."""
    if frame.rotation % 90:
        raise _refusal(f"the clip is to be turned by {frame.rotation}°; only right angles are taken", "rotation", 422)
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures. Raises UserError when there is none that can be read."""
    import av

    covers = av.stream.Disposition.attached_pic
    stream = next((stream for stream in container.streams.video if not stream.disposition & covers), None)
    if stream is None:
        raise _refusal("the file has no moving pictures", "not_a_clip")
    name = stream.codec_context.name if stream.codec_context else "something unknown"
    if name not in VIDEO_CODECS:
        raise _refusal(f"the clip is coded as {name}; send H.264, HEVC, AV1, VP9 or MPEG-4", "codec")
    return stream


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The first stream of sound, when an MP4 can carry it."""
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        return None
    return stream if stream.codec_context.codec.canonical_name in SOUND_CODECS else None


@contextmanager
def _open(file: BinaryIO) -> Iterator[InputContainer]:
    """The container in an open file: a path would let it name other files. Raises UserError for what is damaged."""
    import av

    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head[4:8] != b"ftyp":
        raise _refusal("this is no clip: send MP4 or QuickTime", "not_a_clip")
    try:
        with av.open(file, "r", format="mp4", options=_READ_OPTIONS, metadata_errors="replace") as container:
            yield container
    # A file that claims too much has FFmpeg ask for memory that there is not: that is its fault, not this process's.
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        reason = printable(getattr(error, "strerror", None) or type(error).__name__, 200)  # its text names our file
        raise _refusal(f"the clip is damaged or cut off: {reason}", "damaged") from None


def _check_claims(container: InputContainer, limits: ClipLimits) -> VideoStream:
    """The stream of pictures, when what the file says of itself is within the limits."""
    video = video_stream(container)
    width, height = video.codec_context.width, video.codec_context.height
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        allowed = f"at most {limits.max_pixels} pixels and {limits.max_side} a side are allowed"
        raise _refusal(f"the clip is {width}×{height}; {allowed}", "too_large", 413)
    if min(width, height) < limits.min_side:
        raise _refusal(f"the clip is {width}×{height}; at least {limits.min_side} a side", "too_small", 422)
    seconds = (container.duration or 0) / 1e6
    if seconds > limits.max_s:
        raise _refusal(f"the clip takes {seconds:.1f} s; at most {limits.max_s:g} s are allowed", "too_long", 413)
    _check_count(video.frames, limits)
    return video


def _check_count(frames: int, limits: ClipLimits) -> None:
    if frames > limits.max_frames:
        raise _refusal(f"the clip has more than {limits.max_frames} frames", "too_long", 413)


def _packets(container: InputContainer, limits: ClipLimits) -> Iterator[Packet[Any]]:
    """The packets of pictures and sound, each counted against its limit."""
    video, sound = video_stream(container), sound_stream(container)
    frames = heard = 0
    for packet in container.demux([video, sound] if sound else [video]):
        if packet.size and packet.dts is not None:
            frames += packet.stream.index == video.index
            heard += packet.stream.index != video.index
            _check_count(frames, limits)
            if heard > MAX_SOUND_PACKETS:
                raise _refusal(f"the clip's sound has more than {MAX_SOUND_PACKETS} packets", "too_long", 413)
            yield packet


def _copy(container: InputContainer, target: Path, limits: ClipLimits) -> None:
    import av

    video, sound = video_stream(container), sound_stream(container)
    copied = Counter[int]()
    with av.open(str(target), "w", format="mp4", options=_WRITE_OPTIONS) as copy:
        kept = {
            stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in filter(None, (video, sound))
        }
        for packet in _packets(container, limits):
            copied[packet.stream.index] += 1
            packet.stream = kept[packet.stream.index]
            copy.mux(packet)
    for stream in filter(None, (video, sound)):
        if (there := copied[stream.index]) < (named := len(stream.index_entries)):
            raise _refusal(f"the clip is damaged or cut off: {there} of {named} packets are there", "damaged")
    if not copied[video.index]:
        raise _refusal("the clip has no frames", "damaged")


def _decode_whole(container: InputContainer, limits: ClipLimits) -> tuple[ClipSize, bool, str]:
    """The clip's size, and whether its first frame is one colour, and that one's fingerprint."""
    video = _check_claims(container, limits)
    video.codec_context.thread_count = 1
    video.codec_context.options = {"err_detect": "explode"}
    sound = sound_stream(container)
    shape, look, packets, digest = (0, 0), (False, ""), 0, hashlib.sha256()
    moments: list[int] = []
    for packet in _with_flush(container, limits):
        if packet is not None and sound and packet.stream.index == sound.index:
            digest.update(bytes(packet))
            continue
        packets += packet is not None and not packet.is_discard
        for frame in video.decode(packet):
            if not moments:
                picture = frame.to_image()  # type: ignore[no-untyped-call]
                shape, look = seen_size(frame), (looks.constant(picture), looks.fingerprint(picture))
            if seen_size(frame) != shape:
                raise _refusal("the clip changes its size on the way", "damaged")
            moments.append(frame.pts or 0)
    if len(moments) != packets:
        found = f"the clip says {packets} frames and decodes to {len(moments)}"
        raise _refusal(f"{found}; convert it to MP4 anew", "damaged")
    return _size(video, moments, shape, digest.hexdigest() if sound else ""), *look


def _with_flush(container: InputContainer, limits: ClipLimits) -> Iterator[Packet[Any] | None]:
    """The packets, and None at their end, which has a decoder give its last frames."""
    yield from _packets(container, limits)
    yield None


def _size(video: VideoStream, moments: list[int], shape: tuple[int, int], sound: str) -> ClipSize:
    rate = mean_rate(video, moments)
    if not all(shape) or rate is None:
        raise _refusal("the clip has no frames, or no known rate", "damaged")
    return ClipSize(*shape, len(moments), rate.numerator, rate.denominator, sound)


def _refusal(message: str, code: str, http_status: int = 415) -> UserError:
    return UserError(message, code=code, http_status=http_status, loc=(VIDEO,))

"""Which containers of clips are read, and which of their streams count. PyAV is imported where a file is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from reelnet.errors import UserError, printable
from reelnet.parameters import VIDEO
from reelnet.picture_formats import HEAD_BYTES, kind_of, named

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

MP4_FORMAT, MATROSKA_FORMAT = "mp4", "matroska"
VIDEO_CODECS = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "vp8", "mpeg4"})
"""Decoders by FFmpeg's names; the long tail is no stranger's to reach."""
SOUND_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
"""The codecs of sound that an MP4 carries and a clip comes to a node with."""
CODED_ANEW = frozenset({"vorbis", "mp2"})
"""Codecs of sound that no MP4 carries, and that become AAC; PCM of every kind does too."""
MAX_SOUND_PACKETS = 65_536
"""Most packets of a clip's sound: AAC has 2,813 a minute at 48 kHz, Opus in its smallest frames 24,000."""
_OLD_QUICKTIME = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})
_MATROSKA_HEAD, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_MATROSKA_SEARCH_BYTES = 4096


@contextmanager
def open_clip(file: BinaryIO, *, plain: bool = False) -> Iterator[InputContainer]:
    """The container in an open file: a path would let it name other files. `plain`: it has to be an MP4 or QuickTime.

    Raises UserError for another file, and for what is damaged.
    """
    import av

    head = file.read(_MATROSKA_SEARCH_BYTES)
    form = _form_of(head, plain=plain)
    _check_end(file, head, form)
    options = {"enable_drefs": "0"} if form == MP4_FORMAT else {}
    try:
        with av.open(file, "r", format=form, options=options, metadata_errors="replace") as container:
            yield container
    # A file that claims too much has FFmpeg ask for memory that there is not: that is its fault, not this process's.
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        reason = printable(getattr(error, "strerror", None) or type(error).__name__, 200)  # its text names our file
        raise refusal(f"the clip is damaged or cut off: {reason}", "damaged") from None


def _form_of(head: bytes, *, plain: bool) -> str:
    """The demuxer of a file. Raises UserError."""
    if head.startswith(_MATROSKA_HEAD) and not plain:
        return MATROSKA_FORMAT
    if (head[4:8] == b"ftyp" and kind_of(head[:HEAD_BYTES]) is None) or head[4:8] in _OLD_QUICKTIME:
        return MP4_FORMAT
    name = named(head[:HEAD_BYTES]) or "no clip"
    others = "" if plain else ", WebM or Matroska"
    raise refusal(f"this is {name}: send MP4{' or' if plain else ','} QuickTime{others}", "not_a_clip")


def _check_end(file: BinaryIO, head: bytes, form: str) -> None:
    """Raises UserError for a Matroska file that is shorter than it says: its demuxer takes what there is."""
    size = file.seek(0, 2)
    file.seek(0)
    at = head.find(_SEGMENT) + len(_SEGMENT) if form == MATROSKA_FORMAT and _SEGMENT in head else len(head)
    if at >= len(head) or not head[at]:
        return
    length = 9 - head[at].bit_length()  # bytes of a number whose first bit that is set says how many
    told = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    if told != (1 << 7 * length) - 1 and at + length + told > size:  # all ones: not known, as of a recording
        raise refusal("the clip is damaged or cut off: it ends before it says", "damaged")


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures. Raises UserError when there is none that can be read."""
    stream = next(iter(moving_streams(container)), None)
    if stream is None:
        raise refusal("the file has no moving pictures", "not_a_clip")
    name = stream.codec_context.name if stream.codec_context else "something unknown"
    if name not in VIDEO_CODECS:
        raise refusal(f"the clip is coded as {name}; send H.264, HEVC, AV1, VP9, VP8 or MPEG-4", "codec")
    return stream


def moving_streams(container: InputContainer) -> list[VideoStream]:
    """The streams of pictures that are no cover."""
    import av

    covers = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The first stream of sound, when an MP4 can carry it."""
    stream = next(iter(container.streams.audio), None)
    return stream if sound_codec(stream) in SOUND_CODECS else None


def sound_codec(stream: AudioStream | None) -> str:
    """The codec of a stream of sound; empty for none, or for one that is not known."""
    if stream is None or stream.codec_context is None:
        return ""
    return stream.codec_context.codec.canonical_name


def is_coded_anew(codec: str) -> bool:
    """Whether sound of this codec becomes AAC on its way in."""
    return codec in CODED_ANEW or codec.startswith("pcm_")


def packets_of(
    container: InputContainer, video: VideoStream, sound: AudioStream | None, max_frames: int
) -> Iterator[Packet[Any]]:
    """The packets of pictures and sound, each counted against its limit. Raises UserError."""
    frames = heard = 0
    for packet in container.demux([video, sound] if sound else [video]):
        if packet.size:
            frames += packet.stream.index == video.index
            heard += packet.stream.index != video.index
            check_count(frames, max_frames)
            if heard > MAX_SOUND_PACKETS:
                raise refusal(f"the clip's sound has more than {MAX_SOUND_PACKETS} packets", "too_long", 413)
            yield packet


def check_count(frames: int, max_frames: int) -> None:
    """Raises UserError for more frames than that."""
    if frames > max_frames:
        raise refusal(f"the clip has more than {max_frames} frames", "too_long", 413)


def refusal(message: str, code: str, http_status: int = 415) -> UserError:
    """The error that a clip cannot be taken."""
    return UserError(message, code=code, http_status=http_status, loc=(VIDEO,))

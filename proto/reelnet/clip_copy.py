"""A clip as an MP4 with one stream of pictures and one of sound, packet for packet where an MP4 can carry them.

Sound that it cannot becomes AAC, and VP8 becomes H.264, each with its times. PyAV is imported where a file is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reelnet.clip_streams import (
    SOUND_CODECS,
    is_coded_anew,
    moving_streams,
    packets_of,
    refusal,
    sound_codec,
    video_stream,
)
from reelnet.warnings import SOUND_DROPPED, TRACKS_DROPPED

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}
_H264 = {"crf": "10", "preset": "veryfast", "threads": "1", "bf": "0", "x264-params": "mbtree=0"}
"""Nearly without loss, and in the order of showing."""
_AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
_AAC_LAYOUTS = frozenset({"mono", "stereo", "3.0", "4.0", "5.0", "5.1"})
_AAC_BITS_PER_CHANNEL = 128_000
Note = tuple[str, str]
"""A code and a sentence of what was not kept."""


def copy_clip(container: InputContainer, target: Path, max_frames: int) -> tuple[Note, ...]:
    """Writes the copy, and says what of the clip is not in it. Raises UserError."""
    import av

    video, (sound, notes) = video_stream(container), _chosen_sound(container)
    copied = Counter[int]()
    with av.open(str(target), "w", format="mp4", options=_OPTIONS) as copy:
        tracks = {video.index: _pictures(copy, video)} | ({sound.index: _sounds(copy, sound)} if sound else {})
        for packet in packets_of(container, video, sound, max_frames):
            index = packet.stream.index
            copied[index] += 1
            for ready in tracks[index].took(packet):
                copy.mux(ready)
        for track in tracks.values():
            for ready in track.rest():
                copy.mux(ready)
    _check_whole(container, (video, sound), copied)
    return (*notes, *_left_out(container))


def _check_whole(
    container: InputContainer, streams: Iterable[VideoStream | AudioStream | None], copied: Counter[int]
) -> None:
    """Raises UserError when packets are missing that the file's index names."""
    video, *_ = found = [stream for stream in streams if stream]
    for stream in found if "mp4" in container.format.name else ():
        if (there := copied[stream.index]) < (named := len(stream.index_entries)):
            raise refusal(f"the clip is damaged or cut off: {there} of {named} packets are there", "damaged")
    if not copied[video.index]:
        raise refusal("the clip has no frames", "damaged")


def _chosen_sound(container: InputContainer) -> tuple[AudioStream | None, tuple[Note, ...]]:
    """The first stream of sound that is kept, and what of the sound is not."""
    for stream in container.streams.audio:
        codec = sound_codec(stream)
        if codec in SOUND_CODECS or is_coded_anew(codec):
            return stream, ()
    codecs = ", ".join(sound_codec(stream) or "something unknown" for stream in container.streams.audio)
    if not codecs:
        return None, ()
    text = f"The clip's sound was dropped: it is coded as {codecs}. Send AAC, MP3, AC-3, ALAC, Opus, FLAC or PCM."
    return None, ((SOUND_DROPPED, text),)


def _left_out(container: InputContainer) -> Iterator[Note]:
    more = {
        "sound": len(container.streams.audio) - 1,
        "pictures": len(moving_streams(container)) - 1,
        "subtitles": len(container.streams.subtitles),
    }
    if found := [f"{count} of {kind}" for kind, count in more.items() if count > 0]:
        yield TRACKS_DROPPED, f"Further tracks of the clip were dropped: {', '.join(found)}."


class _Track(Protocol):
    """A stream of the copy that is being written."""

    def took(self, packet: Packet[Any]) -> Iterable[Packet[Any]]:
        """What is to be written after one more packet of the source."""

    def rest(self) -> Iterable[Packet[Any]]:
        """What is to be written at the end."""


def _pictures(copy: OutputContainer, stream: VideoStream) -> _Track:
    return _Pictures(copy, stream) if stream.codec_context.name == "vp8" else _Kept(copy, stream)


def _sounds(copy: OutputContainer, stream: AudioStream) -> _Track:
    return _Sound(copy, stream) if is_coded_anew(sound_codec(stream)) else _Kept(copy, stream)


class _Kept:
    """The source's packets as they are."""

    def __init__(self, copy: OutputContainer, source: VideoStream | AudioStream) -> None:
        self._stream = copy.add_stream_from_template(source, opaque=True)

    def took(self, packet: Packet[Any]) -> Iterable[Packet[Any]]:
        packet.stream = self._stream
        return (packet,)

    def rest(self) -> Iterable[Packet[Any]]:
        return ()


class _Sound:
    """Sound as AAC, from where it began."""

    def __init__(self, copy: OutputContainer, source: AudioStream) -> None:
        import av

        self._source = source
        rate = source.rate if source.rate in _AAC_RATES else 48000
        layout = source.layout.name if source.layout.name in _AAC_LAYOUTS else "stereo"
        if source.layout.name not in _AAC_LAYOUTS and source.channels == 1:
            layout = "mono"
        self._stream: AudioStream = copy.add_stream("aac", rate=rate, layout=layout)
        self._stream.codec_context.bit_rate = _AAC_BITS_PER_CHANNEL * self._stream.channels
        self._resampler = av.AudioResampler("fltp", layout, rate, frame_size=1024)

    def took(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        for frame in self._source.decode(packet):
            for piece in self._resampler.resample(frame):
                yield from self._stream.encode(piece)

    def rest(self) -> Iterator[Packet[Any]]:
        for frame in self._source.decode(None):
            for piece in self._resampler.resample(frame):
                yield from self._stream.encode(piece)
        for piece in self._resampler.resample(None):
            yield from self._stream.encode(piece)
        yield from self._stream.encode(None)


class _Pictures:
    """Pictures as H.264, each shown when it was and for as long."""

    def __init__(self, copy: OutputContainer, source: VideoStream) -> None:
        self._source = source
        context = source.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        stream: VideoStream = copy.add_stream("libx264", rate=source.average_rate or 30, options=_H264)
        stream.width, stream.height, stream.pix_fmt = context.width, context.height, "yuv420p"
        stream.codec_context.time_base = source.time_base or Fraction(1, 1000)
        if context.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = context.sample_aspect_ratio
        self._stream = stream
        self._lengths: dict[int, int] = {}

    def took(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        self._lengths[packet.pts or 0] = packet.duration or 0
        yield from self._coded(packet)

    def rest(self) -> Iterator[Packet[Any]]:
        yield from self._coded(None)
        yield from self._timed(self._stream.encode(None))

    def _coded(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        for frame in self._source.decode(packet):
            frame.pict_type = 0  # the encoder chooses its own
            yield from self._timed(self._stream.encode(frame))

    def _timed(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        for packet in packets:
            packet.duration = self._lengths.pop(packet.pts or 0, packet.duration or 0)
            yield packet

"""Clips out: an MP4 written frame by frame, and the one that frames in memory make."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.reformatter import VideoReformatter

from runner.backend import ClipFile, Frames
from runner.video_codecs import ClipOutput, bitstream_filter, encoder
from runner.video_reader import Colours, Frame

_CONTAINER = {"movflags": "+faststart", "fflags": "+bitexact"}
"""The index in front; neither the writer's version nor the time."""
BT709 = Colours(1, 1, 1)
"""What a player takes pictures for that say nothing of their colours, said aloud."""


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """A clip to be written. Frames' times count `time_base`; `rate` is their average number a second.

    `sound` is the stream that packets of sound come from, None for a clip without.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    colours: Colours = field(default_factory=Colours)
    sound: AudioStream | None = None


class _Lengths:
    """For how long coded pictures are shown, which encoders do not pass on."""

    def __init__(self) -> None:
        self._durations: dict[int, int] = {}
        self._first_pts: int | None = None
        self._first_dts: int | None = None
        self._end = 0

    def saw(self, frame: Frame) -> None:
        """The next picture, in the order of showing."""
        self._first_pts = frame.pts if self._first_pts is None else self._first_pts
        self._durations[frame.pts] = frame.duration
        self._end = frame.pts + frame.duration

    def tell(self, packet: Packet[Any]) -> None:
        """The next coded picture, in the order of decoding, gets its length."""
        self._first_dts = packet.dts if self._first_dts is None else self._first_dts
        packet.duration = self._durations.pop(packet.pts or 0, packet.duration)

    def tell_last(self, packet: Packet[Any]) -> None:
        """The last one gets what is left: a file counts its length by when pictures are decoded."""
        decoded = (packet.dts or 0) - (self._first_dts or 0)
        packet.duration = max(1, self._end - (self._first_pts or 0) - decoded)


class Mp4:
    """An MP4 that is being written (yuv420p, even sides). `finish` gives the encoder's last pictures to it."""

    def __init__(self, container: av.container.OutputContainer, layout: ClipFormat, output: ClipOutput) -> None:
        self._container = container
        self._layout = layout
        self._video = self._stream(output)
        self._sound = container.add_stream_from_template(layout.sound, opaque=True) if layout.sound else None
        container.start_encoding()
        bare = bitstream_filter(output.codec)
        self._bare = BitStreamFilterContext(bare, self._video, self._video) if bare else None
        self._reformatter = VideoReformatter()
        self._coded: list[Packet[Any]] = []
        self._lengths = _Lengths()

    def add(self, frame: Frame) -> None:
        """The next picture, RGB bytes of shape (height, width, 3)."""
        self._lengths.saw(frame)
        self._mux(self._video.encode(self._picture(frame)))

    def carry(self, packet: Packet[Any]) -> None:
        """A packet of sound, as it is."""
        packet.stream = self._sound
        self._container.mux(packet)

    def finish(self) -> None:
        """To be called behind the last picture."""
        self._mux(self._video.encode())
        for last in self._coded:
            self._lengths.tell_last(last)
            self._container.mux(last)

    def _mux(self, packets: list[Packet[Any]]) -> None:
        """Writes the coded pictures but the last one."""
        for packet in packets:
            self._lengths.tell(packet)
            self._coded += self._bare.filter(packet) if self._bare else [packet]
        self._container.mux(self._coded[:-1])
        self._coded = self._coded[-1:]

    def _stream(self, output: ClipOutput) -> av.VideoStream:
        layout = self._layout
        name, options = encoder(output)
        stream: av.VideoStream = self._container.add_stream(name, rate=layout.rate, options=options)  # type: ignore[assignment]
        stream.height, stream.width, stream.pix_fmt = layout.height, layout.width, "yuv420p"
        context = stream.codec_context
        context.time_base = layout.time_base
        context.colorspace, context.color_range = layout.colours.space, 1
        context.color_primaries, context.color_trc = layout.colours.primaries, layout.colours.transfer
        if layout.colours.aspect:
            context.sample_aspect_ratio = layout.colours.aspect
        return stream

    def _picture(self, frame: Frame) -> av.VideoFrame:
        rgb = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
        space = self._layout.colours.space
        picture = self._reformatter.reformat(rgb, format="yuv420p", dst_colorspace=space if space != 2 else None)
        picture.pts, picture.time_base, picture.duration = frame.pts, self._layout.time_base, frame.duration
        return picture


@contextlib.contextmanager
def writing(path: Path, layout: ClipFormat, output: ClipOutput) -> Iterator[Mp4]:
    """An MP4 at `path`. The index can only be moved to the front of a file that can be reopened, so there is one."""
    with av.open(str(path), "w", format="mp4", options=_CONTAINER) as container:
        if output.note:
            container.metadata["description"] = output.note
        yield Mp4(container, layout, output)


def taken(path: Path, shape: tuple[int, ...]) -> ClipFile:
    """The clip that was written at `path`, whose name is no longer needed."""
    with path.open("rb") as file:
        return ClipFile(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), shape)


def clip_of(frames: Frames, rate: Fraction, output: ClipOutput, ticked: Callable[[int], None]) -> ClipFile:
    """The clip of frames in memory, `rate` a second; `ticked` is called with the count of frames encoded so far."""
    count, height, width, _ = frames.shape
    layout = ClipFormat(width, height, rate, 1 / rate, BT709)
    with tempfile.TemporaryDirectory(prefix="reelnet-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with writing(path, layout, output) as clip:
            for index, pixels in enumerate(frames):
                clip.add(Frame(pixels, index, 1))
                ticked(index + 1)
            clip.finish()
        return taken(path, (count, height, width, 3))

"""A clip at another frame rate: decoding, the network and encoding, with few frames between them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from reelnet.frame_rates import Schedule
from runner.backend import ClipFile, Frames, InputClip, Pixels, Reporter
from runner.interpolation import Interpolator, interpolate
from runner.video_codecs import ClipOutput
from runner.video_file import BT709, ClipFormat
from runner.video_reader import ClipReader, Frame
from runner.video_writer import ClipWriter

_TICKS = 512
"""Ticks of the new clip's clock in a frame: its start is kept that exactly."""


def schedule_of(clip: InputClip, fps: int) -> Schedule:
    """The frames of a clip at `fps`."""
    return Schedule(clip.source.frames, Fraction(clip.source.fps, clip.source.fps_den), Fraction(fps))


def at_rate(clip: InputClip, fps: int, net: Interpolator, options: ClipOutput, report: Reporter) -> ClipFile:
    """The clip at a constant `fps`, which begins when it did; its sound stays, packet for packet.

    Raises UserError for a damaged clip, NodeError when the new one cannot be written, and what `net` and `report`
    raise.
    """
    with ClipReader(clip) as reader:
        size, tick = clip.source, Fraction(1, fps * _TICKS)
        layout = ClipFormat(size.width, size.height, Fraction(fps), tick, reader.colours, reader.sound)
        with ClipWriter(layout, options) as writer:
            source = _Source(reader, writer)
            for index, pixels in enumerate(interpolate(source, schedule_of(clip, fps), net, report)):
                start = round(source.start_s / tick)
                writer.put(Frame(pixels, start + index * _TICKS, _TICKS))
            return writer.finish()


def frames_at_rate(
    frames: Frames, schedule: Schedule, net: Interpolator, options: ClipOutput, report: Reporter
) -> ClipFile:
    """A clip of the schedule's frames, made of `frames`; no more of them is held than wait to be encoded.

    Raises NodeError when it cannot be written, and what `net` and `report` raise.
    """
    height, width = frames.shape[1:3]
    layout = ClipFormat(width, height, schedule.target_fps, 1 / schedule.target_fps, BT709)
    with ClipWriter(layout, options) as writer:
        for index, pixels in enumerate(interpolate(frames, schedule, net, report)):
            writer.put(Frame(pixels, index, 1))
        return writer.finish()


class _Source:
    """A clip's pictures; the packets of sound that lie between them go to the new clip."""

    def __init__(self, reader: ClipReader, writer: ClipWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.start_s = Fraction(0)

    def __iter__(self) -> Iterator[Pixels]:
        first = True
        for item in self._reader:
            if not isinstance(item, Frame):
                self._writer.put(item)
                continue
            if first:
                self.start_s, first = item.pts * self._reader.time_base, False
            yield item.pixels

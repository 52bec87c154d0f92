"""A clip at another frame rate: decoding, the network and encoding, with few frames between them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from reelnet.frame_rates import Schedule
from reelnet.pipelines import schedule_of
from runner.backend import ClipFile, Frames, InputClip, Reporter
from runner.interpolation import Interpolator, Timed, interpolate
from runner.video_codecs import ClipOutput
from runner.video_file import BT709, ClipFormat
from runner.video_reader import ClipReader, Frame
from runner.video_writer import ClipWriter

_TICKS = 512
"""Ticks of the new clip's clock in a frame: its start is kept that exactly."""


def at_rate(clip: InputClip, fps: Fraction, net: Interpolator, options: ClipOutput, report: Reporter) -> ClipFile:
    """The clip at a constant `fps`, which begins when it did and shows each moment when it was; its sound stays.

    Raises UserError for a damaged clip, NodeError when the new one cannot be written, and what `net` and `report`
    raise.
    """
    with ClipReader(clip) as reader:
        size, tick = clip.source, 1 / (fps * _TICKS)
        layout = ClipFormat(size.width, size.height, fps, tick, reader.colours, reader.sound)
        with ClipWriter(layout, options) as writer:
            source = _Source(reader, writer)
            for index, pixels in enumerate(interpolate(source, schedule_of(size, fps), net, report)):
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
        timed = ((index / schedule.source_fps, pixels) for index, pixels in enumerate(frames))
        for index, pixels in enumerate(interpolate(timed, schedule, net, report)):
            writer.put(Frame(pixels, index, 1))
        return writer.finish()


class _Source:
    """A clip's pictures with their times; the packets of sound that lie between them go to the new clip."""

    def __init__(self, reader: ClipReader, writer: ClipWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.start_s = Fraction(0)

    def __iter__(self) -> Iterator[Timed]:
        first = True
        for item in self._reader:
            if not isinstance(item, Frame):
                self._writer.put(item)
                continue
            start_s = item.pts * self._reader.time_base
            if first:
                self.start_s, first = start_s, False
            yield start_s - self.start_s, item.pixels

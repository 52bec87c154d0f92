"""A clip through a function, frame by frame: decoding, the model and encoding, with few frames between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from runner.backend import ClipFile, InputClip, Pixels
from runner.video_codecs import ClipOutput
from runner.video_file import ClipFormat
from runner.video_reader import ClipReader, Frame
from runner.video_writer import ClipWriter

OnFrame = Callable[[int], None]
"""Hears of the count of frames that are done; what it raises stops the clip."""


@dataclass(slots=True)
class Window:
    """How many frames were held at most: decoded and not yet encoded."""

    most: int = 0

    def saw(self, decoded: int, encoded: int) -> None:
        """Takes note of one moment."""
        self.most = max(self.most, decoded - encoded)


def remade(
    clip: InputClip,
    change: Callable[[Pixels], Pixels],
    factor: int,
    options: ClipOutput,
    done: OnFrame,
    window: Window | None = None,
) -> ClipFile:
    """The clip with `change` made to each frame, `factor` times as wide and high; times and sound stay.

    Raises UserError for a damaged clip, NodeError when the new one cannot be written, and what `change` and `done`
    raise.
    """
    window = window or Window()
    source = clip.source
    with ClipReader(clip) as reader:
        layout = ClipFormat(
            source.width * factor,
            source.height * factor,
            Fraction(source.fps, source.fps_den),
            reader.time_base,
            reader.colours,
            reader.sound,
        )
        with ClipWriter(layout, options) as writer:
            for item in reader:
                if not isinstance(item, Frame):
                    writer.put(item)
                    continue
                window.saw(reader.decoded, writer.encoded)
                writer.put(Frame(change(item.pixels), item.pts, item.duration))
                done(reader.decoded)
            return writer.finish()

"""Clips out, frame by frame: an encoder on a thread of its own, with a bounded number of frames before it."""

from __future__ import annotations

import mmap
import queue
import tempfile
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
from av.audio.stream import AudioStream
from av.packet import Packet

from reelnet.errors import NodeError
from runner.backend import ClipFile
from runner.video_reader import Colours, Frame

_CONTAINER = {"movflags": "+faststart", "fflags": "+bitexact"}
_ENCODER = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
"""As in `runner.video`: equal frames give equal bytes."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """How clips are written: x264's constant rate factor, and how many frames may wait for it."""

    crf: int = 18
    window: int = 4


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


class ClipWriter:
    """Writes one MP4 (H.264, yuv420p, index in front). `encoded` counts the frames that are.

    Used in a `with` block: left by an exception, or before `finish`, it stops its thread and leaves no file.
    """

    def __init__(self, layout: ClipFormat, options: ClipOutput) -> None:
        self.encoded = 0
        self._layout = layout
        self._options = options
        self._waiting: queue.Queue[Frame | Packet[Any] | None] = queue.Queue(options.window)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="reelnet-clip-")
        self._path = Path(self._folder.name) / "clip.mp4"
        self._thread = threading.Thread(target=self._run, name="clip encoder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        self._folder.cleanup()

    def put(self, item: Frame | Packet[Any]) -> None:
        """Adds the next frame or packet of sound; waits while the window is full. Raises NodeError as `finish`."""
        self._offer(item)

    def finish(self) -> ClipFile:
        """The whole clip, when everything is encoded. Raises NodeError when writing fails."""
        self._offer(None)
        self._thread.join()
        self._check()
        with self._path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return ClipFile(data, (self.encoded, self._layout.height, self._layout.width, 3))

    def _offer(self, item: Frame | Packet[Any] | None) -> None:
        while True:
            self._check()
            try:
                return self._waiting.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._error is not None:
            raise NodeError(f"the clip cannot be written: {type(self._error).__name__}", code="encode") from None

    # On the encoder's thread.

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - outermost of this thread: told to who writes next
            self._error = error

    def _write(self) -> None:
        with av.open(str(self._path), "w", format="mp4", options=_CONTAINER) as container:
            video = self._video(container)
            given = self._layout.sound
            sound = container.add_stream_from_template(given, opaque=True) if given else None
            while (item := self._next()) is not None:
                if isinstance(item, Frame):
                    container.mux(video.encode(self._picture(item)))
                    self.encoded += 1
                else:
                    item.stream = sound
                    container.mux(item)
            if not self._stop.is_set():
                container.mux(video.encode())

    def _next(self) -> Frame | Packet[Any] | None:
        """The next item; None at the end, or when nobody wants the clip any more."""
        while not self._stop.is_set():
            try:
                return self._waiting.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return None

    def _video(self, container: av.container.OutputContainer) -> av.VideoStream:
        layout = self._layout
        options = {"crf": str(self._options.crf), **_ENCODER}
        stream = container.add_stream("libx264", rate=layout.rate, options=options)
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
        picture = rgb.reformat(format="yuv420p", dst_colorspace=space if space != 2 else None)
        picture.pts, picture.time_base, picture.duration = frame.pts, self._layout.time_base, frame.duration
        return picture

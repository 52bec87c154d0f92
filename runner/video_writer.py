"""Clips out, frame by frame: an encoder on a thread of its own, with a bounded number of frames before it."""

from __future__ import annotations

import queue
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from av.packet import Packet

from reelnet.errors import NodeError
from runner.backend import ClipFile
from runner.video_codecs import ClipOutput
from runner.video_file import ClipFormat, taken, writing
from runner.video_reader import Frame

_POLL_S = 0.2


class ClipWriter:
    """Writes one MP4. `encoded` counts the frames that are.

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
        return taken(self._path, (self.encoded, self._layout.height, self._layout.width, 3))

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
        with writing(self._path, self._layout, self._options) as clip:
            while (item := self._next()) is not None:
                if isinstance(item, Frame):
                    clip.add(item)
                    self.encoded += 1
                else:
                    clip.carry(item)
            if not self._stop.is_set():
                clip.finish()

    def _next(self) -> Frame | Packet[Any] | None:
        """The next item; None at the end, or when nobody wants the clip any more."""
        while not self._stop.is_set():
            try:
                return self._waiting.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return None

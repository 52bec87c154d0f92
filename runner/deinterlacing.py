"""Interlaced frames, whose even and odd lines are of two moments, as frames of one moment each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph

_FILTER = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
"""One frame out for one in; those that are not marked as interlaced stay as they are."""


class Deinterlacer:
    """Frames of a stream through FFmpeg's bwdif, from the first one that is marked as interlaced on.

    As many come out as go in, with their times.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._stream = stream
        self._graph: Graph | None = None
        self._times: deque[tuple[int | None, int]] = deque()

    def took(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """What is ready after one more frame."""
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            self._graph = _graph(self._stream, frame)
        self._times.append((frame.pts, frame.duration))
        self._graph.vpush(frame)
        yield from self._ready()

    def rest(self) -> Iterator[av.VideoFrame]:
        """The frames that are left at the end."""
        if self._graph:
            self._graph.vpush(None)
            yield from self._ready()

    def _ready(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None, "a frame was pushed to it"
        while self._times:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):  # it waits for the next frame, or has no more
                return
            frame.pts, frame.duration = self._times.popleft()
            frame.time_base = self._stream.time_base
            yield frame


def _graph(stream: av.VideoStream, frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base)
    graph.link_nodes(source, graph.add(*_FILTER), graph.add("buffersink")).configure()
    return graph

"""A runner's stream, in whatever pieces it comes."""

from __future__ import annotations

import pytest

from orchestrator.runner_events import MAX_CHUNK_BYTES, MAX_LINE_BYTES, EventReader, OutputBegin, OutputEnd, RunnerEvent
from reelnet.errors import CanceledError, NodeError
from reelnet.jobs import MAX_PREVIEW_BYTES, Chunk, Preview, Progress, Started

DATA = b"a\nb{}" * 7
STREAM = (
    b'{"event":"started"}\n{"event":"later","than":"this version"}\n'
    b'{"event":"progress","stage":"denoise","step":1,"total":2}\n'
    b'{"event":"preview","size":35,"index":1,"step":6,"total":9}\n'
    + DATA
    + b'{"event":"output","index":0,"media_type":"image/png","seed":7,"nsfw":false}\n'
    b'{"event":"chunk","size":35}\n' + DATA + b'{"event":"output_end","index":0,"size":35,"sha256":"ab"}\n'
)
EVENTS = [
    Started(), Progress("denoise", 1, 2), Preview(DATA, 1, 6, 9), OutputBegin(0, "image/png", 7, False), Chunk(DATA),
    OutputEnd(0, 35, "ab"),
]  # fmt: skip


def read(reader: EventReader, piece: bytes) -> list[RunnerEvent]:
    """The events that a piece makes complete."""
    reader.feed(piece)
    return list(iter(reader.next, None))


def joined(events: list[RunnerEvent]) -> list[RunnerEvent]:
    """The events, chunks that follow each other as one."""
    whole: list[RunnerEvent] = []
    for event in events:
        if whole and isinstance(event, Chunk) and isinstance(whole[-1], Chunk):
            event = Chunk(whole.pop().data + event.data)  # type: ignore[union-attr]
        whole.append(event)
    return whole


@pytest.mark.parametrize("size", [1, 2, 7, 33, 100, len(STREAM)])
def test_the_pieces_make_no_difference(size: int) -> None:
    """Lines and bytes are cut anywhere; unknown kinds are skipped, a preview comes whole."""
    reader = EventReader()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert joined([event for piece in pieces for event in read(reader, piece)]) == EVENTS
    assert not reader.ended


def test_bytes_are_handed_on_as_they_come() -> None:
    """A chunk is not waited for."""
    reader = EventReader()
    assert read(reader, b'{"event":"chunk","size":6}\nabc') == [Chunk(b"abc")]
    assert read(reader, b"def") == [Chunk(b"def")]


def test_a_preview_of_an_earlier_runner_says_nothing_of_its_step() -> None:
    """What it does not tell is 0."""
    assert read(EventReader(), b'{"event":"preview","size":2}\nab') == [Preview(b"ab", 0, 0, 0)]


def test_a_failure_comes_after_what_was_said_before_it() -> None:
    """It is raised, and it is the stream's end."""
    reader = EventReader()
    reader.feed(
        b'{"event":"started"}\n{"event":"error","class":"canceled","code":"x","message":"stop"}\n{"event":"started"}\n'
    )
    assert reader.next() == Started()
    with pytest.raises(CanceledError, match="stop"):
        reader.next()
    assert (reader.ended, reader.next()) == (True, None)


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"{}", b"\xff", b'{"event":"chunk"}', b'{"event":"chunk","size":-1}', b'{"event":"progress"}',
        b'{"event":"chunk","size":%d}' % (MAX_CHUNK_BYTES + 1), b'{"event":"output","index":"x"}',
        b'{"event":"preview","size":%d}' % (MAX_PREVIEW_BYTES + 1), b'{"event":"preview","size":1,"step":-1}',
        b'{"event":"preview","size":1,"total":%d}' % 2**40,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_the_runners_fault(line: bytes) -> None:
    """Of whatever kind it is."""
    reader = EventReader()
    reader.feed(line + b"\n")
    with pytest.raises(NodeError) as caught:
        reader.next()
    assert caught.value.code == "protocol"


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    """Memory has a bound."""
    reader = EventReader()
    reader.feed(bytes(MAX_LINE_BYTES))
    assert reader.next() is None
    reader.feed(b"x")
    with pytest.raises(NodeError):
        reader.next()

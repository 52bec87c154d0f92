"""A runner's stream, in whatever pieces it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import runner_events as module
from orchestrator.runner_events import (
    MAX_CHUNK_BYTES,
    MAX_LINE_BYTES,
    PROTOCOL,
    EventReader,
    OutputBegin,
    OutputEnd,
    RunnerEvent,
    RunnerStarted,
)
from reelnet.codec import frame_to_message
from reelnet.errors import CanceledError, NodeError
from reelnet.jobs import MAX_PREVIEW_BYTES, Chunk, Done, Output, Preview, Progress
from reelnet.pipelines import Work
from reelnet.warnings import MAX_WARNING_CHARS, MAX_WARNINGS

DATA = b"a\nb{}" * 7
SHA256 = "ab" * 32
STARTED = b'{"event":"started"}\n'
OUTPUT = b'{"event":"output","index":0,"media_type":"image/png","seed":7,"nsfw":false}\n'
END = b'{"event":"output_end","index":0,"size":35,"sha256":"%b"}\n' % SHA256.encode()
WHOLE = OUTPUT + b'{"event":"chunk","size":35}\n' + DATA + END
STREAM = (
    b'{"event":"started"}\n{"event":"later","than":"this version"}\n'
    b'{"event":"progress","stage":"denoise","step":1,"total":2}\n'
    b'{"event":"preview","size":35,"index":1,"step":6,"total":9}\n' + DATA + WHOLE
)
EVENTS = [
    RunnerStarted(), Progress("denoise", 1, 2), Preview(DATA, 1, 6, 9), OutputBegin(0, "image/png", 7, False),
    Chunk(DATA), OutputEnd(0, 35, SHA256),
]  # fmt: skip
LINES: dict[str, dict[str, Any]] = {
    "progress": {"stage": "denoise", "step": 1, "total": 2},
    "preview": {"size": 1, "index": 0, "step": 1, "total": 2},
    "output": {"index": 0, "media_type": "image/png", "seed": 7, "nsfw": None},
    "tick": {"idle_s": 5.0},
    "done": {"timings_s": {"run": 1.0}, "model_digest": "d" * 64, "class": "x", "versions": {"torch": "2"}},
    "error": {"class": "node", "code": "x", "message": "m"},
}


def line(event: str, **fields: Any) -> bytes:
    """A line of the contract's, with some fields other than they should be."""
    return json.dumps({"event": event, **LINES.get(event, {}), **fields}).encode() + b"\n"


def fault_of(stream: bytes, outputs: int = 1) -> str:
    """How a stream breaks the contract; reading it ends there."""
    reader = EventReader(outputs)
    reader.feed(stream)
    with pytest.raises(NodeError) as caught:
        list(iter(reader.next, None))
    assert (caught.value.code, reader.next(), reader.ended) == (PROTOCOL, None, False)
    assert caught.value.message == reader.fault
    return reader.fault


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
    read(reader, STARTED + OUTPUT)
    assert read(reader, b'{"event":"chunk","size":6}\nabc') == [Chunk(b"abc")]
    assert read(reader, b"def") == [Chunk(b"def")]


def test_a_preview_of_an_earlier_runner_says_nothing_of_its_step() -> None:
    """What it does not tell is 0."""
    assert read(EventReader(), STARTED + b'{"event":"preview","size":2}\nab')[1:] == [Preview(b"ab", 0, 0, 0)]


def test_a_failure_comes_after_what_was_said_before_it() -> None:
    """It is raised, and it is the stream's end."""
    reader = EventReader()
    reader.feed(
        b'{"event":"started"}\n{"event":"error","class":"canceled","code":"x","message":"stop"}\n{"event":"started"}\n'
    )
    assert reader.next() == RunnerStarted()
    with pytest.raises(CanceledError, match="stop"):
        reader.next()
    assert (reader.ended, reader.next()) == (True, None)


@pytest.mark.parametrize(
    "broken",
    [
        b"{", b"[]", b"{}", b"\xff", b"3", b"null", b"[" * 100_000, b'{"event":3}', b'{"event":"\\ud800"}',
        b'{"event":"progress"}', b'{"event":"chunk"}', b'{"event":"tick","idle_s":NaN}',
        b'{"event":"tick","idle_s":1e999}', b'{"event":"progress","stage":"\\ud800","step":1,"total":1}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_the_runners_fault(broken: bytes) -> None:
    """Of whatever kind it is."""
    assert fault_of(STARTED + OUTPUT + broken + b"\n")


@pytest.mark.parametrize(
    ("event", "field", "values"),
    [
        ("progress", "step", [-1, 2**31, 10**30, 1.5, "1", True, None]),
        ("progress", "total", [-1, 10**30, None]),
        ("progress", "stage", ["x" * 257, "a\nb", "\u202eb", 7, None]),
        ("preview", "size", [-1, 0, MAX_PREVIEW_BYTES + 1, "1"]),
        ("preview", "index", [-1, 2**31]),
        ("preview", "step", [-1, 2**40]),
        ("chunk", "size", [-1, 0, MAX_CHUNK_BYTES + 1, 1.5, None]),
        ("output", "index", [-1, 1, "x", 10**30]),
        ("output", "seed", [-1, 2**63, 1.5]),
        ("output", "media_type", ["text/html", "image/gif", "", "image/png\n", 3]),
        ("output", "nsfw", ["no", 0]),
        ("tick", "idle_s", [-1, 1e308, 86_401, "5", None]),
        ("done", "timings_s", [{"x": -1}, {"x": 1e308}, {"x" * 257: 1}, {str(i): 1 for i in range(65)}, [], None]),
        ("done", "versions", [{"x": 1}, {"x": "\0"}, {str(i): "1" for i in range(64)}]),
        ("done", "model_digest", ["d" * 65, "D" * 64, "x", 1]),
        ("done", "class", ["\x1b[31m", 5]),
        ("error", "class", [None, 3, "x" * 257]),
        ("error", "message", [None, 3]),
        ("error", "code", ["x" * 257, "a\nb", 3]),
    ],
)
def test_a_field_has_to_be_what_the_contract_says(event: str, field: str, values: list[Any]) -> None:
    """Kind, range and length of each: what the messages to a broadcaster cannot hold ends here; the field is named."""
    for value in values:
        stream = (STARTED + OUTPUT if event == "chunk" else STARTED) + line(event, **{field: value})
        assert f"{event}.{field}" in fault_of(stream) or event == "output"


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (STARTED + STARTED, "started twice"),
        (line("progress"), "before it has started"),
        (line("done"), "before it has started"),
        (OUTPUT, "before it has started"),
        (line("preview") + b"x", "before it has started"),
        (STARTED + b'{"event":"chunk","size":1}\nx', "bytes of no output"),
        (STARTED + END, "not open"),
        (STARTED + OUTPUT + OUTPUT, "within another"),
        (STARTED + WHOLE + OUTPUT, "not due"),
        (STARTED + WHOLE + OUTPUT.replace(b'"index":0', b'"index":1'), "not due"),
        (STARTED + OUTPUT.replace(b'"index":0', b'"index":1'), "not due"),
        (STARTED + OUTPUT + END, "another size"),
        (STARTED + WHOLE.replace(b'"output_end","index":0', b'"output_end","index":1'), "not open"),
        (STARTED + WHOLE.replace(SHA256.encode(), b"none"), "output_end.sha256"),
        (STARTED + line("done"), "without all of its outputs"),
        (STARTED + OUTPUT + line("done"), "without all of its outputs"),
    ],
)
def test_a_stream_keeps_its_order(stream: bytes, words: str) -> None:
    """Started once, the outputs that were asked for in their order, bytes within one, and the end after the last."""
    assert words in fault_of(stream)


def test_outputs_come_in_their_order() -> None:
    """As many as the job asks for, one after the other."""
    reader = EventReader(2)
    events = read(reader, STARTED + WHOLE + WHOLE.replace(b'"index":0', b'"index":1') + line("done"))
    assert [event.index for event in events if isinstance(event, OutputBegin)] == [0, 1]
    assert reader.ended
    assert "not due" in fault_of(STARTED + (WHOLE + WHOLE.replace(b'"index":0', b'"index":1')) * 2, outputs=2)


def test_the_lines_of_a_job_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of kinds that are skipped: no stream goes on for ever."""
    monkeypatch.setattr(module, "MAX_LINES", 4)
    assert "more than 4 lines" in fault_of(STARTED + b'{"event":"later"}\n' * 4)


def test_the_work_comes_with_the_start() -> None:
    """Both figures or none, as an earlier runner tells; a broken one is no work."""
    assert read(EventReader(), line("started", pixel_steps=6, output_pixels=2)) == [RunnerStarted(Work(6, 2))]
    assert read(EventReader(), line("started", pixel_steps=6)) == [RunnerStarted(None)]
    for value in (-1, 2**63, 1.5, "6"):
        assert "pixel_steps" in fault_of(line("started", pixel_steps=value, output_pixels=1))


def test_what_is_read_can_be_told_on() -> None:
    """The largest of everything fits the messages to a broadcaster."""
    stage, most = "x" * 256, 2**31 - 1
    stream = STARTED + line("progress", stage=stage, step=most, total=most) + WHOLE.replace(b":7", b":%d" % (2**63 - 1))
    timings = {str(i): 86_400.0 for i in range(64)}
    *events, done = read(EventReader(), stream + line("done", timings_s=timings))
    for event in events:
        if isinstance(event, Progress):
            frame_to_message(event)
        if isinstance(event, OutputBegin):
            frame_to_message(Output(event.index, event.media_type, 2**63 - 1, SHA256, event.seed, event.nsfw))
    assert isinstance(done, module.RunnerDone)
    frame_to_message(Done(done.timings_s, 0, done.model_digest, done.facts))


def test_warnings_are_read_within_bounds() -> None:
    """Text is made printable and short; too many, or a broken one, is the runner's fault."""
    warning = {"code": "prompt_cut", "message": "cut\x1b[2J" + "a" * 1000, "parameter": "prompt"}
    *_, done = read(EventReader(), STARTED + WHOLE + line("done", warnings=[warning]))
    assert isinstance(done, module.RunnerDone)
    (told,) = done.warnings
    assert (told.code, told.parameter, len(told.message)) == ("prompt_cut", "prompt", MAX_WARNING_CHARS)
    assert told.message.isprintable()
    assert "warnings" in fault_of(STARTED + WHOLE + line("done", warnings=[warning] * (MAX_WARNINGS + 1)))
    assert "warnings" in fault_of(STARTED + WHOLE + line("done", warnings=[{"code": "prompt_cut"}]))


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    """Memory has a bound."""
    reader = EventReader()
    reader.feed(bytes(MAX_LINE_BYTES))
    assert reader.next() is None
    reader.feed(b"x")
    with pytest.raises(NodeError):
        reader.next()

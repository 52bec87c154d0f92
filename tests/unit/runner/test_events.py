"""The lines of a job's stream."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from reelnet.errors import FailureClass
from reelnet.warnings import JobWarning
from runner.event_schema import event_schema
from runner.events import (
    CHUNK_BYTES,
    Chunk,
    Done,
    Event,
    Failed,
    Output,
    OutputEnd,
    Preview,
    Progress,
    Started,
    Tick,
    chunks,
)
from runner.events import encode as parts_of
from tests.fakes.schema import faults


def encode(event: Event) -> bytes:
    return b"".join(parts_of(event))


def test_every_event_is_one_json_line() -> None:
    """Python's reserved words are spelled out on the wire."""
    assert json.loads(encode(Started(6, 2))) == {"event": "started", "pixel_steps": 6, "output_pixels": 2}
    assert json.loads(encode(Tick(1.5))) == {"event": "tick", "idle_s": 1.5}
    output = json.loads(encode(Output(0, "image/png", 7, False)))
    assert output == {"event": "output", "index": 0, "media_type": "image/png", "seed": 7, "nsfw": False}
    failed = json.loads(encode(Failed(FailureClass.OOM, "out_of_memory", "too large")))
    assert failed == {"event": "error", "class": "oom", "code": "out_of_memory", "message": "too large"}
    done = json.loads(encode(Done({"run": 1.0}, "ab", "Synthetic", {"runner": "1"})))
    assert done["class"] == "Synthetic"
    assert done["timings_s"] == {"run": 1.0}


def test_a_chunk_has_its_bytes_behind_its_line() -> None:
    """The bytes may hold newlines: their number is what counts."""
    assert encode(Chunk(b"a\nb")) == b'{"event":"chunk","size":3}\na\nb'


def test_a_preview_says_of_what_and_has_its_bytes_behind_its_line() -> None:
    """Like a chunk."""
    line = b'{"event":"preview","size":3,"index":1,"step":6,"total":9}\n'
    assert encode(Preview(b"a\nb", 1, 6, 9)) == line + b"a\nb"


def test_chunks_are_bounded_and_complete() -> None:
    """No chunk is larger than 256 KiB, and nothing is lost."""
    data = bytes(range(256)) * 3000
    pieces = [chunk.data for chunk in chunks(data)]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) == CHUNK_BYTES == 262_144


EVERY: list[Event] = [
    Started(6, 2),
    Progress("denoise", 1, 2),
    Preview(b"jpeg", 0, 1, 2),
    Output(0, "image/png", 7, None),
    Chunk(b"png"),
    OutputEnd(0, 3, "ab"),
    Done({"run": 1.0}, "ab", "Synthetic", {"runner": "1"}, (JobWarning("prompt_cut", "cut", "prompt"),)),
    Failed(FailureClass.OOM, "out_of_memory", "too large"),
    Tick(1.5),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: event.event)
def test_every_line_is_as_it_is_described(event: Event) -> None:
    """By one shape, and no event is left out of the description."""
    line = json.loads(encode(event).split(b"\n")[0])
    assert not faults(line, event_schema(), {})
    assert faults({"event": line["event"]}, event_schema(), {})
    assert {type(each) for each in EVERY} == set(get_args(Event))

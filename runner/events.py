"""The lines of a job's stream: a JSON object and a newline each; the bytes of a chunk or preview follow its line."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic_core import to_json

from reelnet.errors import FailureClass
from reelnet.warnings import JobWarning

CHUNK_BYTES = 256 * 1024
"""Most raw bytes that follow one `chunk` line."""
MEDIA_TYPE = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Started:
    """The model thread began to work on the job, whose work units (`reelnet.pipelines.Work`) these are."""

    event: ClassVar[str] = "started"
    pixel_steps: int
    output_pixels: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `total` in a stage (denoise, decode, encode) is done; totals count all images of the job."""

    event: ClassVar[str] = "progress"
    stage: str
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A small JPEG of output `index` as it is after `step` of its own `total` steps; its bytes follow the line."""

    event: ClassVar[str] = "preview"
    data: bytes
    index: int
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Output:
    """One output begins; its chunks follow. `nsfw` None: no safety checker has looked at it."""

    event: ClassVar[str] = "output"
    index: int
    media_type: str
    seed: int
    nsfw: bool | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of the output that began last."""

    event: ClassVar[str] = "chunk"
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class OutputEnd:
    """The output is complete: its size in bytes and sha256 as hex."""

    event: ClassVar[str] = "output_end"
    index: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """Everything was delivered. `timings_s` has a figure for each stage and `run`, the whole."""

    event: ClassVar[str] = "done"
    timings_s: Mapping[str, float]
    model_digest: str
    class_name: str
    versions: Mapping[str, str]
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without success; nothing follows."""

    event: ClassVar[str] = "error"
    failure: FailureClass
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The stream lives; the job itself last moved `idle_s` seconds ago."""

    event: ClassVar[str] = "tick"
    idle_s: float


Event = Started | Progress | Preview | Output | Chunk | OutputEnd | Done | Failed | Tick

TERMINAL = (Done, Failed)
"""The events that end a stream."""

_LINES: dict[type, Callable[[Any], dict[str, object]]] = {
    Started: lambda e: {"pixel_steps": e.pixel_steps, "output_pixels": e.output_pixels},
    Progress: lambda e: {"stage": e.stage, "step": e.step, "total": e.total},
    Output: lambda e: {"index": e.index, "media_type": e.media_type, "seed": e.seed, "nsfw": e.nsfw},
    Chunk: lambda e: {"size": len(e.data)},
    Preview: lambda e: {"size": len(e.data), "index": e.index, "step": e.step, "total": e.total},
    OutputEnd: lambda e: {"index": e.index, "size": e.size, "sha256": e.sha256},
    Done: lambda e: {
        "timings_s": e.timings_s,
        "model_digest": e.model_digest,
        "class": e.class_name,
        "versions": e.versions,
        "warnings": [each.body() for each in e.warnings],
    },
    Failed: lambda e: {"class": e.failure, "code": e.code, "message": e.message},
    Tick: lambda e: {"idle_s": e.idle_s},
}
"""What an event's line says beside its name."""


def encode(event: Event) -> tuple[bytes | memoryview, ...]:
    """The event's line, for a chunk or preview with its bytes behind it, which are not copied."""
    kind = type(event)
    line = to_json({"event": kind.event, **_LINES[kind](event)}) + b"\n"
    return (line, event.data) if isinstance(event, Chunk | Preview) else (line,)


def chunks(data: bytes | mmap.mmap) -> Iterator[Chunk]:
    """`data` in pieces of at most CHUNK_BYTES, which are views of it."""
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield Chunk(view[start : start + CHUNK_BYTES])

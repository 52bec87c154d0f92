"""What a runner says of a job, and how its stream is read: JSON lines, of which some have raw bytes behind them.

A runner is believed no more than has to be: each line is validated strictly, and the lines have to come in the
contract's order. Whatever else it says is the end of the job, and of what this runner may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.runner_answers import Hex, Text, first_fault
from reelnet.errors import NodeError, from_class, printable
from reelnet.inspection import MP4
from reelnet.jobs import MAX_PREVIEW_BYTES, Chunk, Preview, Progress
from reelnet.parameters import PICTURE_TYPES
from reelnet.pipelines import Work
from reelnet.warnings import MAX_WARNING_CHARS, MAX_WARNINGS, JobWarning

MAX_LINE_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
"""Longest line and largest chunk of a runner's stream."""
MAX_LINES = 1_000_000
"""Most lines of one job: the longest clip's steps, tiles, frames and chunks are some 100,000."""
MAX_COUNT = 2**31 - 1
MAX_WORK = 2**63 - 1
MAX_ENTRIES = 64
MAX_SECONDS = 86_400.0
PROTOCOL = "protocol"
"""The code of a failure to keep the contract: the runner that did it is started anew."""

MEDIA_TYPES = frozenset({*PICTURE_TYPES.values(), MP4})
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Large = Annotated[int, Field(strict=True, ge=0, le=MAX_WORK)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(strict=True, pattern=r"\A[0-9a-f]{64}\z")]


def _known_media(media_type: str) -> str:
    if media_type not in MEDIA_TYPES:
        raise PydanticCustomError("media_type", "is no media type of an output")
    return media_type


MediaType = Annotated[Text, AfterValidator(_known_media)]


@dataclass(frozen=True, slots=True)
class RunnerStarted:
    """The runner begins to work; `work` as it computes it from the decoded input, None from an earlier runner."""

    work: Work | None = None


@dataclass(frozen=True, slots=True)
class OutputBegin:
    """An output's bytes follow as chunks."""

    index: Count
    media_type: MediaType
    seed: Large
    nsfw: Annotated[bool, Field(strict=True)] | None


@dataclass(frozen=True, slots=True)
class OutputEnd:
    """An output is complete: its size in bytes and sha256 as the runner computed them."""

    index: Count
    size: Large
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing new: `idle_s` since the last real progress."""

    idle_s: Seconds


@dataclass(frozen=True, slots=True)
class RunnerDone:
    """The job is done."""

    timings_s: Mapping[str, float]
    model_digest: str
    facts: Mapping[str, str]
    warnings: tuple[JobWarning, ...] = ()


RunnerEvent = RunnerStarted | Progress | Preview | OutputBegin | Chunk | OutputEnd | Tick | RunnerDone


@dataclass(frozen=True, slots=True)
class _Started:
    """Both figures, or none."""

    pixel_steps: Large | None = None
    output_pixels: Large | None = None

    @property
    def work(self) -> Work | None:
        both = self.pixel_steps, self.output_pixels
        return Work(both[0], both[1]) if both[0] is not None and both[1] is not None else None


@dataclass(frozen=True, slots=True)
class _Progress:
    stage: Text
    step: Count
    total: Count


@dataclass(frozen=True, slots=True)
class _Chunk:
    size: Annotated[int, Field(strict=True, ge=1, le=MAX_CHUNK_BYTES)]


@dataclass(frozen=True, slots=True)
class _Preview:
    """Of what earlier runners did not tell, it is 0."""

    size: Annotated[int, Field(strict=True, ge=1, le=MAX_PREVIEW_BYTES)]
    index: Count = 0
    step: Count = 0
    total: Count = 0


@dataclass(frozen=True, slots=True)
class _Warning:
    code: Text
    message: Annotated[str, Field(strict=True, max_length=MAX_LINE_BYTES)]
    parameter: Text = ""


@dataclass(frozen=True, slots=True)
class _Done:
    timings_s: Annotated[dict[Text, Seconds], Field(max_length=MAX_ENTRIES)]
    model_digest: Hex
    class_: Annotated[Text, Field(alias="class")] = ""
    versions: Annotated[dict[Text, Text], Field(max_length=MAX_ENTRIES - 1)] = field(default_factory=dict)
    warnings: Annotated[tuple[_Warning, ...], Field(max_length=MAX_WARNINGS)] = ()

    def event(self) -> RunnerDone:
        """What is told of it."""
        facts = {"class": self.class_, **self.versions}
        warnings = tuple(
            JobWarning(each.code, printable(each.message, MAX_WARNING_CHARS), each.parameter) for each in self.warnings
        )
        return RunnerDone(self.timings_s, self.model_digest, facts, warnings)


@dataclass(frozen=True, slots=True)
class _Failure:
    class_: Annotated[Text, Field(alias="class")]
    message: Annotated[str, Field(strict=True)]
    code: Text | None = None


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A later runner may say more."""


_KINDS = frozenset({"started", "progress", "preview", "output", "chunk", "output_end", "tick", "done", "error"})


def _kind(raw: Any) -> str | None:
    name = raw.get("event") if isinstance(raw, dict) else None
    if not isinstance(name, str):
        return None
    return name if name in _KINDS else "unknown"


_Line = Annotated[
    Annotated[_Started, Tag("started")]
    | Annotated[_Progress, Tag("progress")]
    | Annotated[_Preview, Tag("preview")]
    | Annotated[OutputBegin, Tag("output")]
    | Annotated[_Chunk, Tag("chunk")]
    | Annotated[OutputEnd, Tag("output_end")]
    | Annotated[Tick, Tag("tick")]
    | Annotated[_Done, Tag("done")]
    | Annotated[_Failure, Tag("error")]
    | Annotated[_Unknown, Tag("unknown")],
    Discriminator(_kind),
]
_LINE: TypeAdapter[Any] = TypeAdapter(_Line)


class _Order:
    """What may come next in the stream of a job with so many outputs. Raises ValueError for what may not."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self._lines = self._ended = 0
        self._size: int | None = None
        """Bytes of the output that is open."""
        self._started = False

    def line(self) -> None:
        """Another line, of whatever kind."""
        self._lines += 1
        _require(self._lines <= MAX_LINES, f"more than {MAX_LINES} lines")

    def start(self) -> None:
        """`started`, which comes once."""
        _require(not self._started, "started twice")
        self._started = True

    def work(self) -> None:
        """A word of work."""
        _require(self._started, "works before it has started")

    def begin(self, index: int) -> None:
        """The next output."""
        self.work()
        _require(self._size is None, "an output begins within another")
        _require(index == self._ended < self._outputs, "an output that is not due")
        self._size = 0

    def add(self, size: int) -> None:
        """Bytes of the open output."""
        _require(self._size is not None, "bytes of no output")
        self._size = (self._size or 0) + size

    def end(self, end: OutputEnd) -> None:
        """The open output's end."""
        _require(self._size is not None and end.index == self._ended, "the end of an output that is not open")
        _require(end.size == self._size, "an output of another size than it has")
        self._size, self._ended = None, self._ended + 1

    def finish(self) -> None:
        """The job's end, all delivered."""
        self.work()
        _require(self._ended == self._outputs, "done without all of its outputs")


def _require(so: bool, otherwise: str) -> None:
    if not so:
        raise ValueError(otherwise)


class EventReader:
    """Makes events of a job's stream, in whatever pieces it comes, without waiting for anything.

    A chunk's bytes are handed on as they come, in as many chunks as there are pieces: they are never put together.
    `outputs`: how many the job asks for. `fault`: how the runner broke the contract; nothing is read after that.
    """

    def __init__(self, outputs: int = 1) -> None:
        self.ended = False
        self.fault = ""
        self._order = _Order(outputs)
        self._piece = b""
        self._at = 0
        self._owed = 0
        self._preview: Preview | None = None
        """What is known of a preview whose bytes have not come."""

    def feed(self, piece: bytes) -> None:
        """The next piece of the stream."""
        self._piece = self._piece[self._at :] + piece if self._at < len(self._piece) else piece
        self._at = 0

    def next(self) -> RunnerEvent | None:
        """The next event; None when it needs more of the stream.

        Raises the job's failure, which ends the stream, and NodeError with the code PROTOCOL for a fault.
        """
        if self.fault:
            return None
        try:
            return self._next()
        except ValidationError as error:
            self.fault = f"the runner's stream: {first_fault(error)}"
        except ValueError as error:
            self.fault = f"the runner's stream: {error}"
        raise NodeError(self.fault, code=PROTOCOL)

    def _next(self) -> RunnerEvent | None:
        while not self.ended and self._at < len(self._piece):
            if self._owed:
                return self._bytes()
            if (end := self._piece.find(b"\n", self._at)) < 0:
                _require(len(self._piece) - self._at <= MAX_LINE_BYTES, "a line without an end")
                return None
            line, self._at = self._piece[self._at : end], end + 1
            self._order.line()
            if event := self._event(_LINE.validate_json(line)):
                return event
        return None

    def _bytes(self) -> Chunk | Preview | None:
        data = self._piece[self._at : self._at + self._owed]
        if self._preview and len(data) < self._owed:
            return None  # it is small, and told whole
        self._at += len(data)
        self._owed -= len(data)
        if self._preview is None:
            return Chunk(data)
        preview, self._preview = replace(self._preview, data=data), None
        return preview

    def _event(self, line: Any) -> RunnerEvent | None:
        """The event of a line; None for one that announces bytes, and for an unknown one."""
        order = self._order
        match line:
            case _Progress():
                order.work()
                return Progress(line.stage, line.step, line.total)
            case _Chunk():
                order.add(line.size)
                self._owed = line.size
            case _Preview():
                order.work()
                self._owed = line.size
                self._preview = Preview(b"", line.index, line.step, line.total)
            case Tick():
                return line
            case _:
                return self._milestone(line)
        return None

    def _milestone(self, line: Any) -> RunnerEvent | None:
        """What comes once, or once an output."""
        order = self._order
        match line:
            case _Started():
                order.start()
                return RunnerStarted(line.work)
            case OutputBegin():
                order.begin(line.index)
                return line
            case OutputEnd():
                order.end(line)
                return line
            case _Done():
                order.finish()
                self.ended = True
                return line.event()
            case _Failure():
                self.ended = True
                raise from_class(line.class_, line.message, code=line.code or "failed")
        return None

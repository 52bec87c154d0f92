"""What a runner says of a job, and how its stream is read: JSON lines, of which some have raw bytes behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import from_json

from reelnet.errors import NodeError, from_class
from reelnet.jobs import MAX_PREVIEW_BYTES, Chunk, Preview, Progress, Started

MAX_LINE_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
"""Longest line and largest chunk of a runner's stream."""
MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class OutputBegin:
    """An output's bytes follow as chunks."""

    index: int
    media_type: str
    seed: int
    nsfw: bool | None


@dataclass(frozen=True, slots=True)
class OutputEnd:
    """An output is complete: its size in bytes and sha256 as the runner computed them."""

    index: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing new: `idle_s` since the last real progress."""

    idle_s: float


@dataclass(frozen=True, slots=True)
class RunnerDone:
    """The job is done."""

    timings_s: Mapping[str, float]
    model_digest: str
    facts: Mapping[str, str]


RunnerEvent = Started | Progress | Preview | OutputBegin | Chunk | OutputEnd | Tick | RunnerDone


class EventReader:
    """Makes events of a stream, in whatever pieces it comes, without waiting for anything.

    A chunk's bytes are handed on as they come, in as many chunks as there are pieces: they are never put together.
    """

    def __init__(self) -> None:
        self.ended = False
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

        Raises the job's failure, which ends the stream, and NodeError for what cannot be read.
        """
        try:
            while not self.ended and self._at < len(self._piece):
                if self._owed:
                    return self._bytes()
                if (end := self._piece.find(b"\n", self._at)) < 0:
                    self._check_length()
                    return None
                line, self._at = self._piece[self._at : end], end + 1
                if event := self._event(from_json(line)):
                    return event
        except (ValueError, KeyError, TypeError) as error:
            raise NodeError(f"the runner sent something unreadable ({type(error).__name__})", code="protocol") from None
        return None

    def _check_length(self) -> None:
        if len(self._piece) - self._at > MAX_LINE_BYTES:
            raise ValueError("the line is too long")

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

    def _event(self, raw: Any) -> RunnerEvent | None:
        """The event of a line; None for one that announces bytes."""
        match raw["event"]:
            case "chunk":
                self._owed = _number(raw, "size", MAX_CHUNK_BYTES)
            case "preview":
                self._owed = _number(raw, "size", MAX_PREVIEW_BYTES)
                index, step, total = (_number(raw, name, MAX_COUNT) for name in ("index", "step", "total"))
                self._preview = Preview(b"", index, step, total)
            case "started":
                return Started()
            case "progress":
                return Progress(str(raw["stage"]), int(raw["step"]), int(raw["total"]))
            case "output":
                nsfw = raw["nsfw"]
                looked = None if nsfw is None else bool(nsfw)
                return OutputBegin(int(raw["index"]), str(raw["media_type"]), int(raw["seed"]), looked)
            case "output_end":
                return OutputEnd(int(raw["index"]), int(raw["size"]), str(raw["sha256"]))
            case "tick":
                return Tick(float(raw["idle_s"]))
            case "done":
                self.ended = True
                return _done(raw)
            case "error":
                self.ended = True
                raise from_class(str(raw["class"]), str(raw["message"]), code=str(raw.get("code") or "failed"))
        return None  # a later runner may say more


def _done(raw: dict[str, Any]) -> RunnerDone:
    timings = {str(k): float(v) for k, v in raw["timings_s"].items()}
    facts = {"class": str(raw.get("class", "")), **{str(k): str(v) for k, v in raw.get("versions", {}).items()}}
    return RunnerDone(timings, str(raw["model_digest"]), facts)


def _number(raw: dict[str, Any], name: str, most: int) -> int:
    """A number that is not negative; of what earlier runners did not tell it is 0."""
    number = int(raw[name] if name == "size" else raw.get(name, 0))
    if not 0 <= number <= most:
        raise ValueError(f"{name} is not within 0 and {most}")
    return number

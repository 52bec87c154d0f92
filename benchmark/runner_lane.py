"""A runner, measured without a node: its HTTP contract over its Unix socket (docs/runner-contract.md)."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
from pydantic_core import from_json

from benchmark.arrival import Arrival
from benchmark.client import Offer
from benchmark.lane import Delivered, Order
from reelnet.errors import NodeError, ReelnetError, StartError, TransientError, from_class, printable
from reelnet.inspection import HEAD_BYTES, sniff

JOB_S = 900.0
SILENCE_S = 30.0
"""A runner says something at least every 5 s while a job runs."""
FIND_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 1 << 16
MAX_PIECE_BYTES = 1 << 18
"""The contract's bound of a chunk."""
BASE = "http://runner"


class RunnerLane:
    """One runner behind its socket. It has one permit: one job at a time."""

    def __init__(self, name: str, http: httpx.AsyncClient) -> None:
        self.name = name
        self._http = http

    async def run(self, order: Order) -> Delivered:
        """The job. Raises the runner's refusal or failure; TransientError when it cannot be reached."""
        arrival = Arrival(order.paths)
        began = perf_counter()
        try:
            async with self._http.stream("POST", "/jobs", files=_form(order)) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _refusal(answer.status_code, await answer.aread())
                done = await _follow(_Lines(answer.aiter_raw()), arrival)
        except httpx.HTTPError as error:
            raise TransientError(f"the runner is gone: {type(error).__name__}", code="runner_gone") from None
        finally:
            arrival.close()
        total_s = perf_counter() - began
        return Delivered(self.name, total_s, arrival.whole(), None, _timings(done))


@asynccontextmanager
async def runner_lane(socket: Path) -> AsyncIterator[tuple[RunnerLane, dict[Offer, str]]]:
    """The lane, and what the runner serves, with the schemas. Raises StartError when it does not answer."""
    timeout = httpx.Timeout(SILENCE_S, connect=FIND_TIMEOUT_S)
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(base_url=BASE, transport=transport, timeout=timeout, trust_env=False) as http:
        yield RunnerLane(str(socket), http), await _serves(http, socket)


async def _serves(http: httpx.AsyncClient, socket: Path) -> dict[Offer, str]:
    try:
        answer = await http.get("/info", timeout=FIND_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise StartError(f"--runner {socket}: no runner answers there ({type(error).__name__})") from None
    if answer.status_code != httpx.codes.OK:
        raise StartError(f"--runner {socket}: not ready (HTTP {answer.status_code}); its /health says why")
    try:
        body = answer.json()
        model = printable(str(body["model"]), 256)
        return {(str(row["pipeline"]), model): str(row["schema"]) for row in body["pipelines"]}
    except (ValueError, KeyError, TypeError):
        raise StartError(f"--runner {socket}: what answers there is no runner") from None


async def _follow(lines: _Lines, arrival: Arrival) -> Mapping[str, Any]:
    """The `done` line, once everything before it has come. Raises the job's failure."""
    while True:
        event = await lines.next()
        try:
            match event.get("event"):
                case "output":
                    arrival.begin(int(event["index"]), str(event["media_type"]))
                case "chunk":
                    arrival.write(await lines.exactly(int(event["size"])))
                case "preview":
                    await lines.exactly(int(event["size"]))
                case "output_end":
                    arrival.end(int(event["size"]), str(event["sha256"]))
                case "done":
                    return event
                case "error":
                    code = str(event.get("code") or "failed")
                    raise from_class(str(event["class"]), str(event["message"]), code=code)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise NodeError("the runner's stream has another form", code="protocol") from None


class _Lines:
    """A stream of JSON lines with raw bytes between them."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = bytearray()

    async def next(self) -> dict[str, Any]:
        """The next line. Raises NodeError when it is no JSON object, or too long."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise NodeError("the runner's line has no end", code="protocol")
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            event = from_json(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise NodeError("the runner's stream has another form", code="protocol")
        return event

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises NodeError for more than the contract allows."""
        if not 0 <= size <= MAX_PIECE_BYTES:
            raise NodeError("the runner's chunk is too large", code="protocol")
        while len(self._buffer) < size:
            await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _more(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise NodeError("the runner ended the stream before the job was done", code="cut_off")
        self._buffer += piece


def _form(order: Order) -> dict[str, tuple[str | None, bytes, str]]:
    """The multipart fields: the job first, as JSON, then its inputs."""
    head = {
        "job_id": f"bench-{secrets.token_hex(8)}",
        "attempt": 1,
        "pipeline": order.spec.pipeline,
        "params": order.params.model_dump(mode="json"),
        "deadline_s": JOB_S,
    }
    form: dict[str, tuple[str | None, bytes, str]] = {"job": (None, json.dumps(head).encode(), "application/json")}
    for name, (file_name, data) in order.spec.files.items():
        form[name] = (file_name, data, sniff(data[:HEAD_BYTES]) or "")
    return form


def _timings(done: Mapping[str, Any]) -> dict[str, float]:
    try:
        return {printable(str(name), 64): float(seconds) for name, seconds in done["timings_s"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise NodeError("the runner's stream has another form", code="protocol") from None


def _refusal(status: int, body: bytes) -> ReelnetError:
    """What a status other than 200 means; the contract's table is in docs/runner-contract.md."""
    if status in (409, 503):
        return from_class("busy", f"the runner takes no job now (HTTP {status})", code=f"runner_{status}")
    try:
        detail = from_json(body)["detail"]
        message = "; ".join(str(row["msg"]) for row in (detail if isinstance(detail, list) else [detail]))
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}"
    return from_class("user" if status < 500 else "node", message, code=f"runner_{status}")

"""The contract floor says what the product says: the messages of one job at each hop, recorded in the same way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message as ProtoMessage
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmark.floor import gateway, node, runner
from benchmark.floor.messages import PIPELINE, payload, request, script
from reelnet.v1 import types_pb2 as pb
from tests.fakes import pool as fake_pool
from tests.fakes.pool import PATIENCE_S, InProcessEngine, PoolPlan, running_pool, until

TOLERANCE_BYTES = 24
"""By so much sizes may differ: timings, ids and deadlines are written with more or fewer digits."""
HOLD_S = 1.0
"""As long is everything held that may be held, so that what goes together does not depend on this machine's speed."""
BEFORE_JOBS = ("Describe", "Watch", "Check", "ServerReflectionInfo")
"""Calls that are a connection's and no job's."""


@dataclass(frozen=True)
class Said:
    """One message: what it is, the names of all its fields, and its bytes."""

    what: str
    fields: tuple[str, ...]
    size: int


@dataclass
class Record:
    """Everything that was said of one job, by hop."""

    app: list[Said] = field(default_factory=list)
    node: list[Said] = field(default_factory=list)
    runner: list[Said] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the last word, the acknowledgement, was heard."""
        return any("acknowledge" in said.what for said in self.node)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Listens to every gRPC server and runner that is started in this test."""
    heard = Record()
    serve = grpc.aio.server

    def server(*args: Any, **options: Any) -> Any:
        return serve(*args, **options, interceptors=[Tap(heard)])

    monkeypatch.setattr(grpc.aio, "server", server)
    for module, name in ((fake_pool, "build"), (runner, "make_app")):
        monkeypatch.setattr(module, name, tapped(getattr(module, name), heard))
    monkeypatch.setattr("runner.stream.HOLD_S", HOLD_S)
    return heard


@pytest.mark.parametrize("size", [1_000, 1_000_000])
async def test_the_floor_says_what_the_product_says(size: int, tmp_path: Path, record: Record) -> None:
    """At each hop of a job: the same messages with the same fields, in the same order, of the same sizes."""
    async with product(tmp_path / "product", size) as http:
        said = await of_one_job(http, record, size)
    async with floor(tmp_path / "floor", size) as http:
        repeated = await of_one_job(http, record, size)
    for hop in ("app", "node", "runner"):
        assert differences(getattr(said, hop), getattr(repeated, hop)) == [], f"product and floor differ: {hop}"


@asynccontextmanager
async def product(home: Path, size: int) -> AsyncIterator[httpx.AsyncClient]:
    """The product as the overhead benchmark has it."""
    offers = {PIPELINE: {"price": {"mpix_step": "0.0000045"}}}
    backend = {"synthetic": {"unit_s": 0, "output_bytes": size}}
    models = [{"model": "synthetic/bars", "pipelines": offers, "backend": backend}]
    limits = {"hold_s": HOLD_S, "progress_s": HOLD_S}
    async with running_pool(PoolPlan(home, [InProcessEngine()], models, node={"limits": limits})) as pool:
        yield pool.http


@asynccontextmanager
async def floor(home: Path, size: int) -> AsyncIterator[httpx.AsyncClient]:
    """The contract floor."""
    home.mkdir()
    said, socket = script(payload(size)), home / runner.SOCKET
    async with (
        runner.serve(said, socket),
        node.serve(said, socket) as node_port,
        gateway.serve(said, node_port) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http,
    ):
        yield http


async def of_one_job(http: httpx.AsyncClient, record: Record, size: int) -> Record:
    """What is said at each hop while an app asks for a job and fetches its result."""
    record.app, record.node, record.runner = [], [], []
    asked = await http.post(f"/{PIPELINE}", json=request(size))
    fetched = await http.get(asked.json()["images"][0]["url"])
    for answer in (asked, fetched):
        path = answer.request.url.path
        record.app.append(Said(f"{answer.request.method} {path[:6]}", (), len(answer.request.content)))
        names = tuple(sorted(answer.headers))
        record.app.append(Said(f"{answer.status_code} {answer.headers['content-type']}", names, len(answer.content)))
    record.app.append(Said("answer", tuple(names_in(asked.json())), len(asked.content)))
    await until(lambda: record.complete, "the acknowledgement")
    return Record(list(record.app), list(record.node), list(record.runner))


def differences(expected: list[Said], found: list[Said]) -> list[str]:
    """What is missing, too much, or not alike."""
    if [said.what for said in expected] != [said.what for said in found]:
        return [f"instead of {[said.what for said in expected]}", f"said {[said.what for said in found]}"]
    pairs = list(zip(expected, found, strict=True))
    fields = [f"{a.what} has {b.fields} instead of {a.fields}" for a, b in pairs if a.fields != b.fields]
    sizes = [f"{a.what}: {b.size} for {a.size} bytes" for a, b in pairs if abs(a.size - b.size) > TOLERANCE_BYTES]
    return fields + sizes


class Tap(grpc.aio.ServerInterceptor):
    """Records the bytes of every message of a gRPC server."""

    def __init__(self, record: Record) -> None:
        self._record = record

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.rpartition("/")[2]
        if method in BEFORE_JOBS:
            return handler
        read, write = handler.request_deserializer or bytes, handler.response_serializer or bytes
        return handler._replace(
            request_deserializer=lambda data: self._heard(f"{method} →", data, read(data)),
            response_serializer=lambda message: self._told(f"{method} ←", write(message), message),
        )

    def _heard(self, where: str, data: bytes, message: Any) -> Any:
        self._add(where, data, message)
        return message

    def _told(self, where: str, data: bytes, message: Any) -> bytes:
        self._add(where, data, message)
        return data

    def _add(self, where: str, data: bytes, message: Any) -> None:
        message = pb.Frame.FromString(message) if isinstance(message, bytes) else message
        self._record.node.append(Said(f"{where} {kinds_of(message)}", tuple(names_of(message)), len(data)))


def kinds_of(message: ProtoMessage) -> list[str]:
    """The kinds of a message's frames."""
    if not isinstance(message, pb.Frame):
        return [type(message).__name__]
    frames = message.batch.frames if message.WhichOneof("body") == "batch" else [message]
    return [str(frame.WhichOneof("body")) for frame in frames]


def tapped(make: Callable[..., Any], record: Record) -> Callable[..., Any]:
    """Makes applications whose jobs are recorded."""
    return lambda *args: Tapped(make(*args), record)


class Tapped:
    """An ASGI application behind one that records its jobs: health and metrics are no job's."""

    def __init__(self, app: Any, record: Record) -> None:
        self._app: ASGIApp = app
        self._record = record
        self.state = getattr(app, "state", None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        asked, body = bytearray(), bytearray()

        async def heard() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                order = tuple(names_in(json.loads(asked or b"null")))
                what = f"{scope['method']} {scope['path']} {headers.get(b'content-type')}"
                names = tuple(sorted(name.decode() for name, _ in message["headers"]))
                self._record.runner += [Said(what, order, len(asked)), Said(str(message["status"]), names, 0)]
            else:
                body.extend(message["body"])
                self._record.runner.append(Said("piece", (), len(message["body"])))
            await send(message)

        await self._app(scope, heard, told)
        self._record.runner += lines(bytes(body))


def lines(stream: bytes) -> Iterator[Said]:
    """The events of a runner's stream; a chunk's bytes are its own."""
    at = 0
    while at < len(stream):
        end = stream.index(b"\n", at)
        event = json.loads(stream[at:end])
        size = event["size"] if event["event"] == "chunk" else 0
        yield Said(f"line {event['event']}", tuple(names_in(event)), end - at + size)
        at = end + 1 + size


def names_in(value: Any, at: str = "") -> list[str]:
    """The names of all fields of a JSON value."""
    if isinstance(value, dict):
        return sorted(name for key, part in value.items() for name in [f"{at}.{key}", *names_in(part, f"{at}.{key}")])
    return [name for part in value for name in names_in(part, at)] if isinstance(value, list) else []


def names_of(message: ProtoMessage, at: str = "") -> list[str]:
    """The names of all set fields of a protobuf message, of a signed ticket's too."""
    names = []
    for descriptor, value in message.ListFields():
        here = f"{at}.{descriptor.name}"
        names.append(here)
        if isinstance(message, pb.SignedBytes) and descriptor.name == "payload":
            names += names_of(pb.Ticket.FromString(value), here)
        elif descriptor.message_type and descriptor.message_type.GetOptions().map_entry:
            names += [f"{here}.{key}" for key in sorted(value)]
        elif descriptor.message_type:
            parts = [value] if isinstance(value, ProtoMessage) else value
            names += [name for part in parts for name in names_of(part, here)]
    return names

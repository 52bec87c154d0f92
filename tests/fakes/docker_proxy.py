"""A filter before a Docker engine: passes the few calls that a node needs, refuses the rest, writes them down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = r"[^/?]+"
ALLOWED = (
    ("GET", "/version"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/images/{name}/json"),
    ("POST", "/images/create"),
    ("GET", "/containers/json"),
    ("POST", "/containers/create"),
    ("GET", "/containers/{id}/json"),
    ("GET", "/containers/{id}/logs"),
    ("POST", "/containers/{id}/start"),
    ("POST", "/containers/{id}/kill"),
    ("DELETE", "/containers/{id}"),
)
"""All that the Docker engine's adapter asks for; SECURITY.md has the same list."""
_PATTERNS = [
    (method, re.compile(r"(/v\d+\.\d+)?" + re.sub(r"\{\w+\}", lambda part: ".+" if "name" in part[0] else NAME, path)))
    for method, path in ALLOWED
]
_REFUSAL = json.dumps({"message": "the filter refuses this call"}).encode()


@dataclass(frozen=True)
class Call:
    """One request: its path without the version and the query, and its body."""

    method: str
    path: str
    body: Any = None


@dataclass
class DockerProxy:
    """What went through, and what did not."""

    socket: Path
    calls: list[Call] = field(default_factory=list)
    refused: list[Call] = field(default_factory=list)

    def bodies(self, path: str) -> list[Any]:
        """What was posted there."""
        return [call.body for call in self.calls if call.method == "POST" and call.path == path]


@contextlib.asynccontextmanager
async def docker_proxy(engine: Path, socket: Path) -> AsyncIterator[DockerProxy]:
    """Listens on `socket` for the engine that answers at `engine`."""
    proxy = DockerProxy(socket)
    open_calls: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_calls.add(task)
        try:
            await _serve(proxy, engine, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two sides left
        finally:
            open_calls.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(serve, str(socket))
    try:
        yield proxy
    finally:
        server.close()
        for task in list(open_calls):
            task.cancel()
        await asyncio.gather(*open_calls, return_exceptions=True)


async def _serve(proxy: DockerProxy, engine: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One call for each connection: the engine is told to close, which tells the client."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *headers = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    length = next((int(h.split(":")[1]) for h in headers if h.lower().startswith("content-length:")), 0)
    body = await reader.readexactly(length)
    call = Call(method, re.sub(r"^/v\d+\.\d+", "", target.partition("?")[0]), json.loads(body) if body else None)
    if not any(method == allowed and pattern.fullmatch(target.partition("?")[0]) for allowed, pattern in _PATTERNS):
        proxy.refused.append(call)
        writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(_REFUSAL) + _REFUSAL)
        await writer.drain()
        return
    proxy.calls.append(call)
    kept = [header for header in headers if not header.lower().startswith("connection:")]
    request = "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1") + body
    await _pass_on(request, engine, reader, writer)


async def _pass_on(request: bytes, engine: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(engine))
    try:
        upstream_writer.write(request)
        answer = asyncio.create_task(_pump(upstream_reader, writer))
        left = asyncio.create_task(reader.read())
        await asyncio.wait([answer, left], return_when=asyncio.FIRST_COMPLETED)
        for task in (answer, left):
            task.cancel()
        await asyncio.gather(answer, left, return_exceptions=True)
    finally:
        upstream_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()

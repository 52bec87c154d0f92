"""The floor's runner: bare ASGI over a Unix socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmark.floor.asgi import BYTES, NDJSON, read_body, stream
from benchmark.floor.messages import Script
from reelnet.http_server import serve_on

SOCKET = "runner.sock"
"""The socket's name in the folder that the floors share."""


def make_app(script: Script) -> ASGIApp:
    """`/jobs` streams a job's events in pieces as the product does; `/unary` answers with the bare result."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] == "/jobs":
            await stream(send, script.runner_pieces(), [NDJSON])
        else:
            await stream(send, [script.payload], [BYTES])

    return app


@asynccontextmanager
async def serve(script: Script, path: Path) -> AsyncIterator[None]:
    """Serves on the socket `path` for the length of the block."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        async with serve_on(make_app(script), sock, "floor:runner"):
            yield

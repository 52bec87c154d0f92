"""An ASGI application served inside a component's own event loop, on a socket that is bound first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from reelnet.errors import StartError
from reelnet.http_protocol import bounded_protocol
from reelnet.settings import HttpLimits, HttpListener, Listener

SHUTDOWN_GRACE_S = 5
DEFAULT_LIMITS = HttpLimits()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the component decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(listener: Listener, what: str) -> socket.socket:
    """A bound TCP socket. Raises StartError that names the key to change when the port is taken."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((listener.host, listener.port))
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on {listener.host}:{listener.port}: {error.strerror}; free it, or set `{what}.port`"
        ) from None
    return sock


@asynccontextmanager
async def serve_http(app: Any, listener: Listener, what: str) -> AsyncIterator[int]:
    """Serves `app` for the length of the block; yields the port. `what` is the listener's key in the configuration."""
    sock = bind(listener, what)
    port = int(sock.getsockname()[1])
    limits = listener.limits if isinstance(listener, HttpListener) else DEFAULT_LIMITS
    async with serve_on(app, sock, f"http:{what}", limits):
        yield port


@asynccontextmanager
async def serve_on(
    app: Any, sock: socket.socket, name: str, limits: HttpLimits = DEFAULT_LIMITS
) -> AsyncIterator[None]:
    """Serves `app` on a bound socket for the length of the block, and closes it. `name` is the task's."""
    config = uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        server_header=False,
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]), name=name)
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
        sock.close()

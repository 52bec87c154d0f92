"""The Docker engine's answers that go on: events, and the download of an image.

They are read in the event loop, not by the SDK in a thread, so that leaving one lets go of it at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import structlog
from pydantic_core import from_json

from orchestrator.docker_container import NODE_LABEL
from orchestrator.docker_errors import explained
from orchestrator.engine import EngineError

EVENTS = ("die", "oom", "destroy")
RETRY_S, RETRY_MAX_S = 0.1, 2.0
CONNECT_S = 10.0
LINE_BYTES = 1024**2
UNREACHABLE = (aiohttp.ClientError, OSError, ValueError)
"""What reading from an engine raises that went away; ValueError is a line without an end."""
log = structlog.get_logger()


class EventWatch:
    """Tells who waits that something may have happened to one of a node's containers; looking is up to them.

    `losses` counts how often an engine that was there went away. Each new connection is news too, for what happened
    meanwhile.
    """

    def __init__(self, socket: Path, node_id: str) -> None:
        self._socket = socket
        self._filters = json.dumps({"label": [f"{NODE_LABEL}={node_id}"], "type": ["container"], "event": list(EVENTS)})
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.losses = 0

    def start(self) -> None:
        """Begins to watch, if it has not begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="docker-events")

    async def close(self) -> None:
        """Ends the watch. Raises what broke it, if something did."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    def news(self) -> asyncio.Event:
        """Set at the next news. Take it before looking, so that nothing is missed in between.

        Raises what broke the watch, if something did.
        """
        if self._task is not None and self._task.done():
            self._task.result()
        return self._news

    async def _run(self) -> None:
        pause = RETRY_S
        while True:
            try:
                async with _answer(self._socket, "events", ("GET", "/events"), {"filters": self._filters}) as lines:
                    pause = RETRY_S
                    await self._follow(lines)
            except (*UNREACHABLE, EngineError) as error:
                log.debug("no events of Docker's", reason=str(error) or type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(RETRY_MAX_S, 2 * pause)

    async def _follow(self, lines: aiohttp.StreamReader) -> None:
        self._tell()
        try:
            async for _ in lines:
                self._tell()
        finally:
            self.losses += 1
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def pull(socket: Path, repository: str, digest: str, headers: Mapping[str, str]) -> None:
    """Downloads an image by its digest. Raises EngineError with the engine's words, or what UNREACHABLE lists."""
    asked = {"fromImage": repository, "tag": digest}
    doing = f"image {repository}@{digest} cannot be downloaded"
    async with _answer(socket, doing, ("POST", "/images/create"), asked, headers) as lines:
        async for line in lines:
            if text := _told(line, "error"):
                raise explained(doing, HTTPStatus.OK, text)


@asynccontextmanager
async def _answer(
    socket: Path, doing: str, call: tuple[str, str], query: Mapping[str, str], headers: Mapping[str, str] | None = None
) -> AsyncIterator[aiohttp.StreamReader]:
    """The lines of a streamed answer. Raises EngineError for a refusal."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    connector = aiohttp.UnixConnector(str(socket))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=LINE_BYTES) as session,
        session.request(call[0], f"http://docker{call[1]}", params=query, headers=headers) as response,
    ):
        if response.status != HTTPStatus.OK:
            text = _told(await response.content.read(LINE_BYTES), "message")
            raise explained(doing, response.status, text or response.reason or "")
        yield response.content


def _told(line: bytes, key: str) -> str:
    try:
        message = from_json(line)
    except ValueError:
        return ""
    return str(message.get(key, "")) if isinstance(message, dict) else ""

"""What an operator can ask of a running broadcaster, as routes of its control socket.

`GET /status`, `POST /drain`, `POST /resume` answer with the status; `POST /reload` and `POST /keys` (the keys alone)
with what changed; `GET /logs?lines=N` with the newest lines of its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from broadcaster.operator.status import BroadcasterStatus, to_document
from reelnet.operating.control_server import LOG_CHARS, Query, Routes, lines_asked

log = structlog.get_logger()


class Controlled(Protocol):
    """What an operator can ask of a broadcaster."""

    def status(self) -> BroadcasterStatus:
        """The broadcaster as it is now, from memory."""

    def drain(self) -> None:
        """Takes no new job from now on; those that are here go on. Safe to repeat."""

    async def resume(self) -> None:
        """Takes jobs again. Safe to repeat. Raises StartError when a shared port was taken meanwhile."""

    async def reload(self) -> tuple[str, ...]:
        """Reads the configuration again; returns what changed, a line each. After a ConfigError nothing is changed."""

    async def reload_keys(self) -> tuple[str, ...]:
        """Reads the file of keys again, and nothing else; as `reload`."""

    def logs(self, lines: int) -> str:
        """The newest lines of the log."""


def control_routes(controlled: Controlled) -> Routes:
    """The routes over one broadcaster."""

    async def status(_: Query) -> Mapping[str, Any]:
        return to_document(controlled.status())

    async def drain(query: Query) -> Mapping[str, Any]:
        controlled.drain()
        log.info("drain was asked for")
        return await status(query)

    async def resume(query: Query) -> Mapping[str, Any]:
        await controlled.resume()
        log.info("resume was asked for")
        return await status(query)

    async def reload(_: Query) -> Mapping[str, Any]:
        changed = await controlled.reload()
        log.info("configuration reloaded", changed=changed)
        return {"changed": changed}

    async def keys(_: Query) -> Mapping[str, Any]:
        changed = await controlled.reload_keys()
        log.info("keys reloaded", changed=changed)
        return {"changed": changed}

    async def logs(query: Query) -> Mapping[str, Any]:
        return {"text": controlled.logs(lines_asked(query))[-LOG_CHARS:]}

    return {
        ("GET", "/status"): status,
        ("GET", "/logs"): logs,
        ("POST", "/drain"): drain,
        ("POST", "/resume"): resume,
        ("POST", "/reload"): reload,
        ("POST", "/keys"): keys,
    }

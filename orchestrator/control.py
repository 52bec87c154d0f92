"""What an operator can ask of a running node, as routes of its control socket.

`GET /status`, `POST /drain`, `POST /resume` answer with the node's status; `POST /reload` with what changed;
`GET /logs?slot=S&lines=N` with a runner's last lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from orchestrator.status import NodeStatus, to_document
from reelnet.errors import printable
from reelnet.operating.control_server import LOG_CHARS, Query, RequestError, Routes, lines_asked
from reelnet.pipelines import did_you_mean

log = structlog.get_logger()


class Controlled(Protocol):
    """What an operator can ask of a node."""

    def status(self) -> NodeStatus:
        """The node as it is now, from memory."""

    def drain(self) -> None:
        """Takes no new job from now on; those that are here go on. Safe to repeat."""

    def resume(self) -> None:
        """Takes jobs again. Safe to repeat."""

    async def reload(self) -> tuple[str, ...]:
        """Reads the configuration again; returns what changed, a line each. After a ConfigError nothing is changed."""

    async def logs(self, slot: str, lines: int) -> str:
        """The last lines of a slot's runner. Raises StartError when its engine cannot give them."""


def control_routes(controlled: Controlled) -> Routes:
    """The routes over one node."""
    routes = _Routes(controlled)
    return {
        ("GET", "/status"): routes.status,
        ("GET", "/logs"): routes.logs,
        ("POST", "/drain"): routes.drain,
        ("POST", "/resume"): routes.resume,
        ("POST", "/reload"): routes.reload,
    }


class _Routes:
    """The requests, each a call of the node."""

    def __init__(self, controlled: Controlled) -> None:
        self._controlled = controlled
        self._reloading = asyncio.Lock()

    async def status(self, _: Query) -> Mapping[str, Any]:
        return to_document(self._controlled.status())

    async def drain(self, query: Query) -> Mapping[str, Any]:
        self._controlled.drain()
        log.info("drain was asked for")
        return await self.status(query)

    async def resume(self, query: Query) -> Mapping[str, Any]:
        self._controlled.resume()
        log.info("resume was asked for")
        return await self.status(query)

    async def reload(self, _: Query) -> Mapping[str, Any]:
        async with self._reloading:
            changed = await self._controlled.reload()
        log.info("configuration reloaded", changed=changed)
        return {"changed": changed}

    async def logs(self, query: Query) -> Mapping[str, Any]:
        slots = {slot.slot: slot for slot in self._controlled.status().slots}
        slot = query.get("slot", "")
        if slot not in slots:
            raise RequestError(404, "slot", f"there is no slot {printable(slot, 80)!r}{did_you_mean(slot, slots)}")
        text = await self._controlled.logs(slot, lines_asked(query))
        return {"text": text[-LOG_CHARS:]}

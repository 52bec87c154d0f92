"""The operator's side of a broadcaster: what `status`, `drain`, `resume`, `reload`, `keys` and `logs` do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from broadcaster.broadcaster_metrics import BroadcasterMetrics
from broadcaster.disk import Disks
from broadcaster.gateway import Gateway
from broadcaster.http_api import Guards
from broadcaster.intake import Intake
from broadcaster.journal import Journal
from broadcaster.keys import Keys
from broadcaster.media import MediaStore
from broadcaster.operator.changes import LIVE, changes, key_changes
from broadcaster.operator.status import BroadcasterStatus, PoolNode
from broadcaster.registry import NodeRecord, Registry
from broadcaster.settings import BroadcasterSettings
from reelnet.client import Address
from reelnet.http_server import HttpServer
from reelnet.operating.changes import taken_over
from reelnet.telemetry import KeptLines

Reread = Callable[[], BroadcasterSettings]
"""Reads the configuration again. Raises ConfigError."""


@dataclass(frozen=True, slots=True)
class OperationParts:
    """What of a running broadcaster its operator sees and changes."""

    gateway: Gateway
    registry: Registry
    intake: Intake
    guards: Guards
    server: HttpServer
    media: MediaStore
    keys: Keys
    disks: Disks
    journal: Journal
    metrics: BroadcasterMetrics
    kept_log: KeptLines
    broadcaster_id: str
    url: str


class Operation:
    """One running broadcaster as its operator sees it."""

    def __init__(self, parts: OperationParts, settings: BroadcasterSettings, reread: Reread) -> None:
        self._p = parts
        self._settings = settings
        self._reread = reread
        self._began = time.monotonic()
        self._reloading = asyncio.Lock()

    def status(self) -> BroadcasterStatus:
        """The broadcaster as it is now, from memory."""
        p, now = self._p, time.monotonic()
        return BroadcasterStatus(
            broadcaster_id=p.broadcaster_id,
            url=p.url,
            version=version("reelnet"),
            draining=p.gateway.draining,
            since_s=now - self._began,
            jobs=p.gateway.running,
            problem=p.gateway.not_ready() or "",
            keys=len(p.keys.known()) if p.keys.asked else None,
            journal_backlog=p.journal.backlog,
            skew_warn_s=self._settings.limits.skew_s,
            nodes=tuple(_node(record, now) for record in p.registry.nodes()),
        )

    def drain(self) -> None:
        """Takes no new job from now on; those that are here go on. Leaves a shared port. Safe to repeat."""
        self._p.gateway.draining = True
        self._leave()

    async def resume(self) -> None:
        """Takes jobs again. Safe to repeat. Raises StartError when a shared port was taken meanwhile."""
        self._p.gateway.resume()
        if not self._p.gateway.draining:
            await self._p.server.come_back()

    async def stop(self) -> None:
        """Drains for good: returns when the jobs that run are done, or after `limits.drain_s`."""
        self._leave()
        await self._p.gateway.stop(self._settings.limits.drain_s)

    async def reload(self) -> tuple[str, ...]:
        """Reads the configuration again; returns what changed, a line each. After a ConfigError nothing is changed."""
        async with self._reloading:
            wanted = await asyncio.to_thread(self._reread)
            keys = await asyncio.to_thread(Keys.read, wanted.keys_file)
            told = (*changes(self._settings, wanted), *key_changes(self._p.keys, keys))
            self._apply(taken_over(self._settings, wanted, LIVE), keys)
            return told

    async def reload_keys(self) -> tuple[str, ...]:
        """Reads the file of keys again, and nothing else; as `reload`."""
        async with self._reloading:
            keys = await asyncio.to_thread(Keys.read, self._settings.keys_file)
            told = tuple(key_changes(self._p.keys, keys))
            self._p.keys.take_over(keys)
            self._p.metrics.reserve(keys=keys.names)
            return told

    def logs(self, lines: int) -> str:
        """The newest lines of the log."""
        return self._p.kept_log.text(lines)

    def _leave(self) -> None:
        """Another instance takes the connections, and is asked for the results too."""
        if self._p.server.shared:
            self._p.media.write_at_once()
            self._p.server.leave()

    def _apply(self, settings: BroadcasterSettings, keys: Keys) -> None:
        """Takes all of it over in one go. No job that is here is touched."""
        p, self._settings = self._p, settings
        p.keys.take_over(keys)
        p.guards.apply(settings.limits)
        p.gateway.apply(settings)
        p.intake.settings = settings
        p.disks.least_bytes = settings.limits.free_bytes
        p.metrics.reserve(settings.catalogue, keys.names)
        p.registry.apply([Address.parse(text) for text in settings.orchestrators])


def _node(record: NodeRecord, now: float) -> PoolNode:
    models = sorted({model for _, model in record.capabilities}) if record.up else []
    return PoolNode(
        node_id=record.node_id,
        address=record.address.target,
        state="up" if record.up else "refuses" if record.refuses else "down",
        reason=record.reason,
        since_s=max(0.0, now - record.since),
        skew_s=record.skew_s,
        jobs=record.own_in_flight,
        models=tuple(models),
    )

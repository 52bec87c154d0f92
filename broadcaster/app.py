"""The composition root: settings in, a running broadcaster out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from broadcaster.broadcaster_metrics import BroadcasterMetrics, CountedHttp, CountedInspector
from broadcaster.disk import Disks
from broadcaster.gateway import Gateway, GatewayParts
from broadcaster.http_api import HttpParts, make_app
from broadcaster.intake import Intake
from broadcaster.journal import Journal, Mode
from broadcaster.journal_schema import JOURNAL_FILE
from broadcaster.keys import Keys
from broadcaster.media import MediaStore
from broadcaster.operator.control import control_routes
from broadcaster.operator.operation import Operation, OperationParts, Reread
from broadcaster.recorder import Recorder
from broadcaster.registry import Registry
from broadcaster.scores import Scores
from broadcaster.settings import BroadcasterSettings
from reelnet.client import Address
from reelnet.database.opening import database_url
from reelnet.home import locked_instance
from reelnet.http_server import serve_api, serve_http
from reelnet.identity import Identity
from reelnet.lifecycle import ready_file
from reelnet.metrics import metrics_app, new_registry
from reelnet.operating.control_server import serve_control
from reelnet.telemetry import KeptLines

SWEEP_INTERVAL_S = 60.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunningBroadcaster:
    """Where a started broadcaster answers, and its parts for a look inside."""

    url: str
    metrics_port: int
    registry: Registry
    gateway: Gateway
    scores: Scores
    journal: Journal
    control: Operation


@dataclass(frozen=True, slots=True)
class Operated:
    """What an operator's commands need beside the broadcaster: how its configuration is read, and its newest log."""

    reread: Reread
    kept_log: KeptLines = field(default_factory=KeptLines)


async def serve(
    settings: BroadcasterSettings,
    stopping: asyncio.Event,
    *,
    started: Callable[[RunningBroadcaster], None] = lambda broadcaster: None,
    operated: Operated | None = None,
) -> None:
    """Runs a broadcaster until `stopping`, drains it, and leaves nothing behind. Raises ConfigError or StartError."""
    operated = operated or Operated(lambda: settings)
    with locked_instance("broadcaster", settings.name, settings.home) as folder:
        async with _running(settings, folder, operated) as running:
            log.info("broadcaster serves", url=running.url, nodes=len(settings.orchestrators))
            if not settings.orchestrators:
                log.warning("no nodes are configured: no job can be done; name them under `orchestrators`, and reload")
            started(running)
            await stopping.wait()
            await running.control.stop()
    log.info("broadcaster drained")


@asynccontextmanager
async def _running(
    settings: BroadcasterSettings, folder: Path, operated: Operated
) -> AsyncIterator[RunningBroadcaster]:
    keys = Keys.read(settings.keys_file)
    rng, scores = random.Random(), Scores()  # noqa: S311  (choice among nodes, not a secret)
    identity = Identity.load_or_create(folder / "identity.key")
    addresses = [Address.parse(a) for a in settings.orchestrators]
    registry = Registry(addresses, settings.rpc, scores, rng, identity.id)
    prometheus = new_registry("broadcaster")
    metrics = BroadcasterMetrics(prometheus, registry.nodes, settings.catalogue, keys.names)
    media = _media(settings, folder)
    await media.start()
    async with (
        Journal(database_url(settings.database, folder / JOURNAL_FILE), mode=Mode(settings.journal)) as journal,
        CountedInspector(settings.inspection, metrics) as inspector,
        _background(registry.run(), media.run(), _sweep(media, metrics)),
    ):
        metrics.watch_journal(journal)
        disks = Disks((media.folder, folder), settings.limits.free_bytes)
        gateway = Gateway(
            GatewayParts(
                settings=settings,
                identity=identity,
                registry=registry,
                scores=scores,
                media=media,
                disks=disks,
                inspector=inspector,
                recorder=Recorder(journal),
                metrics=metrics,
                rng=rng,
            )
        )
        intake = Intake(settings, registry, inspector, _scratch(folder))
        app, guards = make_app(
            HttpParts(
                gateway=gateway,
                intake=intake,
                registry=registry,
                media=media,
                keys=keys,
                limits=settings.limits,
                cors_origins=settings.cors_origins,
                public_url=str(settings.public_url) if settings.public_url else None,
                proxies=settings.proxies,
            )
        )
        async with (
            serve_http(metrics_app(prometheus, gateway.not_ready), settings.metrics, "metrics") as metrics_port,
            serve_api(CountedHttp(app, metrics), settings.http, "http") as server,
        ):
            url = f"http://{settings.http.host}:{server.port}"
            operation = Operation(
                OperationParts(
                    gateway=gateway,
                    registry=registry,
                    intake=intake,
                    guards=guards,
                    server=server,
                    media=media,
                    keys=keys,
                    disks=disks,
                    journal=journal,
                    metrics=metrics,
                    kept_log=operated.kept_log,
                    broadcaster_id=identity.id,
                    url=url,
                ),
                settings,
                operated.reread,
            )
            async with serve_control(control_routes(operation), folder, settings.limits.control_s):
                with ready_file(folder, {"url": url, "metrics_port": metrics_port}):
                    yield RunningBroadcaster(url, metrics_port, registry, gateway, scores, journal, operation)


def _media(settings: BroadcasterSettings, folder: Path) -> MediaStore:
    chosen, behind = settings.media.folder, settings.journal == "behind"
    if chosen is None:
        return MediaStore(folder / "media", settings.media, behind=behind)
    return MediaStore(chosen, settings.media, behind=behind, instance=settings.name)


def _scratch(folder: Path) -> Path:
    scratch = folder / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


@asynccontextmanager
async def _background(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs named loops beside the block; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _sweep(media: MediaStore, metrics: BroadcasterMetrics) -> None:
    """Deletes expired media, for ever."""
    while True:
        with suppress(OSError):
            swept = await media.sweep(time.time())
            metrics.media_bytes.set(swept.kept_bytes)
            log.debug("media swept", swept=str(swept))
        await asyncio.sleep(SWEEP_INTERVAL_S)

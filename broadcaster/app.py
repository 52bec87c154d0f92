"""The composition root: settings in, a running broadcaster out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from broadcaster.broadcaster_metrics import BroadcasterMetrics, CountedHttp, CountedInspector
from broadcaster.disk import Disks
from broadcaster.gateway import Gateway, GatewayParts
from broadcaster.http_api import HttpParts, make_app
from broadcaster.intake import Intake
from broadcaster.journal import Journal, Mode
from broadcaster.keys import Keys
from broadcaster.media import MediaStore
from broadcaster.recorder import Recorder
from broadcaster.registry import Registry
from broadcaster.scores import Scores
from broadcaster.settings import BroadcasterSettings
from reelnet.client import Address
from reelnet.database.opening import database_url
from reelnet.home import locked_instance
from reelnet.http_server import serve_http
from reelnet.identity import Identity
from reelnet.lifecycle import ready_file
from reelnet.metrics import metrics_app, new_registry

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


async def serve(
    settings: BroadcasterSettings,
    stopping: asyncio.Event,
    *,
    started: Callable[[RunningBroadcaster], None] = lambda broadcaster: None,
) -> None:
    """Runs a broadcaster until `stopping`, drains it, and leaves nothing behind. Raises ConfigError or StartError."""
    with locked_instance("broadcaster", settings.name, settings.home) as folder:
        await _serve(settings, folder, stopping, started)
    log.info("broadcaster drained")


async def _serve(
    settings: BroadcasterSettings, folder: Path, stopping: asyncio.Event, started: Callable[[RunningBroadcaster], None]
) -> None:
    async with _running(settings, folder) as running:
        log.info("broadcaster serves", url=running.url, nodes=len(settings.orchestrators))
        started(running)
        await stopping.wait()
        await running.gateway.drain(settings.limits.drain_s)


@asynccontextmanager
async def _running(settings: BroadcasterSettings, folder: Path) -> AsyncIterator[RunningBroadcaster]:
    keys = Keys.read(settings.keys_file)
    rng, scores = random.Random(), Scores()  # noqa: S311  (choice among nodes, not a secret)
    identity = Identity.load_or_create(folder / "identity.key")
    addresses = [Address.parse(a) for a in settings.orchestrators]
    registry = Registry(addresses, settings.rpc, scores, rng, identity.id)
    prometheus = new_registry("broadcaster")
    metrics = BroadcasterMetrics(prometheus, registry.nodes, settings.catalogue, keys.names)
    media = MediaStore(folder / "media", settings.media, behind=settings.journal == "behind")
    await media.start()
    async with (
        Journal(database_url(settings.database, folder / "journal.db"), mode=Mode(settings.journal)) as journal,
        CountedInspector(settings.inspection, metrics) as inspector,
        _background(registry.run(), media.run(), _sweep(media, metrics)),
    ):
        metrics.watch_journal(journal)
        gateway = Gateway(
            GatewayParts(
                settings=settings,
                identity=identity,
                registry=registry,
                scores=scores,
                media=media,
                disks=Disks((media.folder, folder), settings.limits.free_bytes),
                inspector=inspector,
                recorder=Recorder(journal),
                metrics=metrics,
                rng=rng,
            )
        )
        app = make_app(
            HttpParts(
                gateway=gateway,
                intake=Intake(settings, registry, inspector, _scratch(folder)),
                registry=registry,
                media=media,
                keys=keys,
                limits=settings.limits,
                cors_origins=settings.cors_origins,
                public_url=str(settings.public_url) if settings.public_url else None,
                jobs_per_key=settings.limits.jobs_per_key,
            )
        )
        async with (
            serve_http(metrics_app(prometheus, gateway.not_ready), settings.metrics, "metrics") as metrics_port,
            serve_http(CountedHttp(app, metrics), settings.http, "http") as port,
        ):
            url = f"http://{settings.http.host}:{port}"
            with ready_file(folder, {"url": url, "metrics_port": metrics_port}):
                yield RunningBroadcaster(url, metrics_port, registry, gateway, scores, journal)


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

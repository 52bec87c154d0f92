"""The composition root: settings in, a running node out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from orchestrator import grpc_api
from orchestrator.compiled_code import CompiledCode
from orchestrator.control import control_routes
from orchestrator.devices import Device, inventory, needs_gpus
from orchestrator.engine import RunnerEngine
from orchestrator.engines import choose_engine
from orchestrator.gpu_metrics import show_gpus
from orchestrator.gpu_watch import GpuWatch
from orchestrator.gpus import DriverFacts, Gpu, GpuFault, with_cards
from orchestrator.model_facts import FactBook
from orchestrator.model_shelf import ModelShelf
from orchestrator.models_on_disk import fault_of, folder_of
from orchestrator.node import Node, NodeParts
from orchestrator.node_metrics import NodeMetrics
from orchestrator.nvml import open_nvml
from orchestrator.operation import Operation, Reread
from orchestrator.operator_word import operator_word
from orchestrator.runner_metrics import RunnerMetrics
from orchestrator.settings import OrchestratorSettings
from orchestrator.specs import make_spec
from orchestrator.spool import Spool
from orchestrator.status_view import DRAINED
from reelnet.errors import StartError
from reelnet.home import locked_instance
from reelnet.host_memory import host_memory_bytes
from reelnet.http_server import serve_http
from reelnet.identity import Identity
from reelnet.lifecycle import ready_file
from reelnet.metrics import metrics_app, new_registry
from reelnet.operating.control_server import serve_control

SOCKET_PATH_LIMIT = 90
"""A Unix socket's path has 108 bytes at most; the runner's file name needs the rest."""
SLOT_NAME_CHARS = 36
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunningNode:
    """Where a started node answers."""

    node: Node
    address: str
    metrics_port: int
    control: Operation


async def serve(
    settings: OrchestratorSettings,
    stopping: asyncio.Event,
    *,
    engine: RunnerEngine | None = None,
    reread: Reread | None = None,
    started: Callable[[RunningNode], None] = lambda node: None,
) -> None:
    """Runs a node until `stopping`, drains it, and leaves nothing behind. Raises ConfigError or StartError.

    `reread` gives the configuration anew at a reload; without it there is nothing to read again.
    """
    registry = new_registry("orchestrator")
    with locked_instance("orchestrator", settings.name, settings.home) as folder, _socket_folder(folder) as sockets:
        identity = Identity.load_or_create(folder / "identity.key")
        found = await asyncio.to_thread(_find_devices, settings.devices)
        engine = engine or await choose_engine(settings, identity.id, CompiledCode(folder.resolve() / "compiled"))
        async with _closing(engine), operator_word(folder) as word, asyncio.TaskGroup() as tasks:
            facts = await engine.fingerprint()
            shelf = ModelShelf(
                FactBook(folder / "models.json"),
                lambda model: folder_of(model, settings),
                lambda model: fault_of(model, settings),
            )
            await shelf.look(settings.models)
            parts = NodeParts(
                settings=settings,
                identity=identity,
                engine=engine,
                devices=found.devices,
                shelf=shelf,
                make_spec=lambda model, slot, device: make_spec(node.settings, model, slot, device, sockets),
                spool=Spool(folder / "spool", settings.limits.spool_bytes),
                metrics=NodeMetrics(registry),
                rng=random.Random(),  # noqa: S311  (jitter, not a secret)
            )
            node = Node(parts)
            tasks.create_task(word.run(), name="operator's word")
            if word.drained:
                node.drain()
                log.warning(DRAINED)
            parts.metrics.watch(node.table, node.keeper, parts.spool, node)
            runners = RunnerMetrics(registry, node.supervisors, settings.limits.metrics_s)
            watch = _watch_gpus(found, node, registry)
            metrics = metrics_app(registry, node.not_ready, runners.refresh)
            async with (
                serve_http(metrics, settings.metrics, "metrics") as metrics_port,
                grpc_api.serve(node, settings.grpc) as port,
            ):
                address = f"{settings.grpc.host}:{port}#{node.id}"
                readings = (lambda: watch.latest) if watch else dict
                again = reread or (lambda: node.settings)
                control = Operation(node, engine, facts.name, address, again, readings, word.say)
                watching = tasks.create_task(watch.run(), name="gpus") if watch else None
                running = RunningNode(node, address, metrics_port, control)
                async with serve_control(control_routes(control), folder, settings.limits.control_s):
                    with ready_file(folder, {"address": address, "metrics_port": metrics_port}):
                        log.info("node serves", address=address, metrics_port=metrics_port, engine=facts.name)
                        await node.run(stopping, lambda: started(running))
                if watching:
                    watching.cancel()
            word.close()
        log.info("node drained")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the node works with: its devices, and the driver's own view of those that are GPUs."""

    devices: tuple[Device, ...]
    gpus: tuple[Gpu, ...] = ()
    driver: DriverFacts | None = None


def _find_devices(configured: tuple[str, ...]) -> _Found:
    nvml = open_nvml() if needs_gpus(configured) else None
    try:
        devices = inventory(configured, nvml.gpus if nvml else (), host_memory_bytes())
        if nvml is None:
            return _Found(devices)
        uuids = with_cards((device.uuid for device in devices if device.uuid), nvml.gpus)
        return _Found(devices, tuple(gpu for gpu in nvml.gpus if gpu.uuid in uuids), nvml.driver())
    finally:
        if nvml:
            nvml.close()


def _watch_gpus(found: _Found, node: Node, registry: CollectorRegistry) -> GpuWatch | None:
    """Has the keeper hear of the GPUs' faults, and shows what they read."""
    if not found.driver:
        return None

    def on_fault(uuid: str, fault: GpuFault) -> None:
        node.keeper.fault(uuid, fault.text, fatal=fault.fatal)

    watch = GpuWatch([gpu.uuid for gpu in found.gpus], node.settings.limits.gpu_poll_s, on_fault, node.keeper.back)
    show_gpus(registry, found.gpus, found.driver, watch)
    return watch


@asynccontextmanager
async def _closing(engine: RunnerEngine) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await engine.close()


@contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    """The slots' folders: in the node's own folder, or, when its path is too long for a socket, in a temporary one.

    The temporary one has the same name at each start, and stays as a killed node left it: the sockets of runners that
    still run lie there.
    """
    path = folder / "slots"
    if len(str(path)) <= SOCKET_PATH_LIMIT - SLOT_NAME_CHARS:
        yield path
        return
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"reelnet-{os.getuid()}-{name}"
    try:
        short.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"{short}: cannot be made for the runners' sockets: {error.strerror}; set TMPDIR") from None
    status = short.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StartError(f"{short} is no private folder of this user; remove it, or set TMPDIR")
    try:
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)

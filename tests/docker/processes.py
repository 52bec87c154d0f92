"""Nodes as their operators run them, as processes of their own, with runners in containers of the tests' engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from broadcaster.app import RunningBroadcaster
from orchestrator.control_client import NodeClient
from orchestrator.docker_container import NODE_LABEL, SLOT_LABEL
from orchestrator.status import NodeStatus, SlotStatus
from reelnet.operating.control_socket import SOCKET_NAME
from tests.docker.engines import ROOT, TestEngine
from tests.fakes.exposition import Exposition, scrape
from tests.fakes.pool import broadcaster_settings, running_broadcaster, until

PATIENCE_S = 60
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
QUICK = {"stop_s": 2, "restart_backoff_s": 0.1, "restart_backoff_max_s": 0.4, "cancel_s": 5}
TICKING = {"tick_s": "0.2"}
"""Flags of a runner that tells soon that nothing moves."""


@dataclass
class NodeProcess:
    """An `orchestrator serve` that can be killed and started again, at the address that it had."""

    name: str
    home: Path
    docker: TestEngine
    values: dict[str, Any]
    gpus: tuple[str, ...] = ()
    state: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = field(default_factory=lambda: {"grpc": 0, "metrics": 0})
    id: str = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}#{self.id}"

    @property
    def log(self) -> str:
        """All that it has said, in all its starts."""
        return (self.home / f"{self.name}.log").read_text()

    @property
    def folder(self) -> Path:
        """Its state."""
        return self._state / "orchestrator" / self.name

    def configure(self, **values: Any) -> None:
        """Writes the file that the next start, or a reload, reads."""
        self.values |= values
        ports = {name: {"port": port} for name, port in self.ports.items()}
        told = {"name": self.name, "home": str(self._state), **ports, **self.values}
        self._config.write_text(yaml.safe_dump(told))

    async def start(self) -> None:
        """Until it serves."""
        self.configure()
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        program = ["tests.docker.pretending", ",".join(self.gpus)] if self.gpus else ["orchestrator.cli"]
        with (self.home / f"{self.name}.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program, "serve", "--config", str(self._config)],
                cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        await until(lambda: ready.exists() or self._ended, "the node says where it answers")
        assert not self._ended, self.log
        facts = json.loads(ready.read_text())
        address, _, self.id = facts["address"].partition("#")
        self.ports = {"grpc": int(address.rpartition(":")[2]), "metrics": facts["metrics_port"]}

    async def end(self, number: signal.Signals) -> int:
        """Its exit code after a signal."""
        assert self.process
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def status(self) -> NodeStatus:
        """What it says to its operator."""
        return await asyncio.to_thread(self.control.status)

    @property
    def control(self) -> NodeClient:
        """Its operator's commands; they block."""
        assert (self.folder / SOCKET_NAME).exists()
        return NodeClient(self.name, self._state)

    async def until(self, so: Callable[[NodeStatus], Any], what: str) -> NodeStatus:
        """The first status of which that is true."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not so(status := await self.status()):
                    await asyncio.sleep(0.02)  # between polls of another process
        except TimeoutError:
            raise AssertionError(f"never happened: {what}\n{status}\n{self.log}") from None
        return status

    async def until_ready(self) -> NodeStatus:
        """Until every slot is."""
        return await self.until(lambda s: s.slots and all(slot.state == "ready" for slot in s.slots), "all are ready")

    async def metrics(self) -> Exposition:
        """What it counts."""
        return await scrape(self.ports["metrics"])

    async def containers(self) -> dict[str, str]:
        """Its running containers' ids by slot."""
        form = f'{{{{.Label "{SLOT_LABEL}"}}}} {{{{.ID}}}}'
        return dict(line.split() for line in (await self._listed("--format", form)).splitlines())

    async def left(self) -> str:
        """Its containers in whatever state."""
        return await self._listed("--all", "--quiet")

    async def began(self) -> dict[str, str]:
        """When each slot's container was started, as the engine says."""
        ids = await self.containers()
        return {slot: await self.ask("inspect", "--format", "{{.State.StartedAt}}", ref) for slot, ref in ids.items()}

    async def ask(self, *arguments: str) -> str:
        """What a command to the engine prints."""
        return await asyncio.to_thread(self.docker.docker, *arguments)

    async def _listed(self, *flags: str) -> str:
        return await self.ask("ps", "--no-trunc", "--filter", f"label={NODE_LABEL}={self.id}", *flags)

    @property
    def _state(self) -> Path:
        return self.state or self.home

    @property
    def _config(self) -> Path:
        return self.home / f"{self.name}.yaml"

    @property
    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


@contextlib.asynccontextmanager
async def node(
    home: Path, engine: TestEngine, image: str, name: str = "node-1", gpus: tuple[str, ...] = (),
    state: Path | None = None, **values: Any,
) -> AsyncIterator[NodeProcess]:  # fmt: skip
    """A node that serves; ended at the end, and no container of it may be left then.

    Its configuration and log lie in `home`, its state there or in `state`.
    """
    settings = {
        "engine": "docker",
        "image": image,
        "docker": {"socket": str(engine.socket), "shm_bytes": 2**20},
        "devices": ["cpu"],
        "models": [bars("synthetic/bars")],
        "limits": QUICK,
        **values,
    }
    made = NodeProcess(name, home, engine, settings, gpus, state)
    try:
        await made.start()
        yield made
        if made.process and made.process.poll() is None:
            assert await made.end(signal.SIGTERM) == 0, made.log
            assert await made.left() == "", "a clean stop leaves none"
    finally:
        await _clear(made)


async def _clear(node: NodeProcess) -> None:
    """Nothing of a test that failed may disturb the next."""
    if node.process and node.process.poll() is None:
        await node.end(signal.SIGKILL)
    if node.id and (refs := (await node.left()).split()):
        await node.ask("rm", "--force", *refs)


def bars(name: str, **more: Any) -> dict[str, Any]:
    """A synthetic model; `options` are its backend's."""
    options = {"unit_s": 0, **more.pop("options", {})}
    return {"model": name, "backend": {"synthetic": options}, "flags": TICKING, **more}


def slot_of(status: NodeStatus, model: str = "synthetic/bars") -> SlotStatus:
    """A model's first slot."""
    return next(slot for slot in status.slots if slot.model == model)


@dataclass
class Client:
    """A broadcaster's app, and the broadcaster."""

    http: httpx.AsyncClient
    running: RunningBroadcaster

    async def draw(self, prompt: str = "a boat", model: str = "synthetic/bars", **more: Any) -> httpx.Response:
        """A small picture with a prompt that may hold a fault's word."""
        return await self.http.post("/text-to-image", json={**SMALL, "prompt": prompt, "model_id": model, **more})

    def long(self) -> asyncio.Task[httpx.Response]:
        """A job of many minutes that soon shows its first step."""
        return asyncio.create_task(self.draw("boat !slow 600", num_inference_steps=200))

    async def until_known(self, model: str = "synthetic/bars", nodes: int = 1) -> None:
        """Until the broadcaster has heard that so many nodes serve a model."""
        await until(lambda: self.running.registry.offers().get(("text-to-image", model)) == nodes, f"{model} is known")


@contextlib.asynccontextmanager
async def client(home: Path, *nodes: NodeProcess) -> AsyncIterator[Client]:
    """A broadcaster of these nodes, and its app."""
    settings = broadcaster_settings(home, [node.address for node in nodes], limits={"reconnect_wait_s": 20})
    async with (
        running_broadcaster(settings) as running,
        httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S) as http,
    ):
        made = Client(http, running)
        await made.until_known(nodes=len(nodes))
        yield made

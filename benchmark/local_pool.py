"""A pool on this machine, as subprocesses: one broadcaster and its nodes, gone when the block ends, however it ends."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml

from benchmark.client import BroadcasterClient
from benchmark.pool_plan import Backend, PoolPlan, check_installation, node_settings
from benchmark.processes import Child, ProcessId, environment, family, gone, start, tail
from reelnet.errors import ReelnetError, StartError
from reelnet.lifecycle import READY_FILE

LOCK = "pool.lock"
COMPONENTS = ("broadcaster", "orchestrator")
POLL_S = 0.05
DRAIN_S = 5
STOP_GRACE_S = DRAIN_S + 10.0
GONE_S = 10.0
"""Runners and file checkers end by themselves, at once, when their component has: this is patience."""


@dataclass(frozen=True, slots=True)
class Member:
    """One component of a running pool. `address` is the broadcaster's URL or a node's gRPC address with its id.

    `metrics_url` is where its metrics are read.
    """

    name: str
    pid: int
    address: str
    log: Path
    metrics_url: str

    @property
    def node_id(self) -> str:
        """A node's id; empty for the broadcaster."""
        return self.address.partition("#")[2]


class LeftoverError(Exception):
    """Processes of a pool have outlived it."""


class LocalPool:
    """A running pool, for the length of an `async with`; entering raises StartError that says what to do.

    `tell` hears what it is about to do, a few words each. Leaving stops the broadcaster, then the nodes, and raises
    LeftoverError if a process of theirs is left.
    """

    def __init__(self, plan: PoolPlan, tell: Callable[[str], None] = lambda step: None) -> None:
        self._plan = plan
        self._tell = tell
        self._children: list[Child] = []
        self._crashed: frozenset[ProcessId] = frozenset()
        self._stack = AsyncExitStack()
        self.members: list[Member] = []
        """The broadcaster first, then the nodes."""
        self.ready_s: dict[str, float] = {}
        """By node id: seconds from the pool's start, once its models are made, until it served all that it has to."""

    @property
    def url(self) -> str:
        """The broadcaster's."""
        return self.members[0].address

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            check_installation(self._plan)
            _check_port(self._plan.broadcaster_port)
            stack.enter_context(_own_folder(self._plan.home))
            stack.push_async_callback(self._stop)
            await self._start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def labels(self) -> dict[str, str]:
        """By node id: what a reader knows the node by, with its speed if it has one."""
        speeds = [f" ×{speed:g}" for speed in self._plan.speeds] or [""] * self._plan.size
        return {m.node_id: f"{m.name}{speed}" for m, speed in zip(self.members[1:], speeds, strict=True)}

    def processes(self) -> frozenset[ProcessId]:
        """Every live process of the pool: components, runners, file checkers."""
        return family(child.pid for child in self._children)

    async def failed(self) -> str:
        """Waits until a component ends by itself; says which, and the end of its log."""
        waits = {asyncio.ensure_future(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return _obituary(waits[done.pop()])
        finally:
            for wait in waits:
                wait.cancel()

    async def crash(self, number: int) -> None:
        """Ends a node (0: the first one) by SIGKILL, and starts it again at its address. Raises StartError."""
        member = self.members[number + 1]
        child = next(child for child in self._children if child.name == member.name)
        self._crashed |= family([child.pid])
        child.send(signal.SIGKILL)
        await child.process.wait()
        self._children.remove(child)
        self._ready_file("orchestrator", child).unlink()
        port = int(member.address.partition("#")[0].rpartition(":")[2])
        again = await self._start_node(number, {"grpc": {"port": port}})
        try:
            async with asyncio.timeout(self._plan.start_timeout_s):
                self.members[number + 1] = _member(again, await self._ready("orchestrator", again))
        except TimeoutError:
            raise StartError(self._late()) from None

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(self._plan.start_timeout_s):
                await self._make_models()
                self._tell(f"starting {self._plan.size} node{'s' if self._plan.size > 1 else ''}")
                began = time.monotonic()
                nodes = [await self._start_node(i) for i in range(self._plan.size)]
                members = [_member(node, await self._ready("orchestrator", node)) for node in nodes]
                self._tell("starting the broadcaster")
                broadcaster = await self._start_broadcaster([member.address for member in members])
                first = _member(broadcaster, await self._ready("broadcaster", broadcaster))
                self.members = [first, *members]
                self._tell("waiting until every node has loaded its models")
                await self._complete(first.address, began, {m.node_id: i for i, m in enumerate(members)})
        except TimeoutError:
            raise StartError(self._late()) from None

    async def _make_models(self) -> None:
        """Has the tiny models made: the maker leaves those alone that are whole and as it would make them today."""
        models = self._plan.models
        if self._plan.backend != "tiny":
            return
        self._tell("looking after the tiny models")
        maker = await start(
            "models", "runner.cli", ["models", "make-tiny", str(models)], self._log("models"), environment()
        )
        self._children.append(maker)
        if await maker.process.wait() != 0:
            hint = "is the extra reelnet[diffusers] installed? --backend synthetic needs no model library"
            raise StartError(f"the tiny models cannot be made; {hint}\n{_obituary(maker)}")
        self._children.remove(maker)

    async def _start_node(self, number: int, more: Mapping[str, Any] = MappingProxyType({})) -> Child:
        name, settings = f"node-{number + 1}", node_settings(self._plan, number)
        limits = {"drain_s": DRAIN_S, **settings.get("limits", {})}
        settings = {**settings, "name": name, "limits": limits, **more}
        return await self._start_component("orchestrator", name, settings)

    async def _start_broadcaster(self, addresses: list[str]) -> Child:
        settings = {
            "http": {"port": self._plan.broadcaster_port},
            "metrics": {"port": 0},
            "orchestrators": [*addresses, *self._plan.strangers],
            "limits": {"drain_s": DRAIN_S},
        }
        return await self._start_component("broadcaster", "broadcaster", settings)

    async def _start_component(self, component: str, name: str, settings: Mapping[str, Any]) -> Child:
        config = self._plan.home / f"{name}.yaml"
        config.write_text(yaml.safe_dump(dict(settings), sort_keys=False), "utf-8")
        folders = {"REELNET_HOME": self._plan.home.resolve(), "REELNET_MODELS": self._plan.models.resolve()}
        environ = environment(**folders, **self._plan.environ)
        command = [f"{component}.cli", "serve", "--config", str(config)]
        if self._plan.profiles:
            command = ["benchmark.profiled", str(self._plan.profiles), name, *command]
        child = await start(name, command[0], command[1:], self._log(name), environ)
        self._children.append(child)
        return child

    async def _ready(self, component: str, child: Child) -> dict[str, Any]:
        """Where a started component answers."""
        path = self._ready_file(component, child)
        while not path.exists():
            self._check_alive()
            await asyncio.sleep(POLL_S)
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return facts

    def _ready_file(self, component: str, child: Child) -> Path:
        instance = child.name if component == "orchestrator" else "default"
        return self._plan.home / component / instance / READY_FILE

    async def _complete(self, url: str, began: float, numbers: Mapping[str, int]) -> None:
        """Until the broadcaster knows every offer of every node; when it first knew each node's.

        `numbers`: which node has which id.
        """
        async with BroadcasterClient(url) as client:
            while True:
                self._check_alive()
                try:
                    served = await client.served()
                    known = {node: offers for node, offers in served.items() if node in numbers}
                    whole = [node for node in known if known[node] >= self._plan.offers(numbers[node])]
                    for node in whole:
                        self.ready_s.setdefault(node, time.monotonic() - began)
                    if len(whole) == self._plan.size:
                        return
                except ReelnetError:
                    pass  # it may not listen yet; the timeout around this bounds it
                await asyncio.sleep(POLL_S)

    def _check_alive(self) -> None:
        for child in self._children:
            if child.exit_code is not None:
                raise StartError(_obituary(child))

    def _late(self) -> str:
        logs = "\n".join(f"{child.log}:\n{tail(child.log)}" for child in self._children)
        return f"the pool was not complete after {self._plan.start_timeout_s:g} s; the logs say why\n{logs}"

    async def _stop(self) -> None:
        """The broadcaster first, so that no job is sent to a node that stops; then all the nodes at once."""
        self._tell("stopping")
        everything = self.processes() | self._crashed
        for group in (self._broadcasters(), self._others()):
            async with asyncio.TaskGroup() as stops:
                for child in group:
                    stops.create_task(child.stop(STOP_GRACE_S), name=f"stop:{child.name}")
        if left := await gone(everything | self.processes(), GONE_S):
            pids = ", ".join(str(process.pid) for process in sorted(left))
            raise LeftoverError(f"processes of the pool are left: {pids}; end them by hand")

    def _broadcasters(self) -> list[Child]:
        return [child for child in self._children if child.name == "broadcaster"]

    def _others(self) -> list[Child]:
        return [child for child in self._children if child.name != "broadcaster"]

    def _log(self, name: str) -> Path:
        return self._plan.home / "logs" / f"{name}.log"


def _member(child: Child, facts: Mapping[str, Any]) -> Member:
    """A component by what its ready file says."""
    address = str(facts.get("address") or facts["url"])
    return Member(child.name, child.pid, address, child.log, f"http://127.0.0.1:{facts['metrics_port']}/metrics")


def _obituary(child: Child) -> str:
    log = f"the end of {child.log}:\n{tail(child.log)}"
    return f"{child.name} ended with exit code {child.exit_code}; {log}"


def _check_port(port: int) -> None:
    """Raises StartError when something listens there: known before seconds are spent on nodes."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or error
            raise StartError(f"port {port} cannot be taken ({reason}); free it, or choose another: --port N") from None


@contextmanager
def _own_folder(home: Path) -> Iterator[None]:
    """Takes the folder for this pool alone and empties it; the kernel gives it back when this process is killed."""
    marked = (home / LOCK).exists()
    if not marked and any((home / component).exists() for component in COMPONENTS):
        raise StartError(f"{home} holds state that is not a local pool's; name another folder")
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another local pool runs in {home}; stop it first") from None
        for leftover in (*COMPONENTS, "logs"):
            shutil.rmtree(home / leftover, ignore_errors=True)
        yield


__all__ = ["Backend", "LeftoverError", "LocalPool", "Member", "PoolPlan"]

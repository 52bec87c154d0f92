"""Finds what is to be measured: a broadcaster, nodes or runners that are named or answer here, or a pool of its own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from benchmark.broadcaster_lane import broadcaster_lane
from benchmark.client import BroadcasterClient, Offer
from benchmark.lane import Kind, Lane
from benchmark.local_pool import LocalPool, PoolPlan
from benchmark.node_lane import NodeLane, NodeOffer
from benchmark.runner_lane import runner_lane
from benchmark.scenario import Request, Scenario, choose_model, plan
from reelnet.client import Address, OrchestratorClient
from reelnet.errors import ReelnetError, RefusedError, StartError, printable
from reelnet.identity import Identity
from reelnet.jobs import Description

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:9935"
DEFAULT_NODE = "127.0.0.1:8935"
FIND_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 60.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Aim:
    """What the command line names. `kind` None takes what answers; `pool` is what is started where nothing does.

    `fresh` starts the pool even so. `identity` is the file of the key that signs tickets; None makes one for this run.
    `key` is the API key that a broadcaster gets.
    """

    pool: PoolPlan
    kind: Kind | None = None
    url: str | None = None
    nodes: tuple[Address, ...] = ()
    runners: tuple[Path, ...] = ()
    fresh: bool = False
    identity: Path | None = None
    key: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Lanes that are ready, and the scenario for them.

    `start_s`, and by node `ready_s` and `labels`, are of a pool of its own.
    """

    kind: Kind
    where: str
    lanes: tuple[Lane, ...]
    scenario: Scenario
    start_s: float | None = None
    ready_s: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the target answers: a URL, or nodes, or runners."""

    kind: Kind
    url: str = ""
    nodes: tuple[Address, ...] = ()
    runners: tuple[Path, ...] = ()
    pool: LocalPool | None = None

    @property
    def where(self) -> str:
        names = (
            [self.url] if self.kind == "broadcaster" else [a.target for a in self.nodes] or list(map(str, self.runners))
        )
        return ", ".join(names)


@asynccontextmanager
async def find(aim: Aim, request: Request, model: str | None, tell: Callable[[str], None]) -> AsyncIterator[Found]:
    """The target, for the length of the block. Raises StartError when it is not there or does not serve the job."""
    async with AsyncExitStack() as stack:
        began = time.monotonic()
        place = await _place(aim, stack, tell)
        start_s = time.monotonic() - began if place.pool else None
        opener = {"broadcaster": _open_broadcaster, "orchestrator": _open_nodes, "runner": _open_runners}[place.kind]
        lanes, scenario = await opener(place, aim, request, model, stack)
        ready_s, labels = (place.pool.ready_s, place.pool.labels()) if place.pool else ({}, {})
        yield Found(place.kind, place.where, lanes, scenario, start_s, ready_s, labels)


async def _place(aim: Aim, stack: AsyncExitStack, tell: Callable[[str], None]) -> _Place:
    """What was named, what answers at the usual addresses, or a pool that lives as long as the stack."""
    if aim.runners:
        return _Place("runner", runners=aim.runners)
    if aim.nodes:
        return _Place("orchestrator", nodes=aim.nodes)
    if aim.url:
        return await _of_broadcaster(aim.url, aim)
    if not aim.fresh and (running := await _running(aim)):
        return running
    pool = await stack.enter_async_context(LocalPool(aim.pool, lambda step: tell(f"local pool: {step}")))
    side_by_side = aim.kind == "orchestrator" or (aim.kind is None and bool(aim.pool.speeds))
    if side_by_side:
        return _Place("orchestrator", nodes=tuple(Address.parse(m.address) for m in pool.members[1:]), pool=pool)
    return _Place("broadcaster", url=pool.url, pool=pool)


async def _running(aim: Aim) -> _Place | None:
    if await _answers(DEFAULT_URL, aim.key):
        return await _of_broadcaster(DEFAULT_URL, aim)
    address = Address.parse(DEFAULT_NODE)
    if aim.kind != "broadcaster" and await _description(address, FIND_TIMEOUT_S):
        return _Place("orchestrator", nodes=(address,))
    return None


async def _of_broadcaster(url: str, aim: Aim) -> _Place:
    """The broadcaster, or the nodes that it lists as up."""
    if aim.kind != "orchestrator":
        return _Place("broadcaster", url=url)
    async with BroadcasterClient(url, aim.key) as client:
        nodes = await _or_no_start(url, client.nodes())
    if not nodes:
        raise StartError(f"{url}: no node of this broadcaster is up")
    return _Place("orchestrator", nodes=tuple(nodes))


Opened = tuple[tuple[Lane, ...], Scenario]


async def _open_broadcaster(
    place: _Place, aim: Aim, request: Request, model: str | None, stack: AsyncExitStack
) -> Opened:
    key = None if place.pool else aim.key
    async with BroadcasterClient(place.url, key) as client:
        offers = await _or_no_start(place.url, client.offers())
        schemas = await _or_no_start(place.url, client.schemas())
    scenario = _planned(request, choose_model(request.pipeline, model, offers), schemas)
    return (await stack.enter_async_context(broadcaster_lane(place.url, request.concurrency, key)),), scenario


async def _open_nodes(place: _Place, aim: Aim, request: Request, model: str | None, stack: AsyncExitStack) -> Opened:
    """The nodes that serve the job; each has to have the model."""
    clients = [OrchestratorClient(address) for address in place.nodes]
    for client in clients:
        stack.push_async_callback(client.close)
    descriptions = [await _or_no_start(str(c.address), _loaded(c)) for c in clients]
    offers = Counter((c.pipeline, c.model) for d in descriptions for c in d.capabilities)
    schemas = {(c.pipeline, c.model): c.schema for d in descriptions for c in d.capabilities}
    scenario = _planned(request, choose_model(request.pipeline, model, offers), schemas)
    identity = Identity.load_or_create(aim.identity) if aim.identity else Identity.generate()
    lanes = [
        NodeLane(client, _offer(client.address, description, scenario), identity)
        for client, description in zip(clients, descriptions, strict=True)
    ]
    return tuple(lanes), scenario


async def _open_runners(place: _Place, aim: Aim, request: Request, model: str | None, stack: AsyncExitStack) -> Opened:
    opened = [await stack.enter_async_context(runner_lane(socket)) for socket in place.runners]
    offers = Counter(offer for _, served in opened for offer in served)
    schemas = {offer: schema for _, served in opened for offer, schema in served.items()}
    scenario = _planned(request, choose_model(request.pipeline, model, offers), schemas)
    wanted = (scenario.pipeline.name, scenario.model)
    if missing := next((lane.name for lane, served in opened if wanted not in served), None):
        raise StartError(f"--runner {missing}: does not serve {wanted[0]} with {wanted[1]}")
    return tuple(lane for lane, _ in opened), scenario


def _planned(request: Request, model: str, schemas: Mapping[Offer, str]) -> Scenario:
    return plan(request, model, schemas.get((request.pipeline.name, model), ""))


async def _loaded(client: OrchestratorClient) -> Description:
    """What the node says of itself; one that serves nothing yet gets some time to load its models."""
    give_up = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        description = await client.describe(ANSWER_TIMEOUT_S)
        if description.capabilities or time.monotonic() > give_up:
            return description
        await asyncio.sleep(POLL_S)


def _offer(address: Address, description: Description, scenario: Scenario) -> NodeOffer:
    """What the node's ticket says of it. Raises StartError when it does not serve the job."""
    for capability in description.capabilities:
        if (capability.pipeline, capability.model) == (scenario.pipeline.name, scenario.model):
            return NodeOffer(description, capability, scenario.source)
    raise StartError(f"node {address.target} does not serve {scenario.pipeline.name} with {scenario.model}")


async def _description(address: Address, timeout_s: float) -> Description | None:
    async with OrchestratorClient(address) as client:
        try:
            return await client.describe(timeout_s)
        except ReelnetError:
            return None


async def _answers(url: str, key: SecretStr | None) -> bool:
    """Whether a broadcaster is there; one that asks for a key is."""
    async with BroadcasterClient(url, key) as client:
        try:
            await client.offers(timeout_s=FIND_TIMEOUT_S)
        except ReelnetError as error:
            return isinstance(error, RefusedError)
    return True


async def _or_no_start(where: str, asked: Awaitable[T]) -> T:
    try:
        return await asked
    except RefusedError as error:
        raise StartError(f"{where}: {printable(error.message, 300)}") from None
    except ReelnetError as error:
        raise StartError(f"{where}: {printable(error.message, 300)}; does it answer there?") from None

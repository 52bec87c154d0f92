"""The live picture of the pool: one watch a node, an index of who serves what, and who is down."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import structlog

from broadcaster.scores import Scores
from broadcaster.selection import Candidate, NodeIndex, Wanted, suits
from reelnet.client import Address, OrchestratorClient, Update
from reelnet.errors import NodeError, ReelnetError, RefusedError
from reelnet.jobs import Capability, Description, Load, ModelLoad
from reelnet.pipelines import Work
from reelnet.rpc import PROTOCOL, RpcLimits

RECONNECT_FIRST_S = 0.2
RECONNECT_LONGEST_S = 5.0
MAX_SEEN = 10_000
BUSY_S = 5.0
"""A node that said busy is taken for full until it reports its load anew, and no longer: it may have meant one job."""
log = structlog.get_logger()
Offer = tuple[str, str]
"""(pipeline, model)."""
Trait = Literal["family", "lora", "feature"]
"""What nodes that serve the same offer may differ in."""


@dataclass(eq=False, slots=True)
class NodeRecord:
    """One node of the pool, as its last updates describe it."""

    address: Address
    client: OrchestratorClient
    description: Description | None = None
    load: Load = field(default_factory=Load)
    up: bool = False
    reason: str = "not connected yet"
    since: float = 0.0
    """When it came up or went down, by the registry's clock."""
    skew_s: float | None = None
    """How far its clock is ahead of this machine's; None where it does not say."""
    refuses: bool = False
    """Whether it serves other broadcasters only, by its own word."""
    quiet: asyncio.Event = field(default_factory=lambda: _set_event())
    """Set while no job of this broadcaster is on the node."""
    own_in_flight: int = 0
    capabilities: dict[Offer, Capability] = field(default_factory=dict)
    loads: dict[Offer, ModelLoad] = field(default_factory=dict)
    busy_at: dict[Offer, float] = field(default_factory=dict)
    """When it last refused a job as busy, by the registry's clock; empty after each report of its load."""

    @property
    def node_id(self) -> str:
        """The node's id, or its address while it has never answered."""
        return self.description.node_id if self.description else self.address.target


class Registry:
    """All nodes by id. `run` keeps the watches; everything else answers from memory."""

    def __init__(
        self,
        addresses: list[Address],
        limits: RpcLimits,
        scores: Scores,
        rng: random.Random,
        own_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own_id` is this broadcaster's: nodes prove their ids to it."""
        self._scores = scores
        self._rng = rng
        self._clock = clock
        self._limits = limits
        self._own_id = own_id
        self._watches: asyncio.TaskGroup | None = None
        self._watching: dict[Address, asyncio.Task[None]] = {}
        self._records = [self._made(address) for address in addresses]
        self._by_id: dict[str, NodeRecord] = {}
        self._index: dict[Offer, NodeIndex] = {}
        self._traits: dict[Offer, Counter[tuple[Trait, str]]] = {}
        self._served: dict[str, dict[str, int]] = {}
        self._seen: dict[Offer, None] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watches every node, reconnecting for ever, until this task is canceled."""
        try:
            async with asyncio.TaskGroup() as self._watches:
                for record in self._records:
                    self._watch(record)
                await asyncio.Event().wait()
        finally:
            self._watches = None
            for record in self._records:
                await record.client.close()

    def apply(self, addresses: list[Address]) -> None:
        """Watches these nodes from now on. Jobs on one that is gone from the list go on."""
        known = {record.address: record for record in self._records}
        gone = [record for address, record in known.items() if address not in addresses]
        self._records = [known.get(address) or self._made(address) for address in dict.fromkeys(addresses)]
        for record in gone:
            self._forget(record)
        for record in self._records:
            if self._watches and record.address not in self._watching:
                self._watch(record)

    def nodes(self) -> list[NodeRecord]:
        """Every configured node, up or not."""
        return list(self._records)

    def offers(self) -> dict[Offer, int]:
        """How many nodes serve each (pipeline, model) now."""
        return {offer: len(index) for offer, index in self._index.items() if len(index)}

    def found(self, offer: Offer, trait: Trait) -> dict[str, int]:
        """What the nodes that serve an offer now have of a trait, with how many have it."""
        return {name: count for (kind, name), count in self._traits.get(offer, Counter()).items() if kind == trait}

    def served(self, pipeline: str) -> Mapping[str, int]:
        """How many nodes serve each model of a pipeline now; counted once after each change of the pool."""
        if (known := self._served.get(pipeline)) is None:
            known = {model: count for (name, model), count in self.offers().items() if name == pipeline}
            self._served[pipeline] = known
        return known

    def ever_offered(self, pipeline: str, model: str) -> bool:
        """Whether some node has served it since this start: it may come back."""
        return (pipeline, model) in self._seen

    def candidates(self, offer: Offer, wanted: Wanted, sample: int, excluded: frozenset[str]) -> list[Candidate]:
        """A few nodes by chance that serve the offer and suit the job; every node is looked at before none is found."""
        index = self._index.get(offer)
        if index is None:
            return []
        found = self._suitable(index.sample(sample, excluded, self._rng), offer, wanted)
        return list(found) or list(islice(self._suitable(index.shuffled(excluded, self._rng), offer, wanted), sample))

    def _suitable(self, names: list[str], offer: Offer, wanted: Wanted) -> Iterator[Candidate]:
        candidates = (self._candidate(self._by_id[name], offer, wanted.work) for name in names)
        return (candidate for candidate in candidates if suits(candidate, wanted))

    def _made(self, address: Address) -> NodeRecord:
        return NodeRecord(address, OrchestratorClient(address, self._limits, self._own_id), since=self._clock())

    def _watch(self, record: NodeRecord) -> None:
        assert self._watches
        name = f"watch:{record.address.target}"
        self._watching[record.address] = self._watches.create_task(self._keep(record), name=name)

    def _forget(self, record: NodeRecord) -> None:
        """Takes a node off the list; its channel is closed when the jobs that are there have ended."""
        self._withdraw(record, "it is not on the list of nodes any more")
        if self._by_id.get(record.node_id) is record:
            del self._by_id[record.node_id]
        if watch := self._watching.pop(record.address, None):
            watch.cancel()
        if self._watches:
            self._watches.create_task(_close(record), name=f"close:{record.address.target}")

    @property
    def _named(self) -> frozenset[str]:
        """The ids that addresses name."""
        return frozenset(record.address.node_id for record in self._records if record.address.node_id)

    def record(self, node_id: str) -> NodeRecord:
        """The node's record. Raises KeyError for one that never answered."""
        return self._by_id[node_id]

    @contextmanager
    def in_flight(self, record: NodeRecord) -> Iterator[None]:
        """Counts a job of this broadcaster on a node: reports of load are half a second old."""
        record.own_in_flight += 1
        record.quiet.clear()
        try:
            yield
        finally:
            record.own_in_flight -= 1
            if not record.own_in_flight:
                record.quiet.set()

    def refused_as_busy(self, node_id: str, offer: Offer) -> None:
        """The node has no place for the offer, whatever its last report says: others go first for a while."""
        if record := self._by_id.get(node_id):
            record.busy_at[offer] = self._clock()

    def refused_us(self, node_id: str) -> None:
        """The node takes no ticket of this broadcaster: no job goes there until it says otherwise."""
        if record := self._by_id.get(node_id):
            self._withdraw(record, self._not_served())

    def _not_served(self) -> str:
        return f"it refuses this broadcaster: its operator has to add the id {self._own_id} to `broadcasters`"

    def changed(self) -> asyncio.Event:
        """Set when a node comes, goes or changes what it serves; take it before looking."""
        return self._changed

    def _candidate(self, record: NodeRecord, offer: Offer, work: Work) -> Candidate:
        load = record.loads.get(offer) or ModelLoad(*offer, 0, 0, 0, warm=True, wait_s=0.0)
        return Candidate(
            node_id=record.node_id,
            capability=record.capabilities[offer],
            load=load,
            own_in_flight=record.own_in_flight,
            run_s=self._scores.run_s(record.node_id, *offer, work),
            reputation=self._scores.reputation(record.node_id),
            busy=self._clock() - record.busy_at.get(offer, float("-inf")) < BUSY_S,
        )

    async def _keep(self, record: NodeRecord) -> None:
        pause = RECONNECT_FIRST_S
        while True:
            try:
                async for update in record.client.watch():
                    pause = RECONNECT_FIRST_S
                    self._take(record, update)
            except ReelnetError as error:
                self._lost(record, error)
                if isinstance(error, RefusedError):
                    pause = RECONNECT_LONGEST_S
            except Exception:  # outermost: one node's watch must not end the others'
                log.exception("a watch failed by a fault of this program", address=record.address.target)
                self._lost(record, NodeError("its watch failed by a fault of this broadcaster; see the log"))
                pause = RECONNECT_LONGEST_S
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(RECONNECT_LONGEST_S, pause * 2)

    def _take(self, record: NodeRecord, update: Update) -> None:
        record.skew_s, record.refuses = update.skew_s, update.refuses
        if update.description:
            self._describe(record, update.description)
        record.load = update.load
        record.busy_at.clear()
        record.loads = {(x.pipeline, x.model): x for x in update.load.models}
        if update.refuses:
            self._turned_away(record)
        elif update.load.draining:
            self._withdraw(record, "the node is draining")
        elif not record.up and record.description:  # it drained, and was told to take jobs again
            self._describe(record, record.description)

    def _describe(self, record: NodeRecord, description: Description) -> None:
        if not description.protocol_min <= PROTOCOL <= description.protocol_max:
            raise RefusedError(f"the node speaks protocol {description.protocol_min}-{description.protocol_max}")
        known = record.description
        if known and known.epoch == description.epoch and description.sequence < known.sequence:
            return  # an older one that was under way
        self._check_twin(record, description)
        self._withdraw(record, "")
        record.description = description
        if record.refuses:
            return
        record.up, record.since = True, self._clock()
        record.capabilities = {(c.pipeline, c.model): c for c in description.capabilities}
        self._by_id[description.node_id] = record
        for offer, capability in record.capabilities.items():
            self._index.setdefault(offer, NodeIndex()).add(description.node_id)
            self._traits.setdefault(offer, Counter()).update(_traits(capability))
            self._remember(offer)
        log.info("node up", node=short(record.node_id), address=record.address.target, serves=len(record.capabilities))
        self._notify()

    def _check_twin(self, record: NodeRecord, description: Description) -> None:
        """One id is one node: the one whose address names it, up or down; of others, the one that is up."""
        if description.node_id in self._named and not record.address.node_id:
            raise RefusedError("another address names this id, and is its node", code="twin")
        twin = self._by_id.get(description.node_id)
        if twin is not None and twin is not record and twin.up and twin.node_id == description.node_id:
            raise RefusedError(f"the node at {twin.address.target} has the same id", code="twin")

    def _turned_away(self, record: NodeRecord) -> None:
        reason = self._not_served()
        if record.reason != reason:
            log.warning("node refuses", node=short(record.node_id), address=record.address.target, reason=reason)
        self._withdraw(record, reason)

    def _lost(self, record: NodeRecord, error: ReelnetError) -> None:
        if record.up or record.reason != error.message:
            log.warning("node down", node=short(record.node_id), address=record.address.target, reason=error.message)
        self._withdraw(record, error.message)

    def _withdraw(self, record: NodeRecord, reason: str) -> None:
        """Takes a node out of the index: no job is sent there any more."""
        was_up, record.up, record.reason = record.up, False, reason
        if not was_up:
            return  # nothing of it is in the index; what is there under its id may be another address's
        record.since = self._clock()
        for offer, capability in record.capabilities.items():
            if index := self._index.get(offer):
                index.remove(record.node_id)
                self._traits[offer] -= Counter(_traits(capability))
                if not len(index):
                    del self._index[offer], self._traits[offer]
        self._notify()

    def _remember(self, offer: Offer) -> None:
        """Bounded: a node that makes up new models all day must not fill the memory."""
        self._seen.pop(offer, None)
        self._seen[offer] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def _notify(self) -> None:
        self._served.clear()
        self._changed.set()
        self._changed = asyncio.Event()


async def _close(record: NodeRecord) -> None:
    """Closes a channel when its jobs have ended. It runs beside the watches, and must not end them."""
    try:
        await record.quiet.wait()
    finally:
        try:
            await record.client.close()
        except Exception:  # outermost: one node's channel must not end the others' watches
            log.exception("a channel was not closed", address=record.address.target)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _traits(capability: Capability) -> list[tuple[Trait, str]]:
    """A capability's traits, each once."""
    family = capability.schema.partition("/")[2].partition("@")[0]
    return [
        ("family", family),
        *(("lora", name) for name in capability.loras),
        *(("feature", name) for name in set(capability.features)),
    ]


def short(node_id: str) -> str:
    """The first characters of a node's id, enough to tell nodes apart in a table."""
    return node_id if ":" in node_id else node_id[:10]

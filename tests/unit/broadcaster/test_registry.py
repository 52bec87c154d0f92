"""The registry's picture of the pool, without a network: whom a job may get."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from broadcaster.registry import BUSY_S, Registry
from broadcaster.scores import Scores
from broadcaster.selection import Wanted
from reelnet.client import Address, Update
from reelnet.errors import RefusedError, TransientError
from reelnet.jobs import Capability, Description, Load, ModelLoad, NodeId
from reelnet.pipelines import Work
from reelnet.pricing import Rates
from reelnet.rpc import RpcLimits

OFFER = ("text-to-image", "m")
WANTED = Wanted(Work(10**6, 10**6), "text-to-image/sd", 1, ceiling_nano=100)
NOBODY: frozenset[str] = frozenset()


def capability(job_nano: int = 0, memory_bytes: int = 0) -> Capability:
    return Capability(*_names(), "d" * 64, Rates(job=job_nano), memory_bytes=memory_bytes)


def _names() -> tuple[str, str, str]:
    return OFFER[0], "text-to-image/sd@1", OFFER[1]


def told(registry: Registry, place: int, *capabilities: Capability, epoch: str = "e", sequence: int = 1) -> None:
    """The node at that place of the list says what it serves."""
    description = Description(NodeId(f"node-{place}"), epoch, sequence, 1, 1, capabilities)
    load = Load(tuple(ModelLoad(c.pipeline, c.model, 1, 0, 0, True, 0.0) for c in capabilities))
    registry._take(registry.nodes()[place], Update(description, load))


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """Twenty nodes that have not answered yet."""
    addresses = [Address(f"127.0.0.1:{port}") for port in range(1, 21)]
    made = Registry(addresses, RpcLimits(), Scores(), random.Random(5))
    yield made
    for record in made.nodes():
        await record.client.close()


async def test_the_few_that_suit_are_found_among_many(registry: Registry) -> None:
    """Two nodes of twenty are cheap enough: each pick finds one, however small its sample."""
    for place in range(20):
        told(registry, place, capability(job_nano=1 if place in (3, 17) else 1000))
    for _ in range(200):
        found = registry.candidates(OFFER, WANTED, sample=4, excluded=NOBODY)
        assert {c.node_id for c in found} <= {"node-3", "node-17"}
        assert found


async def test_nobody_is_found_where_nobody_suits(registry: Registry) -> None:
    """Too dear, excluded, or of too little memory: no candidate."""
    for place in range(5):
        told(registry, place, capability(job_nano=1000, memory_bytes=8))
    assert registry.candidates(OFFER, WANTED, 4, NOBODY) == []
    free = Wanted(WANTED.work, WANTED.schema_family, 1)
    assert len(registry.candidates(OFFER, free, 10, NOBODY)) == 5
    assert registry.candidates(OFFER, free, 4, frozenset(f"node-{i}" for i in range(5))) == []
    more = Wanted(WANTED.work, WANTED.schema_family, 1, min_memory_bytes=9)
    assert registry.candidates(OFFER, more, 4, NOBODY) == []


async def test_what_a_node_no_longer_serves_is_gone(registry: Registry) -> None:
    """A newer description replaces the older one, and one that was under way does not come back."""
    told(registry, 0, capability(), sequence=1)
    told(registry, 0, sequence=3)
    assert registry.offers() == {}
    told(registry, 0, capability(), sequence=2)
    assert registry.offers() == {}
    told(registry, 0, capability(), epoch="a new start", sequence=1)
    assert registry.offers() == {OFFER: 1}


async def test_what_is_served_is_known_anew_after_each_change(registry: Registry) -> None:
    """The models of a pipeline, with how many nodes have each; another pipeline's are none of them."""
    pipeline, model = OFFER
    assert registry.served(pipeline) == {}
    told(registry, 0, capability())
    told(registry, 1, capability())
    assert registry.served(pipeline) == {model: 2}
    assert registry.served("another") == {}
    registry._withdraw(registry.nodes()[0], "lost")
    assert registry.served(pipeline) == {model: 1}
    told(registry, 1, sequence=2)
    assert registry.served(pipeline) == {}


async def test_two_addresses_of_one_node_are_not_two_nodes(registry: Registry) -> None:
    """The same id at a second address is refused while the first is up."""
    told(registry, 0, capability())
    description = Description(NodeId("node-0"), "e", 1, 1, 1, (capability(),))
    with pytest.raises(RefusedError):
        registry._take(registry.nodes()[1], Update(description, Load()))
    assert registry.offers() == {OFFER: 1}


async def test_a_refused_twin_takes_nothing_away(registry: Registry) -> None:
    """One node at two addresses: while the second is up, the first one's refusals leave it in the index."""
    told(registry, 0, capability())
    first, second = registry.nodes()[:2]
    registry._lost(first, TransientError("gone"))
    description = Description(NodeId("node-0"), "e", 1, 1, 1, (capability(),))
    registry._take(second, Update(description, Load()))
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            registry._take(first, Update(description, Load()))
        registry._lost(first, refused.value)
    assert registry.offers() == {OFFER: 1}
    assert registry.record("node-0") is second


async def test_a_node_that_stays_down_wakes_nobody(registry: Registry) -> None:
    """Who waits for the pool to change is not woken by each failed reconnection."""
    told(registry, 0, capability())
    record = registry.nodes()[0]
    registry._lost(record, TransientError("gone"))
    changed = registry.changed()
    registry._lost(record, TransientError("still gone"))
    assert not changed.is_set()
    told(registry, 0, capability())
    assert changed.is_set()


async def test_a_drained_node_that_resumes_is_back(registry: Registry) -> None:
    """It says nothing new of itself: a load that does not drain any more is enough, and wakes who waits."""
    told(registry, 0, capability())
    record = registry.nodes()[0]
    loads = (ModelLoad(*OFFER, 1, 0, 0, True, 0.0),)
    registry._take(record, Update(None, Load(loads, draining=True)))
    assert registry.offers() == {}
    changed = registry.changed()
    registry._take(record, Update(None, Load(loads, draining=False)))
    assert registry.offers() == {OFFER: 1}
    assert changed.is_set()


async def test_a_node_that_makes_up_models_fills_no_memory(registry: Registry) -> None:
    """What was ever offered is remembered up to a bound, and what is not offered now is not in the index."""
    for round_ in range(12):
        many = tuple(
            Capability(OFFER[0], "text-to-image/sd@1", f"{round_}-{i}", "d" * 64, Rates()) for i in range(1000)
        )
        told(registry, 0, *many, sequence=round_ + 1)
    assert len(registry.offers()) == 1000
    assert len(registry._seen) == 10_000
    assert registry.ever_offered(OFFER[0], "11-999")
    assert not registry.ever_offered(OFFER[0], "0-0")


async def test_what_nodes_have_is_counted(registry: Registry) -> None:
    """Families, LoRAs and features of an offer, while the nodes that have them are up and say so."""
    plain, rich = capability(), replace(capability(), loras={"ink": "a1"}, features=("safety", "safety"))
    told(registry, 0, plain)
    told(registry, 1, rich)
    told(registry, 2, rich)
    assert registry.found(OFFER, "family") == {"sd": 3}
    assert registry.found(OFFER, "lora") == {"ink": 2}
    assert registry.found(OFFER, "feature") == {"safety": 2}
    told(registry, 1, plain, sequence=2)
    registry._lost(registry.nodes()[2], TransientError("gone"))
    assert (registry.found(OFFER, "lora"), registry.found(OFFER, "family")) == ({}, {"sd": 2})
    for place in (0, 1):
        registry._lost(registry.nodes()[place], TransientError("gone"))
    assert registry.found(OFFER, "family") == {}


async def test_a_node_that_said_busy_is_taken_for_full(registry: Registry) -> None:
    """Of that offer, until it reports its load anew, and for a while at most: it may have meant one job alone."""
    now = [100.0]
    registry._clock = lambda: now[0]

    def full() -> list[bool]:
        return [c.full for c in registry.candidates(OFFER, WANTED, 4, NOBODY)]

    told(registry, 0, capability())
    registry.refused_as_busy("node-0", ("text-to-image", "another"))
    assert full() == [False]
    registry.refused_as_busy("node-0", OFFER)
    assert full() == [True]
    told(registry, 0, capability())
    assert full() == [False]
    registry.refused_as_busy("node-0", OFFER)
    now[0] += BUSY_S
    assert full() == [False]


async def test_nodes_that_change_addresses_are_both_up(registry: Registry) -> None:
    """Two nodes without named ids come up at each other's address: neither is taken for the other's twin."""
    first, second = registry.nodes()[:2]
    x, y = (Description(NodeId(name), "e", 1, 1, 1, (capability(),)) for name in ("x", "y"))
    registry._take(first, Update(x, Load()))
    registry._take(second, Update(y, Load()))
    for record in (first, second):
        registry._lost(record, TransientError("gone"))
    registry._take(first, Update(replace(y, epoch="f"), Load()))
    registry._take(second, Update(replace(x, epoch="f"), Load()))
    assert [record.up for record in (first, second)] == [True, True]


async def test_an_id_that_an_address_names_is_nobody_elses() -> None:
    """Also while its own node is down: who relays its proofs from an address without an id gets none of its jobs."""
    addresses = [Address("127.0.0.1:1"), Address("127.0.0.1:2", "x")]
    made = Registry(addresses, RpcLimits(), Scores(), random.Random(5))
    relay, node = made.nodes()
    told_by = Update(Description(NodeId("x"), "e", 1, 1, 1, (capability(),)), Load())
    with pytest.raises(RefusedError, match="another address names this id"):
        made._take(relay, told_by)
    made._take(node, told_by)
    assert made.record("x") is node
    for record in made.nodes():
        await record.client.close()


async def test_a_node_that_refuses_gets_no_job_and_says_whom_to_add() -> None:
    """From its first word on; when its operator has added the id, it is up without a new description."""
    registry = Registry([Address("127.0.0.1:1")], RpcLimits(), Scores(), random.Random(5), own_id="our-id")
    record = registry.nodes()[0]
    description = Description(NodeId("n"), "e", 1, 1, 1, (capability(),))
    registry._take(record, Update(description, Load(), 0.0, refuses=True))
    assert (record.up, record.refuses, registry.offers()) == (False, True, {})
    assert "has to add the id our-id to `broadcasters`" in record.reason
    registry._take(record, Update(None, Load(), 0.0, refuses=False))
    assert (record.up, record.refuses, registry.offers()) == (True, False, {OFFER: 1})
    await record.client.close()


async def test_a_node_that_refused_a_ticket_gets_no_other(registry: Registry) -> None:
    """One of before says it in its refusal alone; at its next description it is tried again."""
    told(registry, 0, capability())
    registry.refused_us("node-0")
    assert registry.offers() == {}
    assert "refuses this broadcaster" in registry.nodes()[0].reason
    told(registry, 0, capability(), sequence=2)
    assert registry.offers() == {OFFER: 1}


async def test_nodes_come_and_go(registry: Registry) -> None:
    """A node that stays keeps its record; one that goes gets no job, and its channel stays while a job is there."""
    for place in range(3):
        told(registry, place, capability())
    kept, gone = registry.nodes()[:2]
    with registry.in_flight(gone):
        registry.apply([kept.address, Address("127.0.0.1:99")])
        assert [record.address.target for record in registry.nodes()] == ["127.0.0.1:1", "127.0.0.1:99"]
        assert registry.nodes()[0] is kept
        assert registry.offers() == {OFFER: 1}
        assert not gone.up
        assert not gone.quiet.is_set()
    assert gone.quiet.is_set()
    registry.apply([kept.address, gone.address])
    assert registry.nodes()[1] is not gone
    await gone.client.close()


async def test_a_channel_that_does_not_close_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that is taken off the list: the others are watched on."""
    registry = Registry([Address("127.0.0.1:1"), Address("127.0.0.1:2")], RpcLimits(), Scores(), random.Random(5))
    kept, gone = registry.nodes()
    tried, close = asyncio.Event(), gone.client.close

    async def fail() -> None:
        await close()
        tried.set()
        raise RuntimeError("no")

    monkeypatch.setattr(gone.client, "close", fail)
    running = asyncio.create_task(registry.run())
    await asyncio.sleep(0)
    registry.apply([kept.address])
    await asyncio.wait_for(tried.wait(), 20)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

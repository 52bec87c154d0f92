"""The edge to a node's calls: as many of one connection as it cares to begin, beside an honest one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from reelnet import codec
from reelnet.identity import Identity
from reelnet.jobs import Challenge
from reelnet.rpc import SERVICE
from tests.fakes.pool import InProcessEngine, PoolPlan, node_settings, running_node, until
from tests.fuzz.engine import Case, require
from tests.fuzz.grpc_edges import honest_job

MOST = {"Watch": 4, "Generate": 32, "Describe": 16, "Probe": 16}
"""Calls of one connection that may be under way at once, while none has sent a ticket."""
HONEST_S = 10.0
SETTLE_S = 5.0
CALLS = (10, 40, 300)


@asynccontextmanager
async def calls(folder: Path) -> AsyncIterator[Case]:
    """Calls of all methods on one connection: few are under way at once, and another connection is served as before."""
    engine = InProcessEngine()
    async with AsyncExitStack() as stack:
        plan = PoolPlan(folder, [engine], node={"rpc": {"watches": 6}})
        running = await stack.enter_async_context(running_node(node_settings(plan, 0), engine))
        await until(lambda: running.node.offers.by_key, "the node serves its model")
        target = running.address.partition("#")[0]
        greedy, other = [await stack.enter_async_context(_connection(target)) for _ in range(2)]
        me = Identity.generate()

        async def case(rng: random.Random) -> None:
            begun = _many(rng, greedy)
            try:
                async with asyncio.timeout(HONEST_S):
                    await _served(other, me, running)
                await _settled(begun)
            except TimeoutError:
                require(False, f"nobody else was served within {HONEST_S:g} s")
            finally:
                await _ended(begun)

        yield case


def _connection(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


def _many(rng: random.Random, channel: grpc.aio.Channel) -> list[tuple[str, Any]]:
    """A chance mix of calls, mostly of one method, each as far as it goes without another word."""
    methods = rng.choices(list(MOST), weights=[rng.choice((0.05, 1.0, 20.0)) for _ in MOST], k=rng.choice(CALLS))
    return [(method, _begin(rng, channel, method)) for method in methods]


def _begin(rng: random.Random, channel: grpc.aio.Channel, method: str) -> Any:
    path = f"/{SERVICE}/{method}"
    if method == "Generate":
        return channel.stream_stream(path)()
    if method == "Probe":
        return channel.unary_unary(path)(codec.probe_request_to_bytes("text-to-image", "synthetic/bars"))
    if method == "Describe":
        return channel.unary_unary(path)(codec.describe_request_to_bytes(_challenge()))
    return channel.unary_stream(path)(codec.watch_request_to_bytes(_challenge()) if rng.random() < 0.9 else b"")


def _challenge() -> Challenge:
    return Challenge(b"n" * 32, "me", time.time_ns() // 1_000_000 + 60_000)


async def _served(channel: grpc.aio.Channel, me: Identity, running: Any) -> None:
    """A description, the first update of a watch, and a job. Raises AioRpcError, AssertionError."""
    await channel.unary_unary(f"/{SERVICE}/Describe")(codec.describe_request_to_bytes(_challenge()))
    watch: Any = channel.unary_stream(f"/{SERVICE}/Watch")(codec.watch_request_to_bytes(_challenge()))
    require(isinstance(await watch.read(), bytes), "another connection's watch says nothing")
    await honest_job(channel, me, running)
    watch.cancel()


async def _settled(begun: list[tuple[str, Any]]) -> None:
    """Raises FoundError where more calls stay under way than one connection may have."""
    over: dict[str, int] = {}
    for _ in range(int(SETTLE_S / 0.05)):
        open_calls = Counter(method for method, call in begun if not call.done())
        over = {method: count for method, count in open_calls.items() if count > MOST[method]}
        if not over:
            return
        await asyncio.sleep(0.05)
    require(False, f"calls of one connection under way: {over}")


async def _ended(begun: list[tuple[str, Any]]) -> None:
    for _, call in begun:
        call.cancel()
    await asyncio.gather(*(call.code() for _, call in begun))

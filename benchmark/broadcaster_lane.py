"""A broadcaster, measured as an app uses it: over HTTP, with the nodes that it chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter

from pydantic import SecretStr

from benchmark.client import BroadcasterClient
from benchmark.lane import Delivered, Order
from reelnet.errors import NodeError

POOL = "pool"


class BroadcasterLane:
    """The whole pool behind one URL, with as many connections as there are jobs at a time."""

    name = POOL

    def __init__(self, clients: list[BroadcasterClient]) -> None:
        self._free: asyncio.LifoQueue[BroadcasterClient] = asyncio.LifoQueue()
        for client in clients:
            self._free.put_nowait(client)

    async def run(self, order: Order) -> Delivered:
        """The job; its outputs are downloaded when the clock of the job has stopped."""
        client = await self._free.get()
        try:
            return await self._run(client, order)
        finally:
            self._free.put_nowait(client)

    async def _run(self, client: BroadcasterClient, order: Order) -> Delivered:
        began = perf_counter()
        answer = await client.run(order.spec)
        total_s = perf_counter() - began
        if len(answer.urls) != len(order.paths):
            raise NodeError(f"{len(answer.urls)} outputs instead of {len(order.paths)}", code="count")
        pairs = zip(order.paths, answer.urls, strict=True)
        outputs = tuple([(path, await client.download(url, path)) for path, url in pairs])
        timings_s = {**answer.timings_s, "download": perf_counter() - began - total_s}
        return Delivered(answer.node, total_s, outputs, answer.price_nano, timings_s, "load" in answer.timings_s)


@asynccontextmanager
async def broadcaster_lane(url: str, concurrency: int, key: SecretStr | None = None) -> AsyncIterator[BroadcasterLane]:
    """The lane, with its connections open for the length of the block."""
    async with AsyncExitStack() as stack:
        clients = [BroadcasterClient(url, key) for _ in range(concurrency)]
        yield BroadcasterLane([await stack.enter_async_context(client) for client in clients])

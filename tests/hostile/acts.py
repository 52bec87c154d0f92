"""What a hostile peer is made of: acts, each of which is done over and over, at a bounded rate, while a block runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import httpx

from reelnet.errors import ReelnetError

ACT_S = 30.0
"""An act that its victim lets hang is given up after so long."""
ENDED = (
    OSError, EOFError, TimeoutError, ReelnetError, httpx.HTTPError, grpc.RpcError, grpc.aio.UsageError,
    asyncio.InvalidStateError,
)  # fmt: skip
"""How a victim ends an act: that is its right, and the next one follows."""


@dataclass
class Harm:
    """What has been done so far, by act. An act that has none stands there with 0."""

    done: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """The acts and how often each was done."""
        return dict(self.done)


@dataclass(frozen=True)
class Act:
    """One kind of harm: what is done, and the pause before it is done again, seconds."""

    do: Callable[[], Awaitable[object]]
    pause_s: float


@contextlib.asynccontextmanager
async def doing(acts: Mapping[str, Act]) -> AsyncIterator[Harm]:
    """Does every act over and over, each in a task of its own, until the block ends."""
    harm = Harm(Counter(dict.fromkeys(acts, 0)))
    tasks = [asyncio.create_task(_over_and_over(harm, name, act), name=name) for name, act in acts.items()]
    try:
        yield harm
        for task in tasks:
            if task.done():
                await task  # an act that failed by a fault of its own is no harm
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _over_and_over(harm: Harm, name: str, act: Act) -> None:
    while True:
        with contextlib.suppress(*ENDED):
            async with asyncio.timeout(ACT_S):
                await act.do()
        harm.done[name] += 1
        await asyncio.sleep(act.pause_s)

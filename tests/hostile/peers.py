"""Hostile peers by kind, in a process of their own, so that what they cost their victim is not their own work.

`python -m tests.hostile.peers pool` holds the nodes, and attacks the pool that it is told; `… site FOLDER` is a pool in
one process, with the hostile runner in it. Commands come as JSON lines on standard input, `["begin", kind, target]`,
`["count"]`, `["end"]`; each is answered with what has been done so far. The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import uvloop

from reelnet import telemetry
from tests.hostile.acts import Harm
from tests.hostile.apps import hostile_app
from tests.hostile.broadcasters import hostile_broadcaster
from tests.hostile.nodes import hostile_nodes
from tests.hostile.runners import site

NODE, BROADCASTER, APP, RUNNER = KINDS = ("node", "broadcaster", "app", "runner")
Kinds = dict[str, Callable[[str], AbstractAsyncContextManager[Harm]]]
"""Begins the harm to a target."""


async def main(role: str, folder: str = "") -> None:
    """Holds the role's peers until the input ends."""
    telemetry.configure(role)
    async with _site(Path(folder)) if role == "site" else _pool() as (facts, kinds):
        await _obey(facts, kinds)


@contextlib.asynccontextmanager
async def _pool() -> AsyncIterator[tuple[dict[str, Any], Kinds]]:
    async with hostile_nodes() as nodes:
        kinds: Kinds = {NODE: nodes.at_work, BROADCASTER: hostile_broadcaster, APP: hostile_app}
        yield {"nodes": nodes.addresses}, kinds


@contextlib.asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[tuple[dict[str, Any], Kinds]]:
    async with site(folder) as running:
        yield {"url": running.url}, {RUNNER: running.at_work}


async def _obey(facts: dict[str, Any], kinds: Kinds) -> None:
    _say(facts)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    harm = Harm()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(transport.close)
        work = await stack.enter_async_context(contextlib.AsyncExitStack())
        async for line in reader:
            match json.loads(line):
                case ["begin", kind, target]:
                    harm = await work.enter_async_context(kinds[kind](target))
                case ["end"]:
                    await work.aclose()
            _say(harm.counts())


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))

"""A hostile runner: the second model of a node, whose runner breaks the contract another way in each of its lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.pool import (
    PATIENCE_S,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
)
from tests.fakes.raw_runner import BAD, HEALTH, MODELS, OK, SAID, STARTED, RawEngine, said
from tests.hostile.acts import Act, Harm, doing

BACKOFF = {"limits": {"restart_backoff_s": 0.05, "restart_backoff_max_s": 0.1, "cancel_s": 0.5}}
JOB = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1, "model_id": BAD}
JOB_S = 0.05
EXIT_S = 0.02
"""After a broken answer a life ends so soon: else the node waits for its engine to say how it did, and harm is rare."""
ENDLESS_HEADERS = b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000
LIVES: tuple[tuple[str, dict[bytes, bytes]], ...] = (
    ("stream: noise", {b"/jobs": b"no HTTP\r\n\r\n"}),
    ("info: too long", {b"/info": OK + b" " * 2**21}),
    ("stream: flood", {b"/jobs": STARTED + b'{"event":"tick","idle_s":0}\n' * 20_000}),
    ("health: noise", {b"/health": b"no HTTP\r\n\r\n"}),
    ("stream: deep", {b"/jobs": STARTED + b"[" * 100_000 + b"\n"}),
    ("info: deep", {b"/info": OK + b"[" * 100_000}),
    ("stream: headers", {b"/jobs": ENDLESS_HEADERS}),
    ("health: headers", {b"/health": ENDLESS_HEADERS}),
    ("stream: order", {b"/jobs": STARTED + b'{"event":"started"}\n'}),
    ("info: 20,000 pipelines", {b"/info": said(pipelines=SAID["pipelines"] * 20_000)}),
    ("stream: redirect", {b"/jobs": b"HTTP/1.1 301 Moved\r\nlocation: http://elsewhere/\r\nconnection: close\r\n\r\n"}),
    ("health: numbers", {b"/health": OK + b'{"state":"READY","memory_bytes":1e999}'}),
)
"""What a life does, and its answers where they are not good ones. Every second one gets ready and fails its jobs."""
GOOD_ANSWERS = {b"/info": said(), b"/health": HEALTH, b"/jobs": OK}


@dataclass
class HostileRunner(RawEngine):
    """Well-behaved, with no job to do, until it is given some harm to do."""

    harm: Harm | None = None

    def __post_init__(self) -> None:
        self.answer = self._turn

    def _turn(self, path: bytes) -> bytes:
        if self.harm is None:
            return GOOD_ANSWERS.get(path, HEALTH)
        name, answers = LIVES[self.lives % len(LIVES)]
        if path in answers:
            self.harm.done[name] += 1
        if path in answers or path == b"/jobs":
            asyncio.get_running_loop().call_later(EXIT_S, self.ended[f"bad-{self.lives}"].set)
        return answers.get(path, GOOD_ANSWERS.get(path, HEALTH))


@dataclass
class Site:
    """A broadcaster and a node that has both an honest runner and the hostile one, all in this process."""

    url: str
    engine: HostileRunner

    @contextlib.asynccontextmanager
    async def at_work(self, target: str = "") -> AsyncIterator[Harm]:
        """Harm by the runner, which is given jobs meanwhile, until the block ends."""
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, trust_env=False) as http:

            async def job() -> Any:
                return await http.post("/text-to-image", json=JOB)

            async with doing({"jobs for it": Act(job, JOB_S)}) as harm:
                harm.done.update({name: 0 for name, _ in LIVES})
                self.engine.harm = harm
                try:
                    yield harm
                finally:
                    self.engine.harm = None


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[Site]:
    """The site, once both models are served."""
    engine = HostileRunner()
    plan = PoolPlan(home, [engine], MODELS, node=BACKOFF)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(running_node(node_settings(plan, 0), engine))
        broadcaster = await stack.enter_async_context(running_broadcaster(broadcaster_settings(home, [node.address])))
        await ready(broadcaster, 1, len(MODELS))
        yield Site(broadcaster.url, engine)

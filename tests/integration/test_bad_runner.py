"""A runner that says whatever it likes, beside an honest one under the same node: it costs its own jobs alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from orchestrator.app import RunningNode
from tests.fakes.pool import (
    PATIENCE_S,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
    until,
)
from tests.fakes.raw_runner import BAD, GOOD, HEALTH, MODELS, OK, QUICK, SAID, STARTED, RawEngine, said

SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}


@dataclass
class Site:
    """One node with both runners, and a broadcaster."""

    engine: RawEngine
    node: RunningNode
    http: httpx.AsyncClient

    async def draw(self, model: str) -> httpx.Response:
        return await self.http.post("/text-to-image", json=SMALL | {"model_id": model})


@contextlib.asynccontextmanager
async def beside_an_honest_one(home: Path, models: int, **answers: bytes) -> AsyncIterator[Site]:
    """The site once so many models are offered; at its end the honest runner still works."""
    by_path = {f"/{path}".encode(): answer for path, answer in answers.items()}
    engine = RawEngine(answer=lambda path: by_path.get(path, HEALTH))
    plan = PoolPlan(home, [engine], MODELS, node=QUICK)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(running_node(node_settings(plan, 0), engine))
        broadcaster = await stack.enter_async_context(running_broadcaster(broadcaster_settings(home, [node.address])))
        await ready(broadcaster, 1, models)
        http = httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S)
        site = Site(engine, node, await stack.enter_async_context(http))
        yield site
        assert (await site.draw(GOOD)).status_code == 200


@pytest.mark.parametrize(
    "info",
    [
        said(lora_digests=[]), said(vram_bytes=-5), said(vram_bytes=2**70), said(digest="x" * 2**21),
        said(vram_bytes=8).replace(b": 8", b": 1e999"), said().replace(b"MIT", b"\\ud800"), OK + b"[" * 100_000,
        said(pipelines=SAID["pipelines"] * 20_000), OK + b" " * 2**21, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"HTTP/1.1 301 Moved\r\nlocation: http://elsewhere/\r\nconnection: close\r\n\r\n", b"no HTTP\r\n\r\n",
    ],
)  # fmt: skip
async def test_an_info_that_is_none_costs_a_restart(tmp_path: Path, info: bytes) -> None:
    """The bad runner is started again and again, the honest one works, and the next start has a good state."""
    async with beside_an_honest_one(tmp_path, 1, info=info) as site:
        await until(lambda: site.engine.lives >= 2, "the bad runner is started anew")
    async with beside_an_honest_one(tmp_path, 2, info=said()):
        pass
    assert not list(tmp_path.rglob("*.damaged"))


@pytest.mark.parametrize(
    "stream",
    [
        STARTED + b'{"event":"progress","stage":"denoise","step":1%b,"total":1}\n' % (b"0" * 30),
        STARTED + b'{"event":"tick","idle_s":NaN}\n', STARTED * 2, STARTED + b'{"event":"started"}\n',
        STARTED + b'{"event":"output","index":1,"media_type":"image/png","seed":1,"nsfw":null}\n',
        STARTED + b'{"event":"output","index":0,"media_type":"image/png","seed":-1,"nsfw":null}\n',
        STARTED + b"[" * 100_000 + b"\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000, b"no HTTP\r\n\r\n",
        b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n" + b"x" * 2**20,
    ],
)  # fmt: skip
async def test_a_stream_that_breaks_the_contract_costs_its_job(tmp_path: Path, stream: bytes) -> None:
    """The job fails as the node's, the runner is started anew, and the honest one's jobs go on."""
    async with beside_an_honest_one(tmp_path, 2, info=said(), jobs=stream) as site:
        assert (await site.draw(BAD)).status_code == 500
        await until(lambda: site.engine.lives >= 2, "the bad runner is started anew")

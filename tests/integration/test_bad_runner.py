"""A runner that says whatever it likes, beside an honest one under the same node: it costs its own jobs alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from orchestrator import supervisor
from orchestrator.app import RunningNode
from orchestrator.supervisor import Supervisor
from tests.fakes.pool import (
    PATIENCE_S,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    running_broadcaster,
    running_node,
    until,
)
from tests.fakes.raw_runner import BAD, GOOD, HEALTH, MODELS, OK, QUICK, STARTED, RawEngine, said

pytestmark = pytest.mark.asyncio(loop_scope="module")
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}


@dataclass
class Site:
    """One node with both runners, and a broadcaster."""

    engine: RawEngine
    answers: dict[bytes, bytes]
    node: RunningNode
    http: httpx.AsyncClient

    @property
    def bad(self) -> Supervisor:
        """Who keeps the bad runner."""
        return next(s for s in self.node.node.supervisors.values() if s.slot.model == BAD)

    def plays(self, answers: dict[bytes, bytes]) -> None:
        """What the bad runner answers from now on, by path."""
        self.answers.clear()
        self.answers.update(answers)

    async def draw(self, model: str) -> httpx.Response:
        return await self.http.post("/text-to-image", json=SMALL | {"model_id": model})

    async def lives(self, more: int) -> None:
        """Until the bad runner was started so many times again."""
        wanted = self.engine.lives + more
        await until(lambda: self.engine.lives >= wanted, "the bad runner is started anew")


@contextlib.asynccontextmanager
async def beside_an_honest_one(home: Path, **answers: bytes) -> AsyncIterator[Site]:
    """The site, with a bad runner that gives these answers, and whose end nobody waits for: it says nothing of it."""
    by_path = {f"/{path}".encode(): answer for path, answer in answers.items()}
    engine = RawEngine(answer=lambda path: by_path.get(path, HEALTH))
    plan = PoolPlan(home, [engine], MODELS, node=QUICK)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(supervisor, "LAST_WORD_S", 0.01)
        node = await stack.enter_async_context(running_node(node_settings(plan, 0), engine))
        broadcaster = await stack.enter_async_context(running_broadcaster(broadcaster_settings(home, [node.address])))
        http = httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S)
        yield Site(engine, by_path, node, await stack.enter_async_context(http))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One node, to which one bad answer after the other is given."""
    home = tmp_path_factory.mktemp("home")
    async with beside_an_honest_one(home, info=said()) as site:
        yield site
    assert not list(home.rglob("*.damaged"))


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Site) -> AsyncIterator[Site]:
    """Both are ready; after the test the honest one works, and so does the bad one when it says what it ought."""
    await until(lambda: shared.bad.slot.ready, "the bad runner is ready")
    yield shared
    assert (await shared.draw(GOOD)).status_code == 200
    shared.plays({b"/info": said()})
    await until(lambda: shared.bad.slot.ready, "the bad runner is taken as soon as it makes sense")


@pytest.mark.parametrize(
    "info",
    [
        said(lora_digests=[]), said(vram_bytes=2**70), said().replace(b"MIT", b"\\ud800"), OK + b"[" * 100_000,
        OK + b" " * 2**21, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000, b"no HTTP\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nlocation: http://elsewhere/\r\nconnection: close\r\n\r\n",
    ],
)  # fmt: skip
async def test_an_info_that_is_none_costs_a_restart(site: Site, info: bytes) -> None:
    """The bad runner is started again and again, and is never ready; the honest one goes on."""
    site.plays({b"/info": info})
    site.bad.restart("the test wants another answer")
    await site.lives(3)
    assert not site.bad.slot.ready


@pytest.mark.parametrize(
    "stream",
    [
        STARTED + b'{"event":"progress","stage":"denoise","step":1%b,"total":1}\n' % (b"0" * 30),
        STARTED * 2, STARTED, STARTED + b"[" * 100_000 + b"\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"no HTTP\r\n\r\n", b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n" + b"x" * 2**20,
    ],
)  # fmt: skip
async def test_a_stream_that_breaks_the_contract_costs_its_job(site: Site, stream: bytes) -> None:
    """The job fails as the node's, the runner is started anew, and the honest one's jobs go on."""
    site.answers[b"/jobs"] = stream
    before = site.engine.lives
    assert (await site.draw(BAD)).status_code == 500
    await until(lambda: site.engine.lives > before, "the bad runner is started anew")


async def test_a_bad_info_spoils_no_later_start(tmp_path: Path) -> None:
    """What a node keeps from one start to the next has nothing of it."""
    async with beside_an_honest_one(tmp_path, info=said(vram_bytes=-5)) as site:
        await site.lives(2)
    async with beside_an_honest_one(tmp_path, info=said()) as site:
        await until(lambda: all(s.slot.ready for s in site.node.node.supervisors.values()), "both are ready")
    assert not list(tmp_path.rglob("*.damaged"))

"""Two broadcasters on one port: one drains, the other takes what comes, and no app is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from broadcaster.app import RunningBroadcaster
from runner.backend import Rendered, Reporter, RunnerJob
from runner.synthetic import SyntheticBackend
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
    until,
)

QUICK = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
HELD = {**QUICK, "seed": 99}
MODEL = {"model": "synthetic/bars", "replicas": 2, "backend": {"synthetic": {"unit_s": 0}}}
TRIES = 200


class Holding(SyntheticBackend):
    """Colour bars; the job with HELD's seed waits until it may go on."""

    go = threading.Event()

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        if job.params.seed == HELD["seed"]:
            assert self.go.wait(PATIENCE_S)
        yield from super().run(job, report)


def settings(home: Path, address: str, name: str, port: int = 0) -> Any:
    media = {"folder": str(home / "media")}
    return broadcaster_settings(home, [address], name=name, http={"port": port, "shared": True}, media=media)


async def once(url: str, job: dict[str, Any]) -> httpx.Response:
    """A job over a connection of its own, as a proxy opens them."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        return await http.post("/text-to-image", json=job)


@asynccontextmanager
async def connection_to(wanted: RunningBroadcaster, other: RunningBroadcaster) -> AsyncIterator[httpx.AsyncClient]:
    """A connection that leads to the wanted instance: the kernel chooses, and the journals tell."""
    for _ in range(TRIES):
        async with httpx.AsyncClient(base_url=wanted.url, timeout=PATIENCE_S) as http:
            answer = await http.post("/text-to-image", json=QUICK)
            job = answer.json()["job"]["id"]
            while (here := await wanted.journal.job(job)) is None and await other.journal.job(job) is None:
                await asyncio.sleep(0.01)
            if here:
                yield http
                return
    raise AssertionError("the kernel gave this instance no connection")


async def test_a_drained_instance_leaves_its_port_to_the_other(tmp_path: Path) -> None:
    """Its job ends well, its result is had from the other one, and after `resume` it has its share again."""
    engine = InProcessEngine(lambda _, told: Holding(told.advertised_id, told.synthetic))
    plan = PoolPlan(tmp_path, [engine], [MODEL], node={"devices": ["cpu", "cpu"]})
    async with (
        running_node(node_settings(plan, 0), engine) as node,
        running_broadcaster(settings(tmp_path, node.address, "blue")) as blue,
        running_broadcaster(settings(tmp_path, node.address, "green", int(blue.url.rpartition(":")[2]))) as green,
    ):
        await ready(blue, 1)
        await ready(green, 1)
        async with connection_to(blue, green) as http:
            last = asyncio.create_task(http.post("/text-to-image", json=HELD))
            await until(lambda: blue.gateway.running == 1, "the job is there")
            blue.control.drain()
            assert [(await once(blue.url, QUICK)).status_code for _ in range(20)] == [200] * 20
            assert blue.gateway.running == 1
            Holding.go.set()
            answer = await last
            assert answer.status_code == 200
            result = await http.get(answer.json()["images"][0]["url"])
        assert (result.status_code, result.headers["content-type"]) == (200, "image/png")
        await blue.control.resume()
        async with connection_to(blue, green):
            pass

"""A node reads its configuration again while jobs run: none is lost, and what changed holds from then on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from orchestrator.app import RunningNode
from orchestrator.app import serve as serve_node
from orchestrator.control_client import NodeClient
from orchestrator.settings import OrchestratorSettings
from reelnet.client import Address, OrchestratorClient
from reelnet.errors import ConfigError, RefusedError
from reelnet.identity import Identity
from reelnet.jobs import Done, Ticket
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES
from reelnet.pricing import price
from reelnet.ticket import sign_ticket
from tests.fakes.pool import InProcessEngine, PoolPlan, broadcaster_settings, node_settings, running_broadcaster, until

PATIENCE_S = 60
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2}
KEPT, GONE, NEW = "synthetic/kept", "synthetic/gone", "synthetic/new"
AT_ONCE = 80


def bars(name: str, job_s: float = 0.02, price: str = "0.01", **more: Any) -> dict[str, Any]:
    """A model whose job takes `job_s` and costs `price`."""
    pixel_steps = SMALL["width"] * SMALL["height"] * SMALL["num_inference_steps"]
    return {
        "model": name,
        "queue": 500,
        "backend": {"synthetic": {"unit_s": job_s / (pixel_steps / 1e6)}},
        "pipelines": {"text-to-image": {"price": {"job": price}}},
        **more,
    }


@dataclass
class Served:
    """An `orchestrator serve`, its file and its commands."""

    process: subprocess.Popen[bytes]
    config: Path
    log: Path
    values: dict[str, Any]

    def write(self, **values: Any) -> None:
        """What the next reload reads."""
        self.values |= values
        self.config.write_text(yaml.safe_dump(self.values))

    @property
    def control(self) -> NodeClient:
        return NodeClient(str(self.values["name"]), Path(self.values["home"]))

    async def hang_up(self) -> None:
        """SIGHUP, until the node has acted on it."""
        before = self.heard
        self.process.send_signal(signal.SIGHUP)
        await until(lambda: self.heard > before, "the signal is acted on")

    @property
    def heard(self) -> int:
        text = self.log.read_text()
        return text.count("configuration reloaded") + text.count("configuration not reloaded")

    @property
    def address(self) -> str:
        return self.control.status().address


@contextlib.asynccontextmanager
async def served(home: Path, name: str, *models: dict[str, Any]) -> AsyncIterator[Served]:
    """A node in a process of its own, once it serves; drained at the end."""
    config, log = home / f"{name}.yaml", home / f"{name}.log"
    free = {"port": 0}
    values = {"name": name, "home": str(home), "grpc": free, "metrics": free, "devices": ["cpu"], "engine": "process"}
    with log.open("wb") as out:
        config.write_text(yaml.safe_dump({**values, "models": list(models)}))
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", "serve", "--config", str(config)],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    made = Served(process, config, log, {**values, "models": list(models)})
    try:
        ready = home / "orchestrator" / name / "ready.json"
        await until(lambda: ready.exists() or process.poll() is not None, "the node says where it answers")
        assert process.poll() is None, log.read_text()
        yield made
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@dataclass
class App:
    """A client of a broadcaster, that asks for much at once."""

    http: httpx.AsyncClient
    offers: Callable[[], dict[tuple[str, str], int]]

    async def draw(self, model: str, seed: int = 1) -> dict[str, Any]:
        """A job's facts. Raises AssertionError when it was not done."""
        answer = await self.http.post(
            "/text-to-image", json={**SMALL, "prompt": "boat", "seed": seed, "model_id": model}
        )
        assert answer.status_code == 200, f"{model}: {answer.text}"
        return dict(answer.json()["job"])

    def many(self, model: str, count: int) -> list[asyncio.Task[dict[str, Any]]]:
        """So many jobs at once."""
        return [asyncio.create_task(self.draw(model, seed)) for seed in range(count)]

    async def until_offered(self, model: str, nodes: int) -> None:
        await until(lambda: self.offers().get(("text-to-image", model), 0) == nodes, f"{nodes} offer {model}")


@contextlib.asynccontextmanager
async def app_of(home: Path, *nodes: Served) -> AsyncIterator[App]:
    """A broadcaster of these nodes, and its client."""
    async with running_broadcaster(broadcaster_settings(home, [node.address for node in nodes])) as running:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S, limits=limits) as http:
            yield App(http, running.registry.offers)


async def test_a_reload_under_load_loses_no_job(tmp_path: Path) -> None:
    """By a signal and by the socket: a rate, a queue, a limit and the models change under hundreds of jobs."""
    async with (
        served(tmp_path, "one", bars(KEPT), bars(GONE, job_s=0.2)) as one,
        served(tmp_path, "two", bars(GONE, job_s=0.06)) as two,
        app_of(tmp_path, one, two) as app,
    ):
        await app.until_offered(KEPT, 1)
        await app.until_offered(GONE, 2)
        under_way = [*app.many(GONE, AT_ONCE), *app.many(KEPT, AT_ONCE)]  # both nodes are free for the first
        await until(lambda: sum(task.done() for task in under_way) > 10, "jobs run")
        assert sum(not task.done() for task in under_way) > 100

        one.write(models=[bars(KEPT, price="0.02", queue=400), bars(NEW)], limits={"heartbeat_s": 5})
        await one.hang_up()
        assert "configuration reloaded" in one.log.read_text(), one.log.read_text()
        under_way += app.many(GONE, 20)
        await app.until_offered(NEW, 1)
        under_way += [*app.many(KEPT, 20), *app.many(NEW, 20)]
        done = await asyncio.gather(*under_way)

        assert len(done) == 2 * AT_ONCE + 60
        moved = [job for job in done if job["attempts"] > 1]
        assert {job["model"] for job in moved} == {GONE}, "those that waited for it, and no others, went elsewhere"
        assert {job["price"] for job in done if job["model"] != KEPT} == {"0.01"}
        assert {job["price"] for job in done if job["model"] == KEPT} == {"0.01", "0.02"}, "a quote holds"
        assert (await app.draw(KEPT))["price"] == "0.02"
        await app.until_offered(GONE, 1)
        gone = await app.draw(GONE)
        status = await asyncio.to_thread(two.control.status)
        assert gone["node"] == status.node_id

        one.write(models=[bars(KEPT, price="0.03"), bars(GONE)])
        changed = await asyncio.to_thread(one.control.reload)
        assert "models: synthetic/new is not served any more" in changed
        assert "models: synthetic/gone is new" in changed
        await app.until_offered(GONE, 2)
        assert (await app.draw(KEPT))["price"] == "0.03"
        async with asyncio.timeout(PATIENCE_S):  # the runner of what is gone is ended meanwhile
            while NEW in {slot.model for slot in (await asyncio.to_thread(one.control.status)).slots}:
                await asyncio.sleep(0.02)
        status = await asyncio.to_thread(one.control.status)
        assert {slot.model: slot.restarts for slot in status.slots} == {KEPT: 0, GONE: 0}


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """Neither way: every fault is told, and the node goes on with what it has."""
    async with served(tmp_path, "one", bars(KEPT)) as one, app_of(tmp_path, one) as app:
        await app.until_offered(KEPT, 1)
        before = await asyncio.to_thread(one.control.status)
        running = app.many(KEPT, 50)
        for bad, fault in (
            ("models: [", "yaml"),
            (yaml.safe_dump({**one.values, "modles": []}), "did you mean 'models'"),
        ):
            one.config.write_text(bad)
            with pytest.raises(ConfigError) as raised:
                await asyncio.to_thread(one.control.reload)
            assert fault in str(raised.value).lower() or fault in str(raised.value)
            await one.hang_up()
        assert one.log.read_text().count("configuration not reloaded") == 2
        assert all(job["price"] == "0.01" for job in await asyncio.gather(*running))
        after = await asyncio.to_thread(one.control.status)
        assert [(m.model, m.queue, m.prices) for m in after.models] == [
            (m.model, m.queue, m.prices) for m in before.models
        ]
        one.write()
        assert await asyncio.to_thread(one.control.reload) == ()


@dataclass
class Desk:
    """A broadcaster's identity in front of one node, whose configuration is the test's to change."""

    node: RunningNode
    client: OrchestratorClient
    identity: Identity
    settings: OrchestratorSettings

    async def reload(self, **models: Any) -> tuple[str, ...]:
        """The node with its model changed."""
        model = self.settings.models[0].model_validate({**bars(KEPT, 0), **models})
        self.settings = self.settings.model_copy(update={"models": (model,)})
        return await self.node.control.reload()

    async def ticket(self) -> Ticket:
        """A ticket as a broadcaster writes it now."""
        told = await self.client.describe(10)
        (capability,) = told.capabilities
        params = TextToImage(prompt="boat", seed=3, **SMALL)
        work = PIPELINES["text-to-image"].work(params)
        now_ms = time.time_ns() // 1_000_000
        return Ticket(
            job_id=f"job-{time.time_ns()}",  # type: ignore[arg-type]
            attempt=1,
            broadcaster_id=self.identity.id,  # type: ignore[arg-type]
            node_id=told.node_id,
            node_epoch=told.epoch,
            pipeline="text-to-image",
            schema=capability.schema,
            model=capability.model,
            model_digest=capability.model_digest,
            params=params.model_dump_json().encode(),
            inputs=(),
            work=work,
            rates=capability.rates,
            ceiling_nano=price(work, capability.rates),
            deadline_ms=now_ms + 60_000,
            expires_ms=now_ms + 30_000,
        )

    async def redeem(self, ticket: Ticket) -> int:
        """What the node charges for a ticket, nano-dollars."""
        async with self.client.generate(sign_ticket(self.identity, ticket), [], 30) as attempt:
            events = [event async for event in attempt]
            await attempt.acknowledge()
        (done,) = [event for event in events if isinstance(event, Done)]
        return done.price_nano


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """One node that takes tickets at former rates for a second, and a client that knows its id."""
    limits = {"rates_grace_s": 1}
    settings = node_settings(PoolPlan(tmp_path, [], [bars(KEPT, 0)], {"limits": limits}), 0)
    stopping, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    at: list[Desk] = []
    task = asyncio.create_task(
        serve_node(
            settings, stopping, engine=InProcessEngine(), reread=lambda: at[0].settings, started=started.set_result
        )
    )
    running: RunningNode = await started
    await until(lambda: any(slot.ready for slot in running.node.table.slots), "the runner is ready")
    client = OrchestratorClient(Address.parse(running.address))
    at.append(Desk(running, client, Identity.load_or_create(tmp_path / "broadcaster.key"), settings))
    try:
        yield at[0]
    finally:
        await client.close()
        stopping.set()
        await task


def priced(price: str) -> dict[str, Any]:
    """The model at another price."""
    return {"pipelines": {"text-to-image": {"price": {"job": price}}}}


async def test_tickets_at_former_rates_are_taken_for_a_while(desk: Desk) -> None:
    """At those rates, also when there were two reloads meanwhile; later they are refused as such."""
    first = await desk.ticket()
    assert await desk.reload(**priced("0.02")) == (
        "models: synthetic/kept pipelines text-to-image price job: 0.01 → 0.02",
    )
    second = await desk.ticket()
    await desk.reload(**priced("0.03"))
    third = await desk.ticket()
    assert [await desk.redeem(ticket) for ticket in (first, second, third)] == [10_000_000, 20_000_000, 30_000_000]
    late = await desk.ticket()
    await desk.reload(**priced("0.04"))
    await asyncio.sleep(1.1)  # the grace itself
    with pytest.raises(RefusedError, match="rates"):
        await desk.redeem(late)
    assert await desk.redeem(await desk.ticket()) == 40_000_000


async def test_a_reload_that_changes_nothing_disturbs_nobody(desk: Desk) -> None:
    """No new description, no restart; what needs one is said each time."""
    before = await desk.client.describe(10)
    assert await desk.reload() == ()
    assert await desk.client.describe(10) == before
    desk.settings = desk.settings.model_copy(update={"name": "another"})
    for _ in range(2):
        assert await desk.node.control.reload() == ("name: node-1 → another (needs a restart)",)
    assert desk.node.node.settings.name == "node-1"

"""A day of operating a broadcaster, with real processes and its own commands, under jobs that never cease."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from broadcaster.operator.control_client import BroadcasterClient
from broadcaster.operator.status import BroadcasterStatus
from tests.fakes.pool import until
from tests.fakes.shell import Shell, bare_home

WORKERS = 30
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
BARS = {"model": "synthetic/bars", "queue": 64, "backend": {"synthetic": {"unit_s": 0.5}}}
ANY_PORT = ("--http-port", "0", "--metrics-port", "0")
CONFIG = ("--config", "broadcaster.yaml")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell on a bare home."""
    with bare_home(tmp_path) as found:
        yield found


def edit(file: Path, **values: Any) -> None:
    """Changes a configuration file by hand."""
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text("utf-8")), **values}), "utf-8")


async def node(shell: Shell, name: str, skew_s: int = 0, **values: Any) -> str:
    """A node in the background, whose clock may be wrong; its address."""
    file = shell.folder / f"{name}.yaml"
    base = {"name": name, "grpc": {"port": 0}, "metrics": {"port": 0}, "models": [BARS], "engine": "process"}
    file.write_text(yaml.safe_dump({**base, **values}), "utf-8")
    program = ("tests.fakes.skewed", str(skew_s), "orchestrator.cli") if skew_s else ("orchestrator",)
    await shell.background(*program, "serve", "--config", file.name)
    return str(shell.facts("orchestrator", name)["address"])


@dataclass
class Jobs:
    """WORKERS apps with one key that send a job as soon as they have an answer; `answers` counts those by status."""

    url: str
    key: str
    answers: Counter[int] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    _over: bool = False

    async def run(self) -> None:
        """Sends jobs until `end`."""
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as http, asyncio.TaskGroup() as apps:
            for _ in range(WORKERS):
                apps.create_task(self._app(http))

    async def more(self, count: int = 2 * WORKERS) -> None:
        """Until so many more answers have come."""
        wanted = self.answers.total() + count
        await until(lambda: self.answers.total() >= wanted, f"{count} more answers")

    def end(self) -> None:
        """No app sends another job."""
        self._over = True

    async def _app(self, http: httpx.AsyncClient) -> None:
        while not self._over:
            answer = await send(http, self.key)
            self.answers[answer.status_code] += 1
            if answer.status_code != 200:
                return
            self.nodes[answer.json()["job"]["node"]] += 1


async def send(http: httpx.AsyncClient, key: str) -> httpx.Response:
    return await http.post("/text-to-image", json=SMALL, headers={"authorization": f"Bearer {key}"})


@contextlib.asynccontextmanager
async def busy(url: str, key: str) -> AsyncIterator[Jobs]:
    """Jobs that never cease, for the length of the block."""
    jobs = Jobs(url, key)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(jobs.run())
        try:
            yield jobs
        finally:
            jobs.end()
        await running


async def test_a_day(shell: Shell) -> None:
    """Nodes, keys and ceilings come and go by `reload` while 30 jobs run: none is lost, none is refused."""
    file = shell.folder / "broadcaster.yaml"
    said = (await shell.run("broadcaster", "init", "--key", "alice")).out
    alice = said.partition("shown this once: ")[2].split()[0]
    told = await shell.document("broadcaster", "doctor", *CONFIG)
    assert told["ok"], told
    assert "no nodes: no job can be done" in [check["text"] for check in told["checks"]]

    first = await node(shell, "first")
    edit(file, orchestrators=[first], limits={"price": {"text-to-image": "1"}})
    await shell.background("broadcaster", "serve", *CONFIG, *ANY_PORT)
    url = shell.facts("broadcaster")["url"]
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await up(shell, first)
        async with busy(url, alice) as jobs:
            await jobs.more()
            await add_a_node(shell, file, first, jobs)
            await change_the_ceiling(shell, file)
            await lend_a_key(shell, http)
            await hang_up(shell, file)
            await take_a_node_away(shell, file, first, jobs)
            await drain_and_resume(shell, jobs)
        assert set(jobs.answers) == {200}
        assert jobs.answers.total() > 10 * WORKERS
        edit(file, limits={"price": {"text-to-image": "0"}}, catalogue={"nothing/served": {}})
        await shell.run("broadcaster", "reload", *CONFIG)
        async with metrics_of(shell) as metrics:
            assert "no node serves anything of the catalogue" in await why_not_ready(metrics)
        edit(file, keys_file=str(shell.folder / "nowhere"))
        fault = await shell.run("broadcaster", "reload", *CONFIG, code=2)
        assert "keys_file: " in fault.err
        assert (await send(http, alice)).status_code != 401, "a faulty file changes nothing"
    assert await shell.end(shell.children[1]) == 0


async def up(shell: Shell, *addresses: str) -> None:
    """Until these nodes, and no others, are in the pool and up."""
    wanted = {address.partition("#")[0] for address in addresses}
    async with asyncio.timeout(60):
        while True:
            nodes = (await status_of(shell)).nodes
            working = {node.address for node in nodes if node.state == "up" and node.models}
            if working == wanted == {node.address for node in nodes}:
                return
            await asyncio.sleep(0.02)


async def status_of(shell: Shell) -> BroadcasterStatus:
    """Asked as the commands do it, without a process for each question."""
    return await asyncio.to_thread(BroadcasterClient("default", shell.folder / "home").status)


async def add_a_node(shell: Shell, file: Path, first: str, jobs: Jobs) -> None:
    """A second node gets jobs without a restart."""
    second = await node(shell, "second")
    edit(file, orchestrators=[first, second])
    assert (await shell.run("broadcaster", "reload", *CONFIG)).out == f"orchestrators: {second} is new\n"
    await up(shell, first, second)
    await until(lambda: jobs.nodes[second.partition("#")[2]] > 0, "the second node does jobs")


async def change_the_ceiling(shell: Shell, file: Path) -> None:
    """With the difference printed; the second time there is none."""
    edit(file, limits={"price": {"text-to-image": "0.5"}})
    assert (await shell.run("broadcaster", "reload", *CONFIG)).out == "limits.price.text-to-image: 1 → 0.5\n"
    assert (await shell.run("broadcaster", "reload", *CONFIG)).out == "nothing changed\n"


async def lend_a_key(shell: Shell, http: httpx.AsyncClient) -> None:
    """A key works from the moment that it is made, and is refused from the moment that it is revoked."""
    bob = (await shell.run("broadcaster", "keys", "add", "bob", *CONFIG)).out.strip()
    running = asyncio.create_task(send(http, bob))
    assert (await send(http, bob)).status_code == 200
    await shell.run("broadcaster", "keys", "revoke", "bob", *CONFIG)
    refused = await send(http, bob)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key")
    assert (await running).status_code == 200
    assert [key["name"] for key in await shell.document("broadcaster", "keys", "list", *CONFIG)] == ["alice"]


async def hang_up(shell: Shell, file: Path) -> None:
    """SIGHUP reloads, and ends nothing."""
    edit(file, limits={"price": {"text-to-image": "0.7"}})
    shell.children[1].send_signal(signal.SIGHUP)
    log = shell.log("broadcaster")
    await until(lambda: "limits.price.text-to-image: 0.5" in log.read_text("utf-8"), "the signal reloads")


async def take_a_node_away(shell: Shell, file: Path, first: str, jobs: Jobs) -> None:
    """Its jobs end well; no new one goes there."""
    second = shell.facts("orchestrator", "second")["address"]
    edit(file, orchestrators=[second])
    assert first in (await shell.run("broadcaster", "reload", *CONFIG)).out
    await up(shell, second)
    await jobs.more()
    gone = jobs.nodes[first.partition("#")[2]]
    await jobs.more()
    assert jobs.nodes[first.partition("#")[2]] == gone


async def drain_and_resume(shell: Shell, jobs: Jobs) -> None:
    """A drain takes no job and loses none; it is the one thing here that refuses, and so the apps have ended."""
    jobs.end()
    drained = await shell.run("broadcaster", "drain", *CONFIG)
    assert drained.out.startswith("drained: no job is here; ")
    assert "`broadcaster resume --config broadcaster.yaml`" in drained.out
    assert (await status_of(shell)).draining
    await shell.run("broadcaster", "resume", *CONFIG)
    assert not (await status_of(shell)).draining


async def test_a_pool_that_cannot_work_says_why(shell: Shell) -> None:
    """No nodes, a node that refuses, one with a wrong clock, one of another id: each in words that say what to do."""
    said = (await shell.run("broadcaster", "init")).out
    own_id = said.partition("broadcaster id: ")[2].split()[0]
    stranger = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"
    refusing = await node(shell, "refusing", broadcasters=[stranger])
    file = shell.folder / "broadcaster.yaml"
    await shell.background("broadcaster", "serve", *CONFIG, *ANY_PORT)
    assert "no nodes are configured: no job can be done" in shell.log("broadcaster").read_text("utf-8")
    async with metrics_of(shell) as metrics:
        assert "no nodes are configured: name them under `orchestrators`" in await why_not_ready(metrics)
        edit(file, orchestrators=[refusing])
        await shell.run("broadcaster", "reload", *CONFIG)
        await until_async(lambda: why_not_ready(metrics), f"has to add the id {own_id} to `broadcasters`")
        [shown] = await shell.document("broadcaster", "nodes", *CONFIG)
        assert shown["state"] == "refuses"
        status = await shell.run("orchestrator", "status", "--config", "refusing.yaml")
        assert f"broadcaster {own_id}: it watches and is not served" in status.out
        edit(shell.folder / "refusing.yaml", broadcasters=[stranger, own_id])
        await shell.run("orchestrator", "reload", "--config", "refusing.yaml")
        await up(shell, refusing)
        assert await why_not_ready(metrics) == "ready"

        target = refusing.partition("#")[0]
        edit(file, orchestrators=[f"{target}#{stranger}"])
        await shell.run("broadcaster", "reload", *CONFIG)
        await until_async(lambda: why_not_ready(metrics), f"that of {refusing.partition('#')[2]}, not of {stranger}")


async def test_a_clock_that_is_a_minute_wrong_is_told_and_fails_no_job(shell: Shell) -> None:
    """On both sides, in seconds; beyond five minutes the node is down and says so."""
    address = await node(shell, "n", skew_s=61)
    await shell.run("broadcaster", "init", "--orchestrator", address)
    await shell.background("broadcaster", "serve", *CONFIG, *ANY_PORT)
    await up(shell, address)
    [shown] = (await status_of(shell)).nodes
    assert 55 < (shown.skew_s or 0) < 65
    assert "its clock is 61 s ahead of this machine's" in (await shell.run("broadcaster", "status", *CONFIG)).out
    (watcher,) = (await shell.document("orchestrator", "status", "--config", "n.yaml"))["watchers"]
    assert -65 < watcher["skew_s"] < -55
    async with httpx.AsyncClient(base_url=shell.facts("broadcaster")["url"], timeout=60) as http:
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200, answer.text


def metrics_of(shell: Shell) -> httpx.AsyncClient:
    """Asks the broadcaster's metrics port."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{shell.facts('broadcaster')['metrics_port']}")


async def why_not_ready(metrics: httpx.AsyncClient) -> str:
    return (await metrics.get("/readyz")).text.strip()


async def until_async(ask: Any, wanted: str) -> None:
    """Asks until the answer has `wanted` in it."""
    async with asyncio.timeout(60):
        while wanted not in (said := await ask()):
            await asyncio.sleep(0.05)
    assert wanted in said


async def test_a_journal_of_another_day(shell: Shell) -> None:
    """One that is damaged or newer ends the start with code 3 and what to do; one of before is gone on with."""
    await shell.run("broadcaster", "init")
    journal = shell.folder / "home" / "broadcaster" / "default" / "journal.db"
    journal.write_bytes(b"no database" * 100)
    damaged = await shell.run("broadcaster", "serve", *CONFIG, *ANY_PORT, code=3)
    assert f"journal: {journal} is no database of SQLite" in damaged.err
    assert "restore your copy of it, or move it away" in damaged.err
    assert "Traceback" not in damaged.err
    journal.unlink()

    serving = await shell.background("broadcaster", "serve", *CONFIG, *ANY_PORT)
    assert await shell.end(serving) == 0
    with contextlib.closing(sqlite3.connect(journal)) as connection, connection:
        connection.execute("UPDATE schema_version SET version_num = '99'")
    newer = await shell.run("broadcaster", "serve", *CONFIG, *ANY_PORT, code=3)
    assert "has version 99 of its schema" in newer.err
    assert "install the newer reelnet that wrote it" in newer.err

    with contextlib.closing(sqlite3.connect(journal)) as connection, connection:
        connection.executescript("DROP TABLE schema_version; DROP INDEX jobs_by_key;")
        connection.executescript("ALTER TABLE jobs DROP COLUMN key_id; ALTER TABLE jobs DROP COLUMN run_ms;")
    serving = await shell.background("broadcaster", "serve", *CONFIG, *ANY_PORT)
    assert await shell.end(serving) == 0
    assert "database migrated" in shell.log("broadcaster").read_text("utf-8")
    assert journal.with_name("journal.db.v1").is_file()

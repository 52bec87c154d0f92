"""Real processes: nodes are killed, drained and started wrongly, as operators and power cuts do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reelnet.jobs import JobState
from tests.fakes.pool import broadcaster_settings, ready, running_broadcaster, until

PATIENCE_S = 60
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}


@dataclass
class NodeProcess:
    """An `orchestrator serve` of its own."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def node_id(self) -> str:
        return self.address.partition("#")[2]

    def runners(self) -> list[int]:
        """The pids of its runners."""
        return children(self.process.pid)


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Any]:
    """Starts nodes as an operator does; whatever is left of them at the end is killed, runners included."""
    started: list[NodeProcess] = []

    async def start(name: str, **settings: Any) -> NodeProcess:
        config = tmp_path / f"{name}.yaml"
        values = {
            "name": name,
            "home": str(tmp_path),
            "grpc": {"port": 0},
            "metrics": {"port": 0},
            "models": [{"model": "synthetic/bars", "backend": "synthetic"}],
            **settings,
        }
        config.write_text(yaml.safe_dump(values))
        log = tmp_path / f"{name}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "orchestrator.cli", "serve", "--config", str(config)]
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        facts = tmp_path / "orchestrator" / name / "ready.json"
        await until(lambda: facts.exists() or process.poll() is not None, "the node says where it answers")
        assert process.poll() is None, log.read_text()
        started.append(NodeProcess(process, json.loads(facts.read_text())["address"], log))
        return started[-1]

    yield start
    for node in started:
        left = node.runners() if node.process.poll() is None else []
        for pid in (node.process.pid, *left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.process.wait()


@contextlib.asynccontextmanager
async def broadcaster(home: Path, nodes: list[NodeProcess], **settings: Any) -> AsyncIterator[Any]:
    """A broadcaster of these nodes and a client of it."""
    async with running_broadcaster(broadcaster_settings(home, [n.address for n in nodes], **settings)) as running:
        await ready(running, len(nodes))
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S) as http:
            yield running, http


async def draw(http: httpx.AsyncClient, prompt: str) -> httpx.Response:
    return await http.post("/text-to-image", json={**SMALL, "prompt": prompt})


async def busy_node(running: Any, nodes: list[NodeProcess]) -> NodeProcess:
    """The node that a job of this broadcaster runs on."""

    def busy() -> list[NodeProcess]:
        loads = {r.node_id: r.load for r in running.registry.nodes()}
        return [n for n in nodes if any(m.in_flight for m in loads[n.node_id].models)]

    await until(busy, "a node reports the job in flight")
    return busy()[0]


async def test_a_killed_nodes_job_completes_on_the_other(tmp_path: Path, start_node: Any) -> None:
    """SIGKILL of a node in mid-job: the job is done elsewhere, and no runner of the dead node is left."""
    nodes = [await start_node(f"node-{i}") for i in (1, 2)]
    async with broadcaster(tmp_path, nodes) as (running, http):
        job = asyncio.create_task(draw(http, "boat !slow 300 once"))
        victim = await busy_node(running, nodes)
        runners = victim.runners()
        assert runners
        victim.process.kill()
        answer = await job
        assert answer.status_code == 200, answer.text
        done = answer.json()["job"]
        assert done["attempts"] == 2
        assert done["node"] != victim.node_id
        await until(lambda: not any(alive(pid) for pid in runners), "the dead node's runners are gone")
        assert (await draw(http, "another boat")).status_code == 200, "one node is enough"


async def test_a_job_that_kills_its_runner_is_done_elsewhere(tmp_path: Path, start_node: Any) -> None:
    """A dead runner is started again while another node does the job."""
    nodes = [await start_node(f"node-{i}") for i in (1, 2)]
    async with broadcaster(tmp_path, nodes) as (_, http):
        before = {pid for node in nodes for pid in node.runners()}
        answer = await draw(http, "boat !die once")
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"]["attempts"] == 2
        await until(lambda: sum(len(n.runners()) for n in nodes) == 2, "both nodes have a runner again")
        assert {pid for node in nodes for pid in node.runners()} != before


async def test_a_job_goes_on_when_the_runner_of_its_only_node_is_back(tmp_path: Path, start_node: Any) -> None:
    """It waits at the node, is done in its second attempt, and each attempt has its row; nobody is blamed."""
    node = await start_node("node-1")
    async with broadcaster(tmp_path, [node], journal="wait") as (running, http):
        before = node.runners()
        answer = await draw(http, "boat !die once")
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"]["attempts"] == 2
        assert node.runners() != before
        assert running.scores.reputation(node.node_id) == 1
        row = await running.journal.job(answer.json()["job"]["id"])
        assert (row.state, row.attempts, row.failure_class) == (JobState.SUCCEEDED, 2, None)
        tried = await running.journal.attempts(row.id)
        assert [(one.attempt, one.outcome) for one in tried] == [(1, "poison"), (2, "ok")]


async def test_a_job_that_kills_the_only_nodes_runner_twice_ends(tmp_path: Path, start_node: Any) -> None:
    """Its node is not made to start runners for it for ever, and the app is told why in words."""
    node = await start_node("node-1")
    async with broadcaster(tmp_path, [node]) as (_, http):
        answer = await draw(http, "boat !die")
        error = answer.json()["error"]
        assert (answer.status_code, error["class"], error["code"]) == (500, "poison", "runner_died"), answer.text
        assert "two runners ended" in error["message"]
        await until(lambda: node.log.read_text().count("runner failed") == 2, "both deaths are told")


async def test_a_job_that_kills_every_runner_is_stopped_after_two(tmp_path: Path, start_node: Any) -> None:
    """A poisonous job takes two nodes' runners at most."""
    nodes = [await start_node(f"node-{i}") for i in (1, 2, 3)]
    async with broadcaster(tmp_path, nodes) as (_, http):
        answer = await draw(http, "boat !die")
        assert answer.status_code == 500
        assert answer.json()["error"]["class"] == "poison"
        # The answer may be there before a node has noticed what its runner died of.
        await until(lambda: sum("runner failed" in n.log.read_text() for n in nodes) >= 2, "two runners are missed")
        assert sum("runner failed" in node.log.read_text() for node in nodes) == 2


async def test_sigterm_drains(tmp_path: Path, start_node: Any) -> None:
    """A node that is told to stop finishes its job, takes no other, exits with 0 and leaves no process."""
    nodes = [await start_node("node-1")]
    async with broadcaster(tmp_path, nodes) as (running, http):
        job = asyncio.create_task(draw(http, "boat !slow 3"))
        node = await busy_node(running, nodes)
        runners = node.runners()
        node.process.send_signal(signal.SIGTERM)
        assert (await job).status_code == 200
        assert await asyncio.to_thread(node.process.wait, PATIENCE_S) == 0
        assert not any(alive(pid) for pid in runners)


async def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, start_node: Any) -> None:
    """The second signal forces the end, with exit code 130; its runners end with it."""
    nodes = [await start_node("node-1")]
    async with broadcaster(tmp_path, nodes) as (running, http):
        job = asyncio.create_task(draw(http, "boat !slow 300"))
        node = await busy_node(running, nodes)
        runners = node.runners()
        node.process.send_signal(signal.SIGINT)
        await until(lambda: "draining" in node.log.read_text(), "it drains")
        node.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(node.process.wait, PATIENCE_S) == 130
        await until(lambda: not any(alive(pid) for pid in runners), "its runners are gone")
        job.cancel()


def run_node(tmp_path: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a node that is expected to end by itself."""
    config = tmp_path / "orchestrator.yaml"
    config.write_text(yaml.safe_dump({"home": str(tmp_path), **settings}))
    command = [sys.executable, "-m", "orchestrator.cli", "serve", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)


def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A misspelt key ends with exit code 2 and names the key that was meant."""
    done = run_node(tmp_path, modles=[])
    assert done.returncode == 2
    assert "modles: unknown key; did you mean 'models'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """A taken port ends with exit code 3, and says which key to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_node(tmp_path, grpc={"port": port}, metrics={"port": 0})
    assert done.returncode == 3
    assert f"127.0.0.1:{port}" in done.stderr
    assert "grpc.port" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_missing_model_folder_stops_no_other_model(tmp_path: Path, start_node: Any) -> None:
    """The node starts, serves what it can, and says where the other one has to lie."""
    models = [{"model": "acme/none"}, {"model": "synthetic/bars", "backend": "synthetic"}]
    node = await start_node("node-1", models=models, models_home=str(tmp_path))
    async with broadcaster(tmp_path, [node]) as (_, http):
        assert (await draw(http, "boat")).status_code == 200
    log = node.log.read_text()
    assert log.count(f"{tmp_path}/acme/none: there is no such folder") == 1
    assert "runner models make-tiny" in log


def test_another_address_than_loopback_is_refused(tmp_path: Path) -> None:
    """No listener opens to the network while peers do not authenticate each other."""
    done = run_node(tmp_path, grpc={"host": "0.0.0.0"})
    assert done.returncode == 2
    assert "loopback" in done.stderr

"""An operator's day with real processes: start, look, drain, reload, and the doctor on a machine with faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from orchestrator.control_client import NodeClient
from orchestrator.host import this_host
from orchestrator.settings import OrchestratorSettings
from orchestrator.status_view import DRAINED
from reelnet.client import Address
from reelnet.operating.control_client import ControlError
from reelnet.operating.doctor import Finding, Verdict
from reelnet.operating.machine_checks import ports
from tests.fakes.pool import (
    InProcessEngine,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
    until,
)

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
ALTERNATE_SCREEN_OFF = b"\x1b[?1049l"
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
BARS = {"model": "synthetic/bars", "backend": {"synthetic": {"unit_s": 0.001}}}


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Operator:
    """Somebody with a shell: a state folder, configuration files, and nodes in the background."""

    folder: Path
    environ: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def write(self, name: str = "default", **values: Any) -> Path:
        """A configuration file."""
        file = self.folder / f"{name}.yaml"
        base = {"name": name, "grpc": {"port": 0}, "metrics": {"port": 0}, "models": [BARS], "engine": "process"}
        file.write_text(yaml.safe_dump({**base, **values}), "utf-8")
        return file

    async def run(self, *words: str) -> Answer:
        """One command, to its end."""
        command = [sys.executable, "-m", "orchestrator.cli", *words]
        child = await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            out, err = await child.communicate()
        return Answer(child.returncode or 0, out.decode(), err.decode())

    async def serve(self, file: Path) -> subprocess.Popen[bytes]:
        """A node in the background, once it has a runner."""
        command = [sys.executable, "-m", "orchestrator.cli", "serve", "--config", str(file)]
        with (self.folder / "serve.log").open("ab") as log:
            node = subprocess.Popen(
                command, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.nodes.append(node)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await asyncio.to_thread(self._has_runner, file.stem):
                    assert node.poll() is None, self.log()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"no runner became ready: {self.log()}") from None
        return node

    async def status(self, file: Path) -> dict[str, Any]:
        """What the node of a file says."""
        return await self.asked("--config", str(file))

    async def asked(self, *words: str) -> dict[str, Any]:
        """What a node says."""
        answer = await self.run("status", *words, "--json")
        assert answer.code == 0, answer.err
        status: dict[str, Any] = json.loads(answer.out)
        return status

    def log(self) -> str:
        """What the nodes said."""
        return (self.folder / "serve.log").read_text("utf-8")

    def _has_runner(self, name: str) -> bool:
        """Asked as the commands do it, without a process for each question."""
        try:
            status = NodeClient(name, self.folder / "home", timeout_s=5).status()
        except ControlError:
            return False
        return bool(status.slots) and all(slot.state == "ready" for slot in status.slots)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """An operator, and nothing left of what they started."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REELNET_", "NO_COLOR", "FORCE_COLOR"))
    }
    environ |= {"REELNET_HOME": str(tmp_path / "home"), "REELNET_MODELS": str(tmp_path / "models")}
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]), "COLUMNS": "100"}
    environ |= {"DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock"}
    someone = Operator(tmp_path, environ)
    yield someone
    for node in someone.nodes:
        with contextlib.suppress(ProcessLookupError):
            node.kill()
        node.wait()


async def end(node: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and the exit code."""
    node.terminate()
    await until(lambda: node.poll() is not None, "the node ends")
    return node.returncode


@contextlib.asynccontextmanager
async def customer(home: Path, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """An app before a broadcaster that knows the node."""
    settings = broadcaster_settings(home, [address], limits={"reconnect_wait_s": 0.1})
    async with running_broadcaster(settings) as running:
        await ready(running, 1)
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_S) as http:
            yield http


async def test_look_at_a_node(operator: Operator) -> None:
    """Status, models and logs of a running node; afterwards its socket is gone."""
    file = operator.write("box")
    node = await operator.serve(file)
    status = await operator.status(file)
    assert (status["engine"], status["draining"], status["jobs"]) == ("process", False, 0)
    shown = await operator.run("status", "--config", str(file))
    assert shown.code == 0
    assert "synthetic/bars" in shown.out
    assert "\x1b" not in shown.out
    assert "1 of 1" in (await operator.run("models", "--config", str(file))).out
    logs = await operator.run("logs", "--config", str(file))
    assert (logs.code, f"{status['slots'][0]['slot']} | " in logs.out) == (0, True), logs
    assert (await operator.run("status", "--name", "other")).err.count("running here: box") == 1
    assert await end(node) == 0
    assert not list((operator.folder / "home").rglob("control.sock"))
    assert (await operator.run("status", "--config", str(file))).code == 3


async def test_watch_a_node_on_a_terminal(operator: Operator) -> None:
    """In place, on a screen of its own, with colours; Ctrl-C gives the terminal back as it was."""
    file = operator.write()
    node = await operator.serve(file)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "orchestrator.cli", "status", "0.2", "--watch", "--config", str(file)]
    watching = subprocess.Popen(
        command, cwd=operator.folder, env={**operator.environ, "TERM": "xterm"}, stdin=theirs, stdout=theirs
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = b""

    def shown(what: bytes, times: int = 1) -> bool:
        nonlocal seen
        with contextlib.suppress(BlockingIOError, OSError):  # an ended program's terminal cannot be read
            seen += os.read(ours, 65536)
        return seen.count(what) >= times

    try:
        await until(lambda: shown(b"synthetic/bars", 3), "three looks")
        watching.send_signal(signal.SIGINT)
        await until(lambda: shown(ALTERNATE_SCREEN_OFF) and watching.poll() is not None, "it ends")
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert watching.returncode == 0
    assert b"\x1b[32mready" in seen
    assert await end(node) == 0


async def test_drain_and_resume(operator: Operator, tmp_path: Path) -> None:
    """A drained node finishes its job and takes no other one; resumed, it does."""
    slow = {"model": "synthetic/bars", "backend": {"synthetic": {"unit_s": 400}}}  # a job here takes about 3 s
    file = operator.write(models=[slow])
    await operator.serve(file)
    address = (await operator.status(file))["address"]
    node = NodeClient("default", operator.folder / "home")
    async with customer(tmp_path / "broadcaster", address) as http:
        job = asyncio.create_task(http.post("/text-to-image", json=SMALL))
        async with asyncio.timeout(PATIENCE_S):
            while not (await asyncio.to_thread(node.status)).jobs:
                assert not job.done()
        draining = asyncio.create_task(operator.run("drain", "--config", str(file)))
        assert (await job).status_code == 200
        drained = await draining
        assert (drained.code, drained.out[:8]) == (0, "drained:")
        assert (await operator.status(file))["draining"] is True
        assert (await http.post("/text-to-image", json=SMALL)).status_code == 503
        assert (await operator.run("resume", "--config", str(file))).code == 0
        async with asyncio.timeout(PATIENCE_S):
            while (await http.post("/text-to-image", json=SMALL)).status_code != 200:
                await asyncio.sleep(0.1)


async def test_a_drained_node_is_drained_after_a_restart(tmp_path: Path) -> None:
    """Until it is resumed, which survives a restart too; a stop alone drains no later start."""
    settings = node_settings(PoolPlan(tmp_path, []), 0)
    for before, word in ((False, None), (False, "drain"), (True, None), (True, "resume"), (False, None)):
        with capture_logs() as said:
            async with running_node(settings, InProcessEngine()) as node:
                status = node.control.status()
                assert (status.drained, status.draining) == (before, before)
                assert (node.node.not_ready() == "draining") is before
                if word:
                    getattr(node.control, word)()
        assert (DRAINED in [line["event"] for line in said]) is before


async def test_reload(operator: Operator) -> None:
    """By command and by SIGHUP; a bad file changes nothing and says why."""
    file = operator.write()
    node = await operator.serve(file)
    assert (await operator.run("reload", "--config", str(file))).out == "nothing changed\n"
    operator.write(models=[{**BARS, "queue": 3}])
    changed = await operator.run("reload", "--config", str(file))
    assert (changed.code, changed.out) == (0, "models: synthetic/bars queue: 8 → 3\n")
    good = file.read_text("utf-8")
    file.write_text(good + "colour: red\n", "utf-8")
    refused = await operator.run("reload", "--name", "default")
    assert (refused.code, refused.out) == (2, "")
    assert "colour: unknown key" in refused.err
    assert (await operator.asked("--name", "default"))["models"][0]["queue"] == 3
    file.write_text(good.replace("queue: 3", "queue: 5"), "utf-8")
    node.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        while (await operator.status(file))["models"][0]["queue"] != 5:
            assert node.poll() is None, operator.log()
    assert await end(node) == 0


async def test_the_service_manager_is_told(operator: Operator, tmp_path: Path) -> None:
    """READY once it listens, signs of life, RELOADING and READY around a reload, STOPPING at the end."""
    file = operator.write()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        operator.environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        node = await operator.serve(file)
        heard: list[str] = []

        def told(word: str) -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(manager.recv(4096).decode().split("\n")[0])
            return word in heard

        await until(lambda: told("READY=1"), "it is ready")
        await until(lambda: told("WATCHDOG=1") and heard.count("WATCHDOG=1") > 2, "it shows that it lives")
        heard.clear()
        node.send_signal(signal.SIGHUP)
        await until(lambda: told("READY=1"), "it has reloaded")
        assert [word for word in heard if word != "WATCHDOG=1"] == ["RELOADING=1", "READY=1"]
        assert await end(node) == 0
        assert told("STOPPING=1")


async def test_a_killed_nodes_successor(operator: Operator) -> None:
    """The socket that it left is in nobody's way; a live node's name cannot be taken."""
    file = operator.write()
    node = await operator.serve(file)
    second = await operator.run("serve", "--config", str(file))
    assert (second.code, "another orchestrator runs as 'default'" in second.err) == (3, True)
    node.kill()
    node.wait()
    gone = await operator.run("status", "--config", str(file))
    assert (gone.code, "no node named 'default' runs" in gone.err) == (3, True)
    node = await operator.serve(file)
    assert (await operator.status(file))["jobs"] == 0
    assert await end(node) == 0


async def test_several_nodes_on_one_host(operator: Operator) -> None:
    """Each has its name, and is asked by it."""
    first, second = operator.write("one"), operator.write("two")
    nodes = [await operator.serve(first), await operator.serve(second)]
    assert (await operator.run("drain", "--name", "two")).code == 0
    assert [(await operator.status(file))["draining"] for file in (first, second)] == [False, True]
    assert [await end(node) for node in nodes] == [0, 0]


async def test_init_doctor_serve(operator: Operator) -> None:
    """The three commands of a first day, as they stand in the handbook."""
    assert (await operator.run("init", "--synthetic")).code == 0
    file = operator.folder / "default.yaml"
    (operator.folder / "orchestrator.yaml").rename(file)
    values = yaml.safe_load(file.read_text("utf-8"))
    file.write_text(yaml.safe_dump({**values, "grpc": {"port": 0}, "metrics": {"port": 0}}), "utf-8")
    looked = await operator.run("doctor", "--config", str(file))
    assert looked.code == 0, looked.out
    assert "engine process: a synthetic runner started, drew" in looked.out
    assert await end(await operator.serve(file)) == 0


async def findings(operator: Operator, file: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The doctor's exit code, and what it found by check."""
    answer = await operator.run("doctor", "--config", str(file), "--json")
    document = json.loads(answer.out)
    assert set(document) == {"node", "ok", "checks"}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in document["checks"]:
        assert set(row) == {"check", "verdict", "text", "fix", "seconds"}
        assert bool(row["fix"]) == (row["verdict"] != "PASS")
        found.setdefault(row["check"], []).append(row)
    assert document["ok"] is (answer.code == 0)
    return answer.code, found


async def test_the_doctor_without_docker_and_gpu_and_with_a_taken_port(operator: Operator) -> None:
    """Each fault has its line with what to do, and hides no other one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = operator.write(
            engine="docker", image="reelnet-runner:none", devices=["cuda:7"], grpc={"port": port},
            models=[{"model": "acme/missing"}],
        )  # fmt: skip
        code, found = await findings(operator, file)
    assert code == 1
    wrong = {check for check, rows in found.items() if any(row["verdict"] == "FAIL" for row in rows)}
    assert wrong - {"toolkit"} == {"driver", "docker", "image", "ports", "models", "tiny job"}
    assert "there is no cuda:7 on this host" in found["driver"][0]["text"]
    assert found["docker"][0]["text"] == f"no Docker engine: {operator.folder}/no-docker.sock is not there"
    assert "systemctl start docker" in found["docker"][0]["fix"]
    assert f"grpc 127.0.0.1:{port}: process {os.getpid()} (" in found["ports"][0]["text"]
    assert "metrics: any free port" in found["ports"][1]["text"]
    assert str(operator.folder / "models" / "acme" / "missing") in found["models"][0]["text"]
    assert {"python", "state", "key", "memory", "clock", "toolkit"} <= set(found)


async def test_the_doctor_with_a_faulty_file(operator: Operator) -> None:
    """The fault is a line like any other, and the machine is looked at all the same."""
    file = operator.folder / "x.yaml"
    file.write_text("colour: red\n", "utf-8")
    code, found = await findings(operator, file)
    assert code == 1
    assert "colour: unknown key" in found["configuration"][0]["text"]
    assert found["tiny job"][0]["verdict"] == "PASS"


async def test_the_doctor_beside_a_running_node(tmp_path: Path) -> None:
    """A port that the node itself has is no fault; the same port is one for a node of another name."""
    values = {"home": tmp_path, "metrics": {"port": 0}, "models": [BARS], "devices": ["cpu"]}
    serving = OrchestratorSettings.model_validate({**values, "name": "one", "grpc": {"port": 0}})
    async with running_node(serving, InProcessEngine()) as node:
        port = int(Address.parse(node.address).target.rpartition(":")[2])

        def seen_by(name: str) -> Finding:
            asking = OrchestratorSettings.model_validate({**values, "name": name, "grpc": {"port": port}})
            return next(iter(ports(this_host(asking))))

        own, other = [await asyncio.to_thread(seen_by, name) for name in ("one", "two")]
    assert (own.verdict, own.text) == (Verdict.PASS, f"grpc 127.0.0.1:{port}: this node runs and listens there")
    assert (other.verdict, f"process {os.getpid()} (" in other.text) == (Verdict.FAIL, True)

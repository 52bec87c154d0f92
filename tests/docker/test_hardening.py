"""What a runner cannot do, tried from inside its container: SECURITY.md promises each of these."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import Resources, RunnerHandle
from tests.contract.engine_suite import ready
from tests.docker.engines import TestEngine
from tests.docker.inside import seen, tried
from tests.docker.nodes import NodeEngine, docker_node, runner_spec

MEMORY_BYTES = 256 * 2**20
PIDS = 64
SECRET = "REELNET_TEST_SECRET"


@dataclass(frozen=True)
class Inside:
    """A runner's container, and a second one beside it."""

    node: NodeEngine
    handle: RunnerHandle
    other: RunnerHandle
    model: Path

    async def sees(self, program: str) -> Any:
        """What a program prints there as JSON."""
        return await asyncio.to_thread(seen, self.node.docker, self.handle.ref, program)


@pytest.fixture
async def inside(
    docker_engine: TestEngine,
    synthetic_image: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Inside]:
    """A runner with weights, another one, and a node that has a secret in its environment."""
    monkeypatch.setenv(SECRET, "hidden")
    model = folder / "model"
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"weights")
    resources = Resources(memory_bytes=MEMORY_BYTES, shm_bytes=2**20, pids=PIDS)
    spec = runner_spec(folder, synthetic_image, backend="diffusers", model=str(model), resources=resources)
    async with docker_node(docker_engine) as node:
        handle = await node.engine.start(spec)
        other = await node.engine.start(runner_spec(folder, synthetic_image, "slot-1"))
        await (await ready(other)).close()
        yield Inside(node, handle, other, model)


async def test_it_has_no_privileges(inside: Inside) -> None:
    """No capability, none to be had, system calls filtered, not root, and no way to become it."""
    found = await inside.sees("""
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
try:
    os.setuid(0)
    became = True
except PermissionError:
    became = False
print(json.dumps({"status": status, "became": became, "groups": os.getgroups()}))
""")
    status = found["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    assert not found["became"]
    assert set(found["groups"]) <= {65534}


async def test_it_reaches_nobody(inside: Inside) -> None:
    """No interface but its own loopback; no service of the host's, over TCP or an abstract Unix socket."""
    name = f"\0reelnet-{inside.node.id}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        socket.create_connection(tcp.getsockname()).close()  # from the host it answers
        found = await inside.sees(f"""
import json, os, socket
def reached(family, address):
    with socket.socket(family) as tried:
        tried.settimeout(3)
        return tried.connect_ex(address) == 0
places = [("127.0.0.1", {tcp.getsockname()[1]}), ("172.17.0.1", {tcp.getsockname()[1]}), ("192.0.2.1", 80)]
print(json.dumps({{
    "interfaces": os.listdir("/sys/class/net"),
    "routes": open("/proc/net/route").read().splitlines()[1:],
    "tcp": [place for place in places if reached(socket.AF_INET, place)],
    "abstract": reached(socket.AF_UNIX, {name!r}),
}}))
""")
    assert found == {"interfaces": ["lo"], "routes": [], "tcp": [], "abstract": False}


async def test_it_sees_its_own_socket_and_files_alone(inside: Inside) -> None:
    """No other runner's socket, no Docker socket, no process, disk or secret of the host's."""
    found = await inside.sees(f"""
import json, os, stat
sockets = []
for parent, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(parent, name) not in ("/proc", "/sys")]
    for name in files:
        try:
            mode = os.lstat(os.path.join(parent, name)).st_mode
        except OSError:
            continue
        if stat.S_ISSOCK(mode):
            sockets.append(os.path.join(parent, name))
        if stat.S_ISBLK(mode):
            sockets.append("disk " + name)
print(json.dumps({{
    "sockets": sockets,
    "run": sorted(os.listdir("/run")),
    "slot": os.listdir("/run/reelnet"),
    "processes": sum(name.isdecimal() for name in os.listdir("/proc")),
    "environment": [text for text in open("/proc/1/environ").read().split(chr(0)) if {SECRET!r} in text],
}}))
""")
    assert found["sockets"] in ([], ["/run/reelnet/runner.sock"])
    assert "docker.sock" not in found["run"]
    assert set(found["slot"]) <= {"runner.sock"}
    assert found["processes"] < 10
    assert found["environment"] == []


async def test_it_writes_to_its_scratch_alone(inside: Inside) -> None:
    """The root is read-only and so are the weights, also to whoever ignores modes; scratch space has no programs."""
    found = await inside.sees("""
import json, os
written = []
for parent, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(parent, name) not in ("/proc", "/sys")]
    try:
        with open(os.path.join(parent, "written"), "w"):
            written.append(parent)
    except OSError:
        pass
mounts = {}
for line in open("/proc/self/mountinfo"):
    words = line.split()
    mounts[words[4]] = words[5].split(",")
print(json.dumps({"written": written, "mounts": mounts, "weights": os.listdir("/model")}))
""")
    assert found["weights"] == ["weights.safetensors"]
    mounts = found["mounts"]
    writable = {"/tmp", "/run/reelnet", "/dev/shm", "/dev/mqueue"}
    assert {place for place in found["written"] if not place.startswith("/tmp/")} <= writable
    assert {"/tmp", "/run/reelnet"} <= set(found["written"])
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/model"]
    assert {"noexec", "nosuid", "nodev"} <= set(mounts["/tmp"])
    assert (inside.model / "weights.safetensors").read_bytes() == b"weights"
    assert not (inside.model / "written").exists()


async def test_it_cannot_fork_without_end(inside: Inside) -> None:
    """Beyond its bound a fork fails; the other runner and the host do not notice."""
    found = await inside.sees(f"""
import json, os, signal, time
children = []
try:
    while len(children) < 4 * {PIDS}:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(json.dumps(len(children)))
""")
    assert 0 < found < PIDS
    await (await ready(inside.other)).close()


async def test_it_cannot_take_the_hosts_memory(inside: Inside) -> None:
    """Beyond its bound the kernel ends what asks for more, swap or not."""
    hog = f"hog = bytearray({2 * MEMORY_BYTES}); hog[::4096] = bytes(len(hog[::4096])); print(len(hog))"
    run = await asyncio.to_thread(tried, inside.node.docker, inside.handle.ref, hog)
    assert run.returncode == 137, run.stdout + run.stderr
    await (await ready(inside.other)).close()


async def test_its_bounds_are_asked_for(inside: Inside) -> None:
    """What can hardly be tried is at least in the request: swap, the log's size, dumps, restarts."""
    asked = inside.node.proxy.bodies("/containers/create")[0]["HostConfig"]
    assert asked["MemorySwap"] == asked["Memory"] == MEMORY_BYTES
    assert asked["LogConfig"]["Config"] == {"max-size": str(2**20), "max-file": "2"}
    assert {"Name": "core", "Soft": 0, "Hard": 0} in asked["Ulimits"]
    assert (asked["RestartPolicy"]["Name"], asked["OomScoreAdj"] > 0, asked["Privileged"]) == ("no", True, False)
    assert "Devices" not in asked
    assert asked["DeviceRequests"] == []


async def test_it_runs_as_its_nodes_user(
    docker_engine: TestEngine, synthetic_image: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is not root gives its runners its own rights, so that it can reach their sockets."""
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr("os.getegid", lambda: 12346)
    spec = runner_spec(folder, synthetic_image)
    os.chown(spec.folder, 12345, 12346)
    async with docker_node(docker_engine) as node:
        handle = await node.engine.start(spec)
        await (await ready(handle)).close()
        owner = handle.socket.stat()
    assert (owner.st_uid, owner.st_gid, stat.S_IMODE(owner.st_mode)) == (12345, 12346, 0o600)

"""What `make pool` runs, as a process; and a broadcaster with keys and tight limits before the same nodes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmark.processes import alive, family, tail
from reelnet.lifecycle import READY_FILE

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 150
NODES = {"tiny": 1, "synthetic": 2}
READY, STOPPED = "Ctrl-C stops everything.", "stopped; no process is left"


@dataclass(frozen=True)
class Program:
    """A started program of ours; killed with this process, and stopped by `stopped`."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Returns when `condition` holds; fails when it does not within the patience, or when the program ends."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{tail(self.log)}"
            assert time.monotonic() < deadline, f"never happened: {what}:\n{tail(self.log)}"
            time.sleep(0.05)

    def says(self, text: str) -> bool:
        """Whether the program has said so."""
        return text in self.log.read_text("utf-8", "replace")


@contextlib.contextmanager
def running(words: list[str], log: Path) -> Iterator[Program]:
    """`python words…` for the length of the block; ended by Ctrl-C, and nothing of it may be left."""
    python = [sys.executable, "-m", "benchmark.leash", str(os.getpid()), sys.executable]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REELNET_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*python, *words], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield Program(process, log)
    finally:
        everything = family([process.pid])
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()
    assert code == 0, tail(log)
    assert not alive(everything), "processes are left"


@dataclass(frozen=True)
class Pool:
    """A pool that `scripts/pool.py` runs."""

    program: Program
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return ROOT / "out" / "pool" / f"port-{self.port}"

    def ready(self) -> Pool:
        """This pool, once every node serves."""
        self.program.wait_until(lambda: self.program.says(READY), "the pool is complete")
        return self

    def nodes(self) -> list[str]:
        """The nodes' addresses."""
        files = (self.home / "orchestrator").glob(f"*/{READY_FILE}")
        return [json.loads(file.read_text("utf-8"))["address"] for file in files]


@contextlib.contextmanager
def running_pool(backend: str, folder: Path) -> Iterator[Pool]:
    """The pool of `make pool BACKEND=…` on a port of its own; it need not be complete yet."""
    port = free_port()
    words = ["scripts/pool.py", "--nodes", str(NODES[backend]), "--backend", backend, "--port", str(port)]
    with running(words, folder / f"{backend}.log") as program:
        pool = Pool(program, port)
        yield pool
    assert program.says(STOPPED)
    shutil.rmtree(pool.home)


@dataclass(frozen=True)
class StrictBroadcaster:
    """A broadcaster that asks for a key, takes one job at a time, and lives below a path.

    The jobs of `held_key` are held to a safety policy that no node of the pool can keep.
    """

    url: str
    keys: tuple[str, str]
    held_key: str

    def post(self, key: str, **params: Any) -> httpx.Response:
        """A text-to-image job's answer, without any client between."""
        return httpx.post(
            f"{self.url}/text-to-image", json=params, headers=bearer(key), timeout=PATIENCE_S, trust_env=False
        )

    @contextlib.contextmanager
    def job(self, key: str) -> Iterator[None]:
        """A job of this key is under way for the length of the block."""
        headers = {"accept": "text/event-stream", **bearer(key)}
        body = {"prompt": f"boat !slow {PATIENCE_S}", "width": 64, "height": 64, "num_inference_steps": 2}
        with httpx.stream(
            "POST", f"{self.url}/text-to-image", json=body, headers=headers, timeout=PATIENCE_S, trust_env=False
        ) as answer:
            events = answer.iter_lines()  # to let go of it would close the answer
            assert "event: started" in events
            yield
        deadline = time.monotonic() + PATIENCE_S
        while (status := self.post(key, **{**body, "prompt": "boat"}).status_code) != httpx.codes.OK:
            assert status in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}
            assert time.monotonic() < deadline, "the place is never free again"
            time.sleep(0.05)


@contextlib.contextmanager
def strict_broadcaster(nodes: list[str], home: Path) -> Iterator[StrictBroadcaster]:
    """Such a broadcaster before these nodes, once it knows them."""
    keys = (secrets.token_hex(24), secrets.token_hex(24))
    held_key = secrets.token_hex(24)
    (home / "keys").write_text("\n".join((*keys, f"{held_key} safety=refuse")), "utf-8")
    port = free_port()
    url = f"http://127.0.0.1:{port}/ai/v1"
    settings = {
        "home": str(home),
        "http": {"port": port},
        "metrics": {"port": 0},
        "orchestrators": nodes,
        "public_url": url,
        "keys_file": str(home / "keys"),
        "limits": {"jobs": 1, "jobs_per_key": 1, "deadline_s": {"upscale": 1}},
    }
    (home / "broadcaster.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    words = ["-m", "broadcaster.cli", "serve", "--config", str(home / "broadcaster.yaml")]
    with running(words, home / "broadcaster.log") as program:
        program.wait_until(lambda: nodes_up(url) == len(nodes), "the broadcaster knows its nodes")
        yield StrictBroadcaster(url, keys, held_key)


def nodes_up(url: str) -> int:
    """How many nodes a broadcaster reaches; none while it does not answer."""
    try:
        answer = httpx.get(f"{url}/healthz", timeout=PATIENCE_S, trust_env=False)
    except httpx.ConnectError:
        return 0
    return int(answer.json()["nodes_up"])


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}


def free_port() -> int:
    """A port that nobody listens on, from below those that the kernel hands out meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

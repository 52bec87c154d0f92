"""A runner of the benchmark's own, for one model and one way to run it; and what the runner's program says besides."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmark.processes import Child, environment, start, tail
from benchmark.runner_lane import BASE
from reelnet.errors import StartError

PROGRAM = "runner.cli"
READY_S = 1800.0
"""A model of full size is compiled in minutes."""
POLL_S = 0.2
STOP_S = 20.0
ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class OwnRunner:
    """A runner that is ready. `ready_s`: from its start until then; `variant`: the number format of its weights."""

    socket: Path
    ready_s: float
    variant: str
    versions: Mapping[str, str]

    async def memory_bytes(self) -> int:
        """The most of its device's memory that it has taken."""
        return int((await _get(self.socket, "/health"))["memory_bytes"])


@asynccontextmanager
async def own_runner(folder: Path, model: tuple[str, Path], settings: Mapping[str, str]) -> AsyncIterator[OwnRunner]:
    """A runner of a model (id, folder) for the length of the block, with its socket and log below `folder`.

    Raises StartError with the reason when the model cannot be made ready.
    """
    socket, (model_id, place) = folder / "runner.sock", model
    words = ["serve", "--model", str(place.resolve()), "--model-id", model_id, "--socket", str(socket)]
    told = environment(**{f"REELNET_RUNNER_{name.upper()}": value for name, value in settings.items()})
    began = time.monotonic()
    child = await start("runner", PROGRAM, words, folder / "runner.log", told)
    try:
        await _until_ready(child, socket)
        ready_s = time.monotonic() - began
        info = await _get(socket, "/info")
        yield OwnRunner(socket, ready_s, str(info["variant"]), dict(info["versions"]))
    finally:
        await child.stop(STOP_S)


async def tell(words: Sequence[str]) -> Any:
    """What a command of the runner's program prints as JSON. Raises StartError with what it says when it fails."""
    code, said, wrong = await _run(words)
    if code != 0:
        raise StartError(_last_line(wrong) or f"runner {words[0]} ended with exit code {code}")
    return json.loads(said)


async def make_models(words: Sequence[str]) -> None:
    """Has `runner models …` make models. Raises StartError."""
    code, _, wrong = await _run(["models", *words])
    if code != 0:
        raise StartError(_last_line(wrong) or f"the models cannot be made: exit code {code}")


async def _run(words: Sequence[str]) -> tuple[int, bytes, bytes]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", PROGRAM, *words), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment()
    )
    try:
        said, wrong = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode or 0, said, wrong


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("runner: ") if lines else ""


async def _until_ready(child: Child, socket: Path) -> None:
    try:
        async with asyncio.timeout(READY_S):
            while True:
                if await _ready(child, socket):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StartError(f"the runner was not ready after {READY_S:g} s\n{tail(child.log)}") from None


async def _ready(child: Child, socket: Path) -> bool:
    if child.exit_code is not None:
        raise StartError(f"the runner ended with exit code {child.exit_code}\n{tail(child.log)}")
    try:
        health = await _get(socket, "/health")
    except httpx.HTTPError:
        return False  # it does not listen yet
    if health["state"] in ("SETUP_FAILED", "DEFUNCT"):
        raise StartError(str(health["reason"]))
    return bool(health["state"] == "READY")


async def _get(socket: Path, path: str) -> dict[str, Any]:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(base_url=BASE, transport=transport, timeout=ANSWER_S, trust_env=False) as http:
        body: dict[str, Any] = (await http.get(path)).json()
        return body

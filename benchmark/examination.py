"""Looks at outputs through the examiner, a child process with limits."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.look import SIDE, Look
from reelnet.errors import NodeError, StartError
from reelnet.inspection_worker import unpack_error
from reelnet.pipelines import MediaSpec

TIMEOUT_S = 120.0
MAX_ANSWER_BYTES = 2**20
_LEASH = "benchmark.leash"


@dataclass(frozen=True, slots=True)
class Facts:
    """An output that passed the hard checks: digest of its file (hex), soft facts, and its look."""

    sha256: str
    constant: bool
    still: bool
    look: Look


class Examination:
    """One examiner at a time; one that dies or hangs over a file is replaced, and the file is at fault."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def facts(self, path: Path, media_type: str, spec: MediaSpec) -> Facts:
        """The facts of an output. Raises NodeError with the first hard check that fails as its code."""
        request = {"path": str(path), "media_type": media_type, "spec": asdict(spec)}
        process = self._process or await self._start()
        assert process.stdin
        assert process.stdout
        try:
            async with asyncio.timeout(TIMEOUT_S):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                answer = json.loads(await process.stdout.readline())
        except (TimeoutError, ConnectionError, ValueError):
            await self.close()
            raise NodeError("the output could not be decoded within the limits", code="over_limits") from None
        if "error" in answer:
            raise unpack_error(answer["error"])
        return _facts(answer["ok"])

    async def close(self) -> None:
        """Ends the child."""
        if self._process:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _start(self) -> Process:
        python = (sys.executable, "-P", "-m")  # -P: nothing in the current folder is imported instead
        command = (*python, _LEASH, str(os.getpid()), *python, "benchmark.examiner")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=MAX_ANSWER_BYTES, start_new_session=True
            )
        except OSError as error:
            raise StartError(f"the examiner of outputs does not start: {error}") from None
        return self._process


@asynccontextmanager
async def examination() -> AsyncIterator[Examination]:
    """An examination whose child ends with the block."""
    running = Examination()
    try:
        yield running
    finally:
        await running.close()


def _facts(raw: dict[str, Any]) -> Facts:
    thumbs = np.frombuffer(base64.b64decode(raw["thumbs"]), np.uint8).reshape(-1, SIDE, SIDE, 3)
    return Facts(raw["sha256"], raw["constant"], raw["still"], Look(thumbs, raw["repeated"]))

"""The embedded engine: a runner is a subprocess, and it ends when its standard input does.

The node holds the other end of that pipe, so that even SIGKILL of the node leaves no runner behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from orchestrator.compiled_code import CompiledCode, compiles
from orchestrator.engine import EngineError, EngineFacts, RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.runner_command import COMPILE_CACHE, SOCKET_NAME, flag_environment, serve_words

LOG_NAME = "runner.log"
LOG_TAIL_BYTES = 4096
LOG_KEEP_BYTES = 1024 * 1024
NAME = "process"


class ProcessEngine:
    """Runs runners as children of this process. `command` starts one; the default is this installation's runner."""

    def __init__(
        self,
        command: tuple[str, ...] = (sys.executable, "-m", "runner.cli"),
        compiled: CompiledCode | None = None,
    ) -> None:
        self._command = command
        self._compiled = compiled
        self._children: dict[str, tuple[Process, RunnerSpec]] = {}

    async def fingerprint(self) -> EngineFacts:
        return EngineFacts(NAME, version("reelnet"))

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        socket = spec.folder / SOCKET_NAME
        code = await asyncio.to_thread(self._code, spec)
        try:
            socket.unlink(missing_ok=True)
            log = await asyncio.to_thread(_open_log, spec)
        except OSError as error:
            raise EngineError(f"the slot's folder {spec.folder} cannot be written: {error.strerror}") from None
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command, *arguments(spec), stdin=PIPE, stdout=log, stderr=log, env=environment(spec, code)
            )
        except OSError as error:
            raise EngineError(f"cannot start a runner: {error}; is the `runner` extra installed?") from None
        finally:
            os.close(log)
        handle = RunnerHandle(NAME, spec.slot, str(child.pid), socket, spec.fingerprint)
        self._children[handle.ref] = (child, spec)
        return handle

    def _code(self, spec: RunnerSpec) -> Path | None:
        """The folder of what this installation compiles for the model; None when it compiles nothing."""
        if self._compiled is None or not compiles(spec):
            return None
        try:
            return self._compiled.folder(f"{version('reelnet')} by {' '.join(self._command)}", Path(spec.model))
        except OSError as error:
            raise EngineError(f"the folder for compiled code of {spec.slot} cannot be made: {error}") from None

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        if handle.ref not in self._children:
            return RunnerExit(0)
        child, spec = self._children[handle.ref]
        code = await child.wait()
        return RunnerExit(code, await asyncio.to_thread(_tail, spec.folder / LOG_NAME))

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        if handle.ref not in self._children:
            return
        child, _ = self._children[handle.ref]
        _signal(child, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await child.wait()
        except TimeoutError:
            _signal(child, signal.SIGKILL)
            await child.wait()
        self._children.pop(handle.ref, None)

    async def recover(self) -> list[RunnerHandle]:
        return []  # a child of an earlier start ended with it

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        tail = await asyncio.to_thread(_tail, handle.socket.with_name(LOG_NAME))
        return "\n".join(tail.splitlines()[-lines:])

    async def close(self) -> None:
        for child, _ in self._children.values():
            _signal(child, signal.SIGKILL)
        for child, _ in self._children.values():
            await child.wait()
        self._children.clear()


def arguments(spec: RunnerSpec) -> list[str]:
    """The runner's command line for a spec."""
    return [*serve_words(spec, spec.model, spec.folder / SOCKET_NAME), "--exit-with-stdin"]


def environment(spec: RunnerSpec, code: Path | None = None) -> dict[str, str]:
    """The runner's environment: this one's, with only its own device visible and no hub reachable."""
    index = spec.device.removeprefix("cuda:") if spec.device.startswith("cuda:") else ""
    own = {"CUDA_VISIBLE_DEVICES": spec.gpu or index, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if code:
        own[COMPILE_CACHE] = str(code.resolve())
    return {**os.environ, **flag_environment(spec), **own}


def _signal(child: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


def _open_log(spec: RunnerSpec) -> int:
    """The slot's log, appended to; begun anew when it has grown over its bound."""
    path = spec.folder / LOG_NAME
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if path.exists() and path.stat().st_size > LOG_KEEP_BYTES:
        flags |= os.O_TRUNC
    return os.open(path, flags, 0o600)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""

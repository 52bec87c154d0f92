"""Checks strangers' files in child processes with limits, so that no decoder's fault is the broadcaster's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, cast

import structlog
from pydantic import Field
from pydantic_core import from_json, to_json

import reelnet
from broadcaster.local_failure import LocalError
from reelnet.clips import ClipFacts, ClipLimits
from reelnet.errors import NodeError, ReelnetError, StartError, UserError
from reelnet.inspection import Handling, InputLimits, OutputFacts, PictureFacts
from reelnet.inspection_worker import WorkerLimits, unpack_error
from reelnet.parameters import VIDEO
from reelnet.pipelines import MediaSpec
from reelnet.settings import Section

_START_TIMEOUT_S = 30.0
_LINE_BYTES = 64 * 1024
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
"""What a child gets to see of our environment: nothing that could be a secret."""
_SPEC_FIELDS = tuple(field.name for field in fields(MediaSpec))
_WORKER = "reelnet.inspection_worker"
_INPUT_LIMITS = InputLimits()
_HANDLING = Handling()
_CLIP_LIMITS = ClipLimits()
PIPE_BYTES = 32 * 1024
"""More bytes go to a child by its box: a socket would carry them in pieces, two switches of process each."""
log = structlog.get_logger()


class InspectionSettings(Section):
    """How pictures and outputs are checked, and what a check may cost."""

    workers: int = Field(
        2, ge=1, le=64, description="Child processes that check files at the same time; clips leave one to pictures."
    )
    memory_bytes: int = Field(2**30, ge=2**29, description="Address space of one child, libraries (0.3 GiB) included.")
    cpu_s: int = Field(20, ge=1, description="CPU seconds of one check.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds of one check, waiting for a free child not included.")
    clip_gpix_s: float = Field(
        40.0, ge=0, description="Seconds more, of CPU and in all, for every 10⁹ pixels that a clip may have."
    )
    file_bytes: int = Field(2**28, ge=2**20, description="Most bytes of a file that a child writes.")
    requests_per_worker: int = Field(5000, ge=1, description="Checks after which a child is replaced by a fresh one.")

    def worker_limits(self) -> WorkerLimits:
        """What a child is told at its start."""
        return WorkerLimits(self.memory_bytes, self.cpu_s, self.file_bytes, self.requests_per_worker)


class _LostError(Exception):
    """The child died, hung or spoke nonsense over this request."""


class _Line(asyncio.Protocol):
    """The parent's end of a child's socket: bytes go out, and lines come back, one at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\n") and not self.answer.done():
            self.answer.set_result(self._received)
            self._received = b""
        elif len(self._received) > _LINE_BYTES:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up()

    def send(self, *parts: bytes) -> None:
        """Sends a request; `answer` is the one to it."""
        assert self._transport
        self.answer = asyncio.get_running_loop().create_future()  # also where none will come: an old one is no answer
        if self._transport.is_closing():
            self.give_up()
        else:
            self._transport.writelines(parts)

    def give_up(self) -> None:
        """Waits for the answer no longer: it is lost."""
        if not self.answer.done():
            self.answer.set_exception(_LostError())
            self.answer.exception()  # nobody may wait for it yet

    def close(self) -> None:
        """Ends the connection, and with it the child."""
        if self._transport:
            self._transport.close()


class _Child:
    """One worker process. `fit` says that it can take a request.

    `box` is a file in memory that both sides hold: the larger outputs lie there, one at a time.
    """

    def __init__(self, process: asyncio.subprocess.Process, line: _Line, box: int, requests: int) -> None:
        self._process = process
        self._line = line
        self._box = box
        self._left = requests
        self._asking = False
        self._killed = False

    @classmethod
    async def spawn(cls, settings: InspectionSettings) -> _Child:
        """A child that is only starting: wait until it is `ready`. Raises StartError."""
        try:
            with contextlib.ExitStack() as undone:
                child = await cls._spawn(settings, undone)
                undone.pop_all()
                return child
        except OSError as error:  # this process has no descriptor, or the machine no memory, for another one
            raise StartError(f"a file inspection worker cannot be started: {error.strerror}") from None

    @classmethod
    async def _spawn(cls, settings: InspectionSettings, undone: contextlib.ExitStack) -> _Child:
        ours, theirs = socket.socketpair()
        undone.callback(ours.close)
        with theirs:
            box = os.memfd_create("box")
            undone.callback(os.close, box)
            _, line = await asyncio.get_running_loop().create_unix_connection(_Line, sock=ours)
            undone.callback(line.close)
            limits = json.dumps(asdict(settings.worker_limits()))
            command = (sys.executable, "-P", "-m", _WORKER, limits, str(box))
            end = theirs.fileno()
            process = await asyncio.create_subprocess_exec(
                *command, stdin=end, stdout=end, env=_environment(), pass_fds=(box,)
            )
        return cls(process, line, box, settings.requests_per_worker)

    async def ready(self) -> None:
        """Returns when it says so. Raises StartError."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._read()
        except (_LostError, TimeoutError):
            raise StartError(f"a file inspection worker does not start; try `python -m {_WORKER}`") from None

    @property
    def fit(self) -> bool:
        return not self._asking and self._left > 0 and self._process.returncode is None

    async def ask(self, request: Mapping[str, Any], data: bytes, timeout_s: float) -> dict[str, Any]:
        """The answer to one request and the bytes that belong to it.

        When it raises anything the child is no longer fit. Raises _LostError.
        """
        self._asking = True
        self._left -= 1
        boxed = len(data) > PIPE_BYTES
        if boxed:
            os.pwrite(self._box, data, 0)
        head = to_json({**request, "bytes": len(data), "boxed": boxed}) + b"\n"
        self._line.send(head, b"" if boxed else data)
        timer = asyncio.get_running_loop().call_later(timeout_s, self._line.give_up)
        try:
            answer = await self._read()
        finally:
            timer.cancel()
        self._asking = False
        return answer

    async def _read(self) -> dict[str, Any]:
        try:
            answer = from_json(await self._line.answer)
        except ValueError:
            raise _LostError from None
        if not isinstance(answer, dict):
            raise _LostError
        return answer

    def kill(self) -> None:
        """Ends the process at once. It is told once: a second signal would reap it before asyncio does."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Kills the process and waits until nothing of it is left."""
        self.kill()
        self._line.close()
        if self._box >= 0:
            os.close(self._box)
            self._box = -1
        await self._process.wait()


class Inspector:
    """A small pool of checking processes. The first one starts with it, the others when they are needed.

    A child that dies, hangs or grows over its limits fails the one request it had, and is replaced. A clip takes as
    long as hundreds of pictures: clips never have the last child, where there is more than one.
    """

    def __init__(self, settings: InspectionSettings | None = None) -> None:
        self._settings = settings or InspectionSettings()
        self._clips = asyncio.Semaphore(max(1, self._settings.workers - 1))
        self._idle: asyncio.LifoQueue[_Child | None] = asyncio.LifoQueue()
        self._children: set[_Child] = set()
        self._tasks = asyncio.TaskGroup()
        self._restarts: set[asyncio.Task[None]] = set()
        self._spawning = asyncio.Lock()
        """Held while a process is made, which nobody would know of if the pool was left meanwhile."""
        self._closing = False

    async def __aenter__(self) -> Self:
        first = await self._start()
        await self._tasks.__aenter__()
        for child in (*[None] * (self._settings.workers - 1), first):
            self._idle.put_nowait(child)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closing = True
        async with self._spawning:
            for child in self._children:
                child.kill()
        for task in self._restarts:
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            for child in tuple(self._children):
                await self._end(child)

    async def picture(
        self,
        path: Path,
        *,
        stripped_to: Path | None = None,
        limits: InputLimits = _INPUT_LIMITS,
        handling: Handling = _HANDLING,
    ) -> PictureFacts:
        """The facts of an app's picture as it goes to a node; it is written to `stripped_to`, when that is given.

        A request that fails leaves no copy. Raises UserError (see `reelnet.inspection.inspect_picture`), and LocalError
        when a disk fails.
        """
        request = {
            "check": "picture",
            "path": str(path),
            "stripped_to": str(stripped_to) if stripped_to else None,
            "limits": asdict(limits),
            "handling": asdict(handling),
        }
        text = "the picture could not be decoded within the limits"
        over = UserError(text, code="over_limits", http_status=415, loc=("image",))
        try:
            return PictureFacts(**_with_notes(await self._check(request, over)))
        except BaseException:
            _remove(stripped_to)
            raise

    async def clip(self, path: Path, *, stripped_to: Path, limits: ClipLimits = _CLIP_LIMITS) -> ClipFacts:
        """The facts of an app's clip, as of its copy without metadata at `stripped_to`; see `reelnet.clips`.

        A request that fails leaves no copy. Raises UserError as `inspect_clip`, LocalError when a disk fails.
        """
        request = {"check": "clip", "path": str(path), "stripped_to": str(stripped_to), "limits": asdict(limits)}
        text = "the clip could not be decoded within the limits"
        over = UserError(text, code="over_limits", http_status=415, loc=(VIDEO,))
        try:
            pixels = limits.max_frames * limits.max_pixels
            return ClipFacts(**_with_notes(await self._check_clip(request, over, pixels)))
        except BaseException:
            _remove(stripped_to)
            raise

    async def output(self, source: Path | bytes, media_type: str, spec: MediaSpec, max_bytes: int) -> OutputFacts:
        """The facts of a node's output, a file or its bytes, that passed `reelnet.inspection.check_output`.

        Raises NodeError as it does.
        """
        data = source if isinstance(source, bytes) else b""
        request = {
            "check": "output",
            "path": "" if isinstance(source, bytes) else str(source),
            "media_type": media_type,
            "spec": _spec_fields(spec),
            "max_bytes": max_bytes,
        }
        over = NodeError("the output could not be decoded within the limits", code="over_limits")
        if spec.frames is None:
            return OutputFacts(**await self._check(request, over, data))
        return OutputFacts(**await self._check_clip(request, over, spec.frames * spec.width * spec.height, data))

    async def _check_clip(
        self, request: Mapping[str, Any], over: ReelnetError, pixels: int, data: bytes = b""
    ) -> dict[str, Any]:
        """As `_check`, for a clip that may have so many pixels in all of its frames."""
        more_s = math.ceil(self._settings.clip_gpix_s * pixels / 1e9)
        async with self._clips:
            return await self._check(request, over, data, more_s)

    async def _check(
        self, request: Mapping[str, Any], over: ReelnetError, data: bytes = b"", more_s: int = 0
    ) -> dict[str, Any]:
        """The answer to a request, which may take so many seconds more than a picture's."""
        child = await self._idle.get()
        try:
            if child is None or not child.fit:
                child = await self._renew(child)
            answer = await child.ask({**request, "more_cpu_s": more_s}, data, self._settings.timeout_s + more_s)
        except (StartError, _LostError) as error:
            if self._closing:
                raise _stopping() from None
            if isinstance(error, StartError):
                raise LocalError(str(error), code="inspection") from None
            log.warning("inspection.worker_lost", check=request["check"])
            raise over from None
        finally:
            self._give_back(child)
        if "error" in answer:
            raise unpack_error(answer["error"])
        if "fault" in answer:
            raise LocalError(f"the file could not be read: {answer['fault']}", code="inspection")
        facts: dict[str, Any] = answer["ok"]
        return facts

    def _give_back(self, child: _Child | None) -> None:
        """Whatever happened to a child, its place is free again."""
        if child is None or child.fit or self._closing:
            self._idle.put_nowait(child)
            return
        child.kill()
        task = self._tasks.create_task(self._replace(child), name="inspector.replace")
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _replace(self, child: _Child) -> None:
        """Fills the place of a child that is done; the next request tries again when this fails."""
        fresh = None
        try:
            fresh = await self._renew(child)
        except StartError as error:
            log.warning("inspection.worker_missing", error=str(error))
        finally:
            self._idle.put_nowait(fresh)

    async def _renew(self, child: _Child | None) -> _Child:
        if child:
            await self._end(child)
        return await self._start()

    async def _start(self) -> _Child:
        async with self._spawning:
            if self._closing:
                raise _stopping()
            child = await _Child.spawn(self._settings)
            self._children.add(child)
        try:
            await child.ready()
        except BaseException:
            await self._end(child)
            raise
        return child

    async def _end(self, child: _Child) -> None:
        await child.end()
        self._children.discard(child)


def _with_notes(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "notes": tuple((str(code), str(message)) for code, message in facts["notes"])}


def _stopping() -> LocalError:
    return LocalError("the broadcaster stops", code="stopping")


@lru_cache(maxsize=256)
def _spec_fields(spec: MediaSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in _SPEC_FIELDS}


def _remove(path: Path | None) -> None:
    if path:
        path.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """A child's environment; it finds the same `reelnet` as this process does."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    package = Path(str(reelnet.__file__)).parent
    return kept | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

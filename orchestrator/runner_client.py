"""The node's side of the runner contract: HTTP over the runner's Unix socket, one small client a runner.

A job is one POST whose answer is a stream of events. See docs/runner-contract.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from pydantic_core import to_json
from yarl import URL

from orchestrator.runner_events import EventReader, RunnerEvent
from orchestrator.runner_line import Line
from reelnet.errors import FailureClass, NodeError, PoisonError, ReelnetError, TransientError, from_class, printable
from reelnet.jobs import Licence

HEALTH_TIMEOUT_S = 5.0
METRICS_BYTES = 64 * 1024
"""Many times what a runner's metrics take; a longer answer is not read."""
KEPT_S = 30.0
"""An unused connection is used again for so long: shorter than a runner keeps it."""
SILENCE_S = 20.0
"""A runner says something at least every 5 s while a job runs; after this long it is taken for dead."""
BASE = URL("http://runner")
JOBS = BASE / "jobs"
_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
_JOB_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)
IDLE_POLL_S = 0.02
NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What `health` and `info` raise when a runner does not answer, or not sensibly."""


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a ready runner says of itself; `schemas` and `features` by pipeline, `loras` as a capability has them."""

    digest: str
    schemas: Mapping[str, str]
    licence: Licence
    loras: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """A runner's state, where it failed the reason, and the most memory that its model took, bytes (0: not known)."""

    state: str
    reason: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """One job as a runner gets it; inputs by name: their bytes in pieces, and their media type."""

    job_id: str
    attempt: int
    pipeline: str
    params: bytes
    deadline_s: float
    inputs: Mapping[str, tuple[AsyncIterator[bytes], str]] = field(default_factory=dict)


class RunnerClient:
    """Talks to one runner. Failures of the connection are PoisonError while a job runs: the runner died of it."""

    def __init__(self, socket: Path, cancel_s: float) -> None:
        self._socket = socket
        self._cancel_s = cancel_s
        self._lines: set[Line] = set()
        self._spare: Line | None = None
        connector = aiohttp.UnixConnector(str(socket), limit=8, keepalive_timeout=KEPT_S)
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            read_bufsize=512 * 1024,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Closes every connection, which cancels a job that still runs."""
        for line in (*self._lines, *([self._spare] if self._spare else [])):
            line.close()
        await self._http.close()

    async def health(self) -> Health:
        """The runner's state. Raises one of NO_ANSWER while there is no sensible answer."""
        async with self._http.get(BASE / "health", timeout=_HEALTH_TIMEOUT) as answer:
            body = await answer.json(content_type=None)
        if not isinstance(body, dict):
            raise ValueError("/health is no object")
        state, reason = printable(str(body.get("state")), 32), printable(str(body.get("reason") or ""), 300)
        return Health(state, reason, _bytes(body.get("memory_bytes")))

    async def info(self) -> RunnerInfo:
        """What the ready runner serves. Raises one of NO_ANSWER."""
        async with self._http.get(BASE / "info", timeout=_HEALTH_TIMEOUT, raise_for_status=True) as answer:
            body = await answer.json(content_type=None)
        try:
            return _info(body)
        except (KeyError, TypeError) as error:
            raise ValueError(f"/info is not what it should be ({type(error).__name__})") from None

    async def metrics(self, timeout_s: float) -> bytes:
        """The runner's metrics, text of at most METRICS_BYTES. Raises one of NO_ANSWER."""
        text, timeout = bytearray(), aiohttp.ClientTimeout(total=timeout_s)
        async with self._http.get(BASE / "metrics", timeout=timeout, raise_for_status=True) as answer:
            async for piece in answer.content.iter_any():
                text += piece
                if len(text) > METRICS_BYTES:
                    raise ValueError(f"/metrics has more than {METRICS_BYTES} bytes")
        return bytes(text)

    @asynccontextmanager
    async def run(self, job: RunnerJob, on_stuck: Callable[[str], None]) -> AsyncIterator[JobStream]:
        """One job. Leaving the block early cancels it and waits until the runner has stopped.

        `on_stuck` is called, before the block is left, when the runner does not stop within the limit or was given up
        by `stream.give_up()`: it has to be restarted, and no other job may get it.
        """
        try:
            answer = await self._post(job)
        except asyncio.CancelledError:
            if not await self._idle_again(job.job_id):
                on_stuck("a job did not stop")
            raise
        stream = JobStream(answer.readany)
        try:
            yield stream
        finally:
            if not stream.ended and not await self._stopped(job.job_id, stream):
                on_stuck("a job did not stop")
            answer.close()

    async def _post(self, job: RunnerJob) -> _Answer:
        """The answer to a job: one with inputs is a form."""
        try:
            status, answer = await (self._post_form(job) if job.inputs else self._post_json(job))
            if status == 200:
                return answer
            body = b""
            while piece := await answer.readany():
                body += piece
            answer.close()
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("the runner is gone", code=type(error).__name__) from None
        raise _refusal(status, body)

    async def _post_form(self, job: RunnerJob) -> tuple[int, _Answer]:
        response = await self._http.post(JOBS, data=_form(job), timeout=_JOB_TIMEOUT)
        return response.status, _Answer(response.content.readany, response.close)

    async def _post_json(self, job: RunnerJob) -> tuple[int, _Answer]:
        line, self._spare = self._spare, None
        if line is None or not line.fit(KEPT_S):
            line = await Line.open(self._socket, SILENCE_S)
        answer = _Answer(line.readany, partial(self._put_back, line))
        self._lines.add(line)
        try:
            return await line.post(JOBS.raw_path.encode(), _order(job)), answer
        except BaseException:
            answer.close()
            raise

    def _put_back(self, line: Line) -> None:
        """Keeps one connection that can take another job."""
        self._lines.discard(line)
        if self._spare is None and line.fit(KEPT_S) and not self._http.closed:
            self._spare = line
        else:
            line.close()

    async def _idle_again(self, job_id: str) -> bool:
        """After a cancel before the job's stream began: whether the runner is free within the limit."""
        if self._http.closed:
            return False
        try:
            async with asyncio.timeout(self._cancel_s):
                async with self._http.delete(JOBS / job_id):
                    pass
                while (await self.health()).state == "BUSY":  # noqa: ASYNC110  (another process is asked)
                    await asyncio.sleep(IDLE_POLL_S)
        except NO_ANSWER:
            return False
        return True

    async def _stopped(self, job_id: str, stream: JobStream) -> bool:
        """Cancels the job; whether its stream came to its end within the limit, which says that the device is free."""
        if stream.given_up or self._http.closed:
            return False
        try:
            async with asyncio.timeout(self._cancel_s):
                async with self._http.delete(JOBS / job_id):
                    pass
                await stream.drain()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return stream.ended


@dataclass(frozen=True, slots=True)
class _Answer:
    """A runner's answer: what has come of its body, nothing at its end; and what is to be done with it at last."""

    readany: Callable[[], Awaitable[bytes]]
    close: Callable[[], None]


class JobStream:
    """The events of one job, until and with RunnerDone. The next one raises the job's failure."""

    def __init__(self, readany: Callable[[], Awaitable[bytes]]) -> None:
        self._readany = readany
        self._reader = EventReader()
        self.given_up = False

    @property
    def ended(self) -> bool:
        """Whether the runner has said its last word on the job."""
        return self._reader.ended

    async def __aiter__(self) -> AsyncIterator[RunnerEvent]:
        while not self.ended:
            for event in self.told():
                yield event
            if not self.ended:
                await self.wait()

    def told(self) -> Iterator[RunnerEvent]:
        """The events that have come and were not read yet."""
        while event := self._reader.next():
            yield event

    async def wait(self) -> None:
        """Until there may be more to read. Raises PoisonError when the runner is gone."""
        self._reader.feed(await self._piece())

    def give_up(self) -> None:
        """The job hangs: do not wait for its end."""
        self.given_up = True

    async def drain(self) -> None:
        """Reads to the end of a canceled job."""
        with suppress(ReelnetError):
            async for _ in self:
                pass

    async def _piece(self) -> bytes:
        try:
            if piece := await self._readany():
                return piece
        except (aiohttp.ClientError, OSError) as error:
            raise PoisonError("the runner ended in the middle of the job", code=type(error).__name__) from None
        raise PoisonError("the runner ended in the middle of the job", code="EOFError")


def _bytes(value: Any) -> int:
    """A number of bytes that a runner names; 0 for what is none."""
    return value if isinstance(value, int) and 0 < value < 2**63 else 0


def _info(body: Any) -> RunnerInfo:
    return RunnerInfo(
        digest=str(body["digest"]),
        schemas={str(p["pipeline"]): str(p["schema"]) for p in body["pipelines"]},
        licence=Licence(str(body["licence"]["id"]), str(body["licence"]["commercial"])),
        loras={str(name): str(digest) for name, digest in body.get("lora_digests", {}).items()},
        memory_bytes=int(body.get("vram_bytes") or 0),
        features={str(p["pipeline"]): tuple(map(str, p.get("features", ()))) for p in body["pipelines"]},
    )


def _order(job: RunnerJob) -> bytes:
    """The part `job` of a request, and the whole of one without inputs."""
    head = {"job_id": job.job_id, "attempt": job.attempt, "pipeline": job.pipeline, "deadline_s": job.deadline_s}
    return to_json(head)[:-1] + b',"params":' + job.params + b"}"


def _form(job: RunnerJob) -> aiohttp.FormData:
    """A request with inputs."""
    form = aiohttp.FormData()
    form.add_field("job", _order(job).decode(), content_type="application/json")
    for name, (data, media_type) in job.inputs.items():
        form.add_field(name, data, filename=name, content_type=media_type)
    return form


def _refusal(status: int, body: bytes) -> ReelnetError:
    """What a runner's answer other than 200 means: the class that it names, else the user's fault for bad requests."""
    try:
        answer = json.loads(body)
        detail = answer["detail"]
        rows: Sequence[Any] = detail if isinstance(detail, list) else [detail]
        text = "; ".join(printable(str(row["msg"]), 200) for row in rows[:5])
        named = str(answer.get("class", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        text, named = f"HTTP {status}", ""
    if status in (400, 413, 415, 422):
        return from_class(named or FailureClass.USER, text, code="runner_refused")
    return NodeError(f"the runner refused the job: {text}", code=f"runner_{status}")

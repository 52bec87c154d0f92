"""The node's side of the runner contract: HTTP over the runner's Unix socket, one small client a runner.

A job is one POST whose answer is a stream of events. See docs/runner-contract.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path

import aiohttp
from pydantic_core import to_json
from yarl import URL

from orchestrator.runner_answers import (
    HEALTH_BYTES,
    INFO_BYTES,
    REFUSAL_BYTES,
    AnswerError,
    Health,
    RunnerInfo,
    read_health,
    read_info,
    read_refusal,
)
from orchestrator.runner_events import PROTOCOL, EventReader, RunnerEvent
from orchestrator.runner_line import HeadError, Line
from reelnet.errors import NodeError, PoisonError, ReelnetError, TransientError
from reelnet.pipelines import Work

HEALTH_TIMEOUT_S = 5.0
METRICS_BYTES = 64 * 1024
"""Many times what a runner's metrics take; a longer answer is not read."""
KEPT_S = 30.0
"""An unused connection is used again for so long: shorter than a runner keeps it."""
SILENCE_S = 20.0
"""A runner says something at least every 5 s while a job runs; after this long it is taken for dead.

The beginning of its answer has so long in all.
"""
UPLOAD_S = 60.0
"""A job with inputs has so long in all until its answer begins."""
SILENT = "silent"
GONE = "runner_gone"
ENDED = "the runner ended in the middle of the job"
BASE = URL("http://runner")
JOBS = BASE / "jobs"
_JOB_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)
IDLE_POLL_S = 0.02
NO_ANSWER = (aiohttp.ClientError, OSError, AnswerError)
"""What `health`, `info` and `metrics` raise when a runner does not answer, or not sensibly."""


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """One job as a runner gets it; inputs by name: their bytes in pieces, and their media type.

    `outputs`: how many it asks for. `work`: the units that the runner is to find in the input, where it is sent any.
    """

    job_id: str
    attempt: int
    pipeline: str
    params: bytes
    deadline_s: float
    inputs: Mapping[str, tuple[AsyncIterator[bytes], str]] = field(default_factory=dict)
    outputs: int = 1
    work: Work | None = None


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
        return read_health(await self._get("health", HEALTH_TIMEOUT_S, HEALTH_BYTES))

    async def info(self) -> RunnerInfo:
        """What the ready runner serves. Raises one of NO_ANSWER."""
        return read_info(await self._get("info", HEALTH_TIMEOUT_S, INFO_BYTES))

    async def metrics(self, timeout_s: float) -> bytes:
        """The runner's metrics, text of at most METRICS_BYTES. Raises one of NO_ANSWER."""
        return await self._get("metrics", timeout_s, METRICS_BYTES)

    async def _get(self, what: str, timeout_s: float, most_bytes: int) -> bytes:
        """A report of the runner's, within the time in all and not longer than is read."""
        data, timeout = bytearray(), aiohttp.ClientTimeout(total=timeout_s)
        async with self._http.get(BASE / what, timeout=timeout, allow_redirects=False) as answer:
            answer.raise_for_status()
            if answer.status != HTTPStatus.OK:
                raise AnswerError(f"/{what}: HTTP {answer.status}")
            async for piece in answer.content.iter_any():
                data += piece
                if len(data) > most_bytes:
                    raise AnswerError(f"/{what}: more than {most_bytes} bytes")
        return bytes(data)

    @asynccontextmanager
    async def run(self, job: RunnerJob, on_stuck: Callable[[str], None]) -> AsyncIterator[JobStream]:
        """One job. Leaving the block early cancels it and waits until the runner has stopped.

        `on_stuck` is called, before the block is left, when the runner does not stop within the limit, breaks the
        contract, or was given up by `stream.give_up()`: it has to be restarted, and no other job may get it.
        """
        try:
            answer = await self._post(job)
        except asyncio.CancelledError:
            if not await self._idle_again(job.job_id):
                on_stuck("a job did not stop")
            raise
        except NodeError as error:
            if error.code in (PROTOCOL, SILENT):
                on_stuck(error.message)
            raise
        stream = JobStream(answer.readany, job.outputs)
        try:
            yield stream
        finally:
            if not stream.ended and not await self._stopped(job.job_id, stream):
                on_stuck(stream.fault or "a job did not stop")
            answer.close()

    async def _post(self, job: RunnerJob) -> _Answer:
        """The answer to a job: one with inputs is a form. Raises what a refusal says, and the connection's end."""
        try:
            status, answer = await (self._post_form(job) if job.inputs else self._post_json(job))
            if status == HTTPStatus.OK:
                return answer
            raise read_refusal(status, await _refusal(answer))
        except TimeoutError:
            raise NodeError("the runner does not answer a job", code=SILENT) from None
        except (HeadError, aiohttp.ClientResponseError):
            raise NodeError("the runner's answer to a job is no HTTP", code=PROTOCOL) from None
        except (aiohttp.ClientError, OSError):
            raise TransientError("the runner is gone", code=GONE) from None

    async def _post_form(self, job: RunnerJob) -> tuple[int, _Answer]:
        async with asyncio.timeout(UPLOAD_S):
            response = await self._http.post(JOBS, data=_form(job), timeout=_JOB_TIMEOUT, allow_redirects=False)
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
        if stream.fault or self._http.closed:
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

    def __init__(self, readany: Callable[[], Awaitable[bytes]], outputs: int = 1) -> None:
        self._readany = readany
        self._reader = EventReader(outputs)
        self._given_up = ""

    @property
    def fault(self) -> str:
        """Why the runner is not fit for another job; empty when nothing is known against it."""
        return self._given_up or self._reader.fault

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

    def give_up(self, reason: str) -> None:
        """The job hangs: do not wait for its end."""
        self._given_up = reason

    async def drain(self) -> None:
        """Reads to the end of a canceled job."""
        with suppress(ReelnetError):
            async for _ in self:
                pass

    async def _piece(self) -> bytes:
        try:
            if piece := await self._readany():
                return piece
        except HeadError:
            self._given_up = "the runner's answer to a job is no HTTP"
            raise NodeError(self._given_up, code=PROTOCOL) from None
        except TimeoutError:
            raise PoisonError(f"the runner said nothing for {SILENCE_S:g} s in the middle of the job") from None
        except (aiohttp.ClientError, OSError):
            raise PoisonError(ENDED) from None
        raise PoisonError(ENDED)


async def _refusal(answer: _Answer) -> bytes:
    """The body of an answer other than 200. Raises TimeoutError, and NodeError when it is longer than is read."""
    body = b""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            while piece := await answer.readany():
                body += piece
                if len(body) > REFUSAL_BYTES:
                    raise NodeError("the runner's refusal of a job has no end", code=PROTOCOL)
    finally:
        answer.close()
    return body


def _order(job: RunnerJob) -> bytes:
    """The part `job` of a request, and the whole of one without inputs."""
    head: dict[str, object] = {
        "job_id": job.job_id,
        "attempt": job.attempt,
        "pipeline": job.pipeline,
        "deadline_s": job.deadline_s,
    }
    if job.work:
        head |= {"pixel_steps": job.work.pixel_steps, "output_pixels": job.work.output_pixels}
    return to_json(head)[:-1] + b',"params":' + job.params + b"}"


def _form(job: RunnerJob) -> aiohttp.FormData:
    """A request with inputs."""
    form = aiohttp.FormData()
    form.add_field("job", _order(job).decode(), content_type="application/json")
    for name, (data, media_type) in job.inputs.items():
        form.add_field(name, data, filename=name, content_type=media_type)
    return form

"""A broadcaster as an app sees it: what it serves, a job, a job's events, a result's bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import SecretStr
from pydantic_core import from_json

from reelnet.client import Address
from reelnet.errors import NodeError, ReelnetError, RefusedError, TransientError, from_class
from reelnet.pricing import parse_money

EVENT_STREAM = {"accept": "text/event-stream"}
CONNECT_TIMEOUT_S = 5.0
JOB_TIMEOUT_S = 900.0
"""Longest silence of a job's answer: over the broadcaster's own deadline, so that its word is heard."""
MAX_OUTPUT_BYTES = 512 * 2**20
KEY_VARIABLE = "REELNET_BENCHMARK_KEY"
KEY_ADVICE = f"give a line of its `keys_file` with --key-file FILE, or in the environment variable {KEY_VARIABLE}"
Offer = tuple[str, str]
"""(pipeline, model)."""

OTHER_FORM = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading an answer raises that is none of a broadcaster's."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One request: parameters without inputs, and the inputs (file name, bytes) by name where the pipeline has any."""

    pipeline: str
    params: Mapping[str, object]
    model: str | None = None
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Arguments of an httpx request: JSON, or multipart with files."""
        fields = {**self.params, **({"model_id": self.model} if self.model else {})}
        if not self.files:
            return {"json": fields}
        texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in fields.items()}
        return {"data": texts, "files": dict(self.files)}


@dataclass(frozen=True, slots=True)
class Answer:
    """A job's success body. Everything but the links' host is the broadcaster's word, and in part a node's."""

    job_id: str
    pipeline: str
    model: str
    model_digest: str
    node: str
    attempts: int
    price_nano: int
    urls: tuple[str, ...]
    seeds: tuple[int, ...]
    timings_s: Mapping[str, float] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """The answer. Raises NodeError when the body is not one."""
        try:
            job, images = body["job"], body["images"]
            return cls(
                job_id=str(job["id"]),
                pipeline=str(job["pipeline"]),
                model=str(job["model"]),
                model_digest=str(job["model_digest"]),
                node=str(job["node"]),
                attempts=int(job["attempts"]),
                price_nano=parse_money(str(job["price"])),
                urls=tuple(str(image["url"]) for image in images),
                seeds=tuple(int(image["seed"]) for image in images),
                timings_s={str(stage): float(seconds) for stage, seconds in job["timings_s"].items()},
                made_with={str(name): str(value) for name, value in job["made_with"].items()},
            )
        except OTHER_FORM as error:
            raise NodeError(f"the answer has another form: {type(error).__name__} {error}", code="answer") from None


class BroadcasterClient:
    """One connection to a broadcaster; for more at once, make more of these: one pool for many jobs is slow in httpx.

    Failures come as the ReelnetError of their class; a broadcaster that cannot be reached is a TransientError.
    `key` goes with questions and jobs, and never with a download, whose link may lead anywhere.
    """

    def __init__(self, url: str, key: SecretStr | None = None) -> None:
        self._headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        # trust_env: a proxy in the environment is for the outside, not for a broadcaster on loopback or in a tunnel.
        timeout = httpx.Timeout(JOB_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def offers(self, timeout_s: float = CONNECT_TIMEOUT_S) -> dict[Offer, int]:
        """How many nodes serve each (pipeline, model) now."""
        body = await self._models(timeout_s)
        try:
            return {(str(row["pipeline"]), str(row["model"])): int(row["nodes"]) for row in body["offers"]}
        except OTHER_FORM:
            raise TransientError("what answers there is no broadcaster", code="no_broadcaster") from None

    async def schemas(self, timeout_s: float = CONNECT_TIMEOUT_S) -> dict[Offer, str]:
        """The schema that each (pipeline, model) is served with; of several nodes, the first one's."""
        body = await self._models(timeout_s)
        try:
            rows = [row for node in body["nodes"] if node["up"] for row in node["serves"]]
            return {(str(row["pipeline"]), str(row["model"])): str(row["schema"]) for row in reversed(rows)}
        except OTHER_FORM:
            raise TransientError("what answers there is no broadcaster", code="no_broadcaster") from None

    async def served(self, timeout_s: float = CONNECT_TIMEOUT_S) -> dict[str, frozenset[Offer]]:
        """By id of each node that is up: what it serves now."""
        body = await self._models(timeout_s)
        try:
            rows = [row for row in body["nodes"] if row["up"]]
            return {
                str(row["node"]): frozenset((str(c["pipeline"]), str(c["model"])) for c in row["serves"])
                for row in rows
            }
        except OTHER_FORM:
            raise TransientError("what answers there is no broadcaster", code="no_broadcaster") from None

    async def nodes(self, timeout_s: float = CONNECT_TIMEOUT_S) -> list[Address]:
        """Where the nodes answer that are up now, with their ids."""
        body = await self._models(timeout_s)
        try:
            rows = [row for row in body["nodes"] if row["up"]]
            return [Address.parse(f"{row['address']}#{row['node']}") for row in rows]
        except OTHER_FORM:
            raise TransientError("what answers there is no broadcaster", code="no_broadcaster") from None

    async def run(self, job: JobSpec) -> Answer:
        """The finished job."""
        try:
            answer = await self._http.post(f"/{job.pipeline}", headers=self._headers, **job.body())
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        return Answer.parse(_checked(answer))

    async def _models(self, timeout_s: float) -> dict[str, Any]:
        try:
            return _checked(await self._http.get("/models", headers=self._headers, timeout=timeout_s))
        except httpx.HTTPError as error:
            raise _unreachable(error) from None

    async def events(self, job: JobSpec) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """The job's server-sent events in their order, up to and with `result`; `error` is raised."""
        try:
            headers = {**self._headers, **EVENT_STREAM}
            async with self._http.stream("POST", f"/{job.pipeline}", headers=headers, **job.body()) as answer:
                if answer.status_code != httpx.codes.OK:
                    await answer.aread()
                    raise _failure(answer)
                async for name, data in _sse(answer.aiter_lines()):
                    if name == "error":
                        raise _failure_of(data)
                    yield name, data
                    if name == "result":
                        return
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        raise TransientError("the event stream ended without a result", code="cut_off")

    async def download(self, url: str, target: Path, max_bytes: int = MAX_OUTPUT_BYTES) -> str:
        """Writes a result into `target`; its media type as claimed. Raises NodeError `bytes` for more than allowed."""
        try:
            async with self._get(url) as answer:
                with target.open("wb") as file:
                    async for piece in answer.aiter_bytes():
                        file.write(piece)
                        if file.tell() > max_bytes:
                            raise NodeError(f"the output has more than {max_bytes} bytes", code="bytes")
                return str(answer.headers.get("content-type", "")).partition(";")[0].strip()
        except httpx.HTTPError as error:
            raise _unreachable(error) from None

    @asynccontextmanager
    async def _get(self, url: str) -> AsyncIterator[httpx.Response]:
        async with self._http.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                raise _failure(answer)
            yield answer


async def _sse(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events of a server-sent stream whose data is one line of JSON each; comments are left out."""
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, _object(line.removeprefix("data: "))


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != httpx.codes.OK:
        raise _failure(answer)
    return _object(answer.text)


def _object(text: str) -> dict[str, Any]:
    try:
        body = from_json(text, allow_inf_nan=False)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise TransientError("what answers there is no broadcaster", code="no_broadcaster")
    return body


def _failure(answer: httpx.Response) -> ReelnetError:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        known = "does not know this API key" if "authorization" in answer.request.headers else "asks for an API key"
        return RefusedError(f"the broadcaster {known}; {KEY_ADVICE}", code="key")
    try:
        return _failure_of(from_json(answer.content, allow_inf_nan=False))
    except ValueError:
        return TransientError(f"HTTP {answer.status_code} without a reason", code=f"http_{answer.status_code}")


def _failure_of(body: object) -> ReelnetError:
    about = body.get("error") if isinstance(body, dict) else None
    if not isinstance(about, dict):
        return TransientError("a failure without a reason", code="no_reason")
    retry_after_s = about.get("retry_after_s")
    return from_class(
        str(about.get("class")),
        str(about.get("message")),
        code=str(about.get("code")),
        retry_after_s=float(retry_after_s) if isinstance(retry_after_s, int | float) else None,
    )


def _unreachable(error: httpx.HTTPError) -> TransientError:
    return TransientError(f"the broadcaster cannot be reached: {type(error).__name__} {error}".strip())

"""The edges between a node and its runners, and the file that keeps what runners said."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.attempts import Attempt, Site, SlotRunner
from orchestrator.model_facts import FactBook, load_estimate_s, need_bytes
from orchestrator.offers import Offers
from orchestrator.runner_client import NO_ANSWER, JobStream, RunnerClient, RunnerJob
from orchestrator.runner_events import RunnerEvent
from orchestrator.settings import Limits, ModelSettings
from orchestrator.slots import Slot, SlotTable
from orchestrator.spool import Spool
from reelnet import codec
from reelnet.errors import ReelnetError
from reelnet.identity import Identity
from reelnet.jobs import Done, Event, Output, Started
from reelnet.ticket import open_description, sign_receipt
from tests.fakes.lying_node import capability, png
from tests.fuzz import mutation
from tests.fuzz.bounds import require_bounded
from tests.fuzz.engine import Case, require
from tests.fuzz.grpc_edges import SMALL, ticket_for

HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\n"
MODEL = ModelSettings.model_validate({"model": "acme/sd", "backend": "synthetic"})
INFO: dict[str, Any] = {
    "digest": "d" * 64,
    "pipelines": [{"pipeline": "text-to-image", "schema": "text-to-image/sd@1", "features": ["safety"]}],
    "licence": {"id": "MIT", "commercial": "yes"},
    "lora_digests": {"ink": "a" * 64},
    "vram_bytes": 8,
}
HEALTH: dict[str, Any] = {"state": "READY", "reason": "", "memory_bytes": 8}
FACTS = {"source": "s", "info": {"digest": "d" * 64, "schemas": {"text-to-image": "text-to-image/sd@1"}, "licence":
         {"id": "MIT", "commercial": "yes"}, "loras": {}, "memory_bytes": 8, "features": {"text-to-image": ["safety"]}},
         "need_bytes": 2**30, "load_s": 2.5}  # fmt: skip
MOST_MESSAGE_BYTES = 2**20
PIECE_BYTES = 65_536
MOST_REPEATED_BYTES = 2**21
"""What takes long for its length alone is no finding."""


class RawRunner:
    """Answers every request on a Unix socket with the bytes that it is told; `more` goes on until nobody listens."""

    def __init__(self) -> None:
        self.answer = self.more = b""
        self.read_whole = False
        """Whether all of an endless answer was taken: 4 MiB of it."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            for _ in range(64 if self.more else 0):
                writer.write(self.more)
                await writer.drain()
            await writer.drain()
            self.read_whole = len(self.more) == PIECE_BYTES
        writer.close()


class _Watched(RunnerClient):
    """Looks at every event that a runner's stream gives."""

    @asynccontextmanager
    async def run(self, job: RunnerJob, on_stuck: Callable[[str], None]) -> AsyncIterator[JobStream]:
        async with super().run(job, on_stuck) as stream:
            told = stream.told

            def looked_at() -> Iterator[RunnerEvent]:
                for event in told():
                    require_bounded(event, where=type(event).__name__)
                    yield event

            stream.told = looked_at  # type: ignore[method-assign]
            yield stream


def _http(rng: random.Random, body: bytes) -> bytes:
    """A body behind a head, which may be odd too."""
    status = rng.choice((200, 200, 200, 200, 422, 500, 301, 204, 999))
    if rng.random() < 0.1:
        return mutation.damaged(rng, HEAD % status + b"connection: close\r\n\r\n" + body)
    if rng.random() < 0.1:
        return HEAD % status + b"x: y\r\n" * rng.choice((10, 200, 20_000)) + b"\r\n" + body
    return HEAD % status + b"connection: close\r\n\r\n" + body


@asynccontextmanager
async def _raw(folder: Path) -> AsyncIterator[tuple[RawRunner, RunnerClient]]:
    runner, socket = RawRunner(), folder / "r.sock"
    server = await asyncio.start_unix_server(runner.serve, socket)
    client = _Watched(socket, cancel_s=0.05)
    try:
        yield runner, client
    finally:
        await client.close()
        server.close()


@asynccontextmanager
async def reports(folder: Path) -> AsyncIterator[Case]:
    """What a runner says of itself: through the client into the node's signed description."""
    identity = Identity.generate()
    async with _raw(folder) as (runner, client):

        async def case(rng: random.Random) -> None:
            runner.more, runner.read_whole = b"x" * PIECE_BYTES if rng.random() < 0.03 else b"", False
            health = rng.random() < 0.3
            runner.answer = _http(rng, mutation.document(rng, HEALTH if health else INFO))
            try:
                if health:
                    said = await client.health()
                    require(
                        0 <= said.memory_bytes < 2**63 and len(said.state + said.reason) < 1000, "health has no bound"
                    )
                    return
                info = await client.info()
            except NO_ANSWER:
                require(not runner.read_whole, "all of an answer without an end was read")
                return
            require_bounded(info)
            require(max(len(info.schemas), len(info.features)) <= 64, f"{len(info.schemas)} pipelines")
            offers = Offers(identity, "epoch", time.monotonic, lambda: None, 1)
            offers.learn(MODEL, info)
            require(len(offers.description.payload) < MOST_MESSAGE_BYTES - 4096, "a description that no message holds")
            require(open_description(offers.description, identity.id).capabilities is not None, "no description")

        yield case


@asynccontextmanager
async def stream(folder: Path) -> AsyncIterator[Case]:
    """What a runner says of a job: through the client and the attempt to the frames for the broadcaster."""
    identity = Identity.generate()
    spool = Spool(folder / "spool", 2**24)
    async with _raw(folder) as (runner, client):

        async def case(rng: random.Random) -> None:
            runner.answer, runner.more, runner.read_whole = _http(rng, _lines(rng)), b"", False
            if rng.random() < 0.05:
                runner.more = rng.choice(
                    (b'{"event":"tick","idle_s":0}\n', b'{"event":"started"}\n', b" " * PIECE_BYTES)
                )
            attempt = _attempt(client, identity, spool)
            heard: list[Event] = []

            async def tell(events: list[Event]) -> None:
                heard.extend(events)
                require(codec.frames_to_bytes(events), "no frames")

            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                group.create_task(attempt.run())
                follower = group.create_task(_follow(attempt, tell))
            require(
                follower.result() or any(isinstance(event, Done) for event in heard), "neither an end nor a failure"
            )
            attempt.erase()
            require(not runner.read_whole, "all of an answer without an end was read")
            require(sum(isinstance(event, Started) for event in heard) <= 1, "started more than once")
            outputs = [event.index for event in heard if isinstance(event, Output)]
            require(outputs in ([], [0]), f"outputs {outputs[:5]} of a job that asks for one")
            require(spool.used_bytes == 0, "bytes of a job that is over")
            require(len(heard) < 10_000, "endless events")

        yield case


async def _follow(attempt: Attempt, tell: Any) -> bool:
    """Whether the attempt ended in a failure of ours."""
    try:
        await attempt.follow(tell)
    except ReelnetError:
        return True
    return False


def _attempt(client: RunnerClient, identity: Identity, spool: Spool) -> Attempt:
    table = SlotTable([Slot("slot", "synthetic/bars", "a", ready=True)], {"synthetic/bars": 1}, time.monotonic)

    def nothing(*_: Any) -> None:
        return None

    site = Site(
        table=table,
        spool=spool,
        limits=Limits(hold_s=0, output_bytes=2**20),
        runner_of=lambda slot: SlotRunner(client, nothing, nothing, nothing),
        now_ms=lambda: 0,
        observe=nothing,
        waited=nothing,
        loading=nothing,
        sign=lambda ticket, outputs, price: sign_receipt(identity, ticket, outputs, price),
    )
    ticket = ticket_for(identity, identity, "epoch", capability(), SMALL, 60_000)
    return Attempt(ticket, b"", table.reserve("synthetic/bars", 1.0), 0, site)


def _lines(rng: random.Random) -> bytes:
    """A good stream with lines that are changed, doubled, dropped or moved."""
    data = png()
    events: list[dict[str, Any]] = [
        {"event": "started", "pixel_steps": 4096, "output_pixels": 4096},
        {"event": "progress", "stage": "denoise", "step": 1, "total": 1},
        {"event": "tick", "idle_s": 0.5},
        {"event": "preview", "size": 3, "index": 0, "step": 1, "total": 1},
        {"event": "output", "index": 0, "media_type": "image/png", "seed": 1, "nsfw": None},
        {"event": "chunk", "size": len(data)},
        {"event": "output_end", "index": 0, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        {"event": "done", "timings_s": {"run": 0.5}, "model_digest": "0" * 64, "class": "cpu", "versions": {"a": "1"}},
    ]
    if rng.random() < 0.2:
        events[-1] = {"event": "error", "class": "node", "code": "x", "message": "m"}
    behind = {"preview": b"\xff\xd8\xff", "chunk": data}
    lines = [(json.dumps(event).encode(), behind.get(event["event"], b"")) for event in events]
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                del lines[at]
            case 1:
                lines[at:at] = _repeated(lines[at : at + 1], rng.choice((1, 2, 2000)))
            case 2:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 3:
                lines[at:at] = _repeated(lines[at : at + rng.randint(2, 4)], rng.choice((1, 2, 300)))
            case _:
                with contextlib.suppress(ValueError, RecursionError):
                    lines[at] = mutation.document(rng, json.loads(lines[at][0])), lines[at][1]
        if not lines:
            break
    return b"".join(line + b"\n" + more for line, more in lines)


def _repeated(lines: list[tuple[bytes, bytes]], count: int) -> list[tuple[bytes, bytes]]:
    """The lines so many times, as far as that is not more than MOST_REPEATED_BYTES."""
    size = sum(len(line) + len(more) for line, more in lines)
    return lines * min(count, MOST_REPEATED_BYTES // max(1, size))


@asynccontextmanager
async def book(folder: Path) -> AsyncIterator[Case]:
    """The file of what is known of models: damaged in any way, a node starts with it."""
    path = folder / "models.json"

    async def case(rng: random.Random) -> None:
        path.write_bytes(mutation.document(rng, {"acme/sd": FACTS, "b": FACTS}))
        read = FactBook(path)
        for name in ("acme/sd", "b"):
            facts = read.of(name, "s")
            require(0 <= need_bytes(MODEL, facts, 10)[0] < 2**63, "a need that is none")
            require(0 <= load_estimate_s(facts, 10) < 1e6, "a time of a load that is none")
            if facts.info:
                offers = Offers(Identity.generate(), "epoch", time.monotonic, lambda: None, 1)
                offers.learn(MODEL, facts.info)
        FactBook(path).write(read.text())

    yield case

"""The edges between broadcaster and node: each over real gRPC, with messages that are nearly good."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
from google.protobuf.message import DecodeError, Message
from pydantic_core import to_json

import reelnet.client
from broadcaster.attempt import AttemptContext, run_attempt
from broadcaster.inspector import Inspector
from broadcaster.job import JobProgress, JobRequest, new_job_id, now_ms
from broadcaster.job_stream import News
from broadcaster.media import MediaStore
from broadcaster.pool_view import pool_body
from broadcaster.previews import PreviewGate
from broadcaster.registry import Registry
from broadcaster.scores import Scores
from broadcaster.selection import Candidate, Wanted, choose
from broadcaster.settings import Limits
from reelnet import codec
from reelnet.client import Address
from reelnet.codec import FrameValue, InputChunk, TicketFrame, WatchAnswer
from reelnet.errors import ReelnetError, UserError
from reelnet.identity import Identity
from reelnet.jobs import (
    BroadcasterId,
    Capability,
    Description,
    Done,
    Event,
    JobId,
    Load,
    ModelLoad,
    NodeId,
    Preview,
    Progress,
    Queued,
    Ticket,
)
from reelnet.pipelines import PIPELINES, Work
from reelnet.pricing import Rates
from reelnet.proof import sign_proof
from reelnet.rpc import SERVICE, RpcLimits
from reelnet.ticket import DESCRIPTION_CONTEXT, TICKET_CONTEXT, open_ticket
from reelnet.v1 import orchestrator_pb2, types_pb2
from tests.fakes.lying_node import capability, delivery, png, signed_for, whole
from tests.fakes.pool import InProcessEngine, PoolPlan, node_settings, running_node, until
from tests.fakes.raw_node import RawNode, introduction, running_raw
from tests.fuzz import mutation
from tests.fuzz.bounds import require_bounded
from tests.fuzz.engine import Case, require

OFFER = Capability(
    "text-to-image", PIPELINES["text-to-image"].schema, "acme/sd", "d" * 64, Rates(1, 2, 3, 4),
    loras={"ink": "a" * 64}, slots=2, queue_limit=8, memory_bytes=2**33, features=("safety",),
)  # fmt: skip
LOAD = Load((ModelLoad("text-to-image", "acme/sd", 1, 0, 0, warm=True, wait_s=1.0),))
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
STATUSES = frozenset(
    {"CANCELLED", "INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
     "UNAVAILABLE", "DEADLINE_EXCEEDED", "OK"}
)  # fmt: skip
"""How a node may end a stranger's call: every other status is a fault of its own."""
OURS = "Internal error from Core"
"""What gRPC says where a call ended while this side was writing to it: the node's own word is lost then."""
MOST_PICTURE_BYTES = 2**17
"""More than a picture of 64 × 64 takes without any compression."""
MOST_PARAMS_BYTES = 2**17


@asynccontextmanager
async def watch(folder: Path) -> AsyncIterator[Case]:
    """What a node says of itself: through the client into the registry, and on into the pool's list and a choice."""
    node, messages = Identity.generate(), list[bytes]()
    raw = RawNode(lambda request: [_proven(message, node, request) for message in messages], stays=False)
    async with running_raw(raw) as target:
        address = Address.parse(f"{target}#{node.id}")
        registry = Registry([address], RpcLimits(), Scores(), random.Random(1), "me")
        record = registry.nodes()[0]

        async def case(rng: random.Random) -> None:
            messages[:] = [_update(rng, node) for _ in range(rng.randint(1, 3))]
            try:
                async for update in record.client.watch():
                    require_bounded(update, where="update")
                    registry._take(record, update)
                    _look(registry, rng)
            except ReelnetError as error:
                registry._lost(record, error)
            require(len(to_json(pool_body(registry))) < 2**21, "the pool's list is longer than what the node may say")

        with patch.object(reelnet.client, "WATCH_REST", 0):
            yield case
        await record.client.close()


def _update(rng: random.Random, node: Identity) -> bytes:
    """An update whose description is signed by the node, whatever it says; its proof is put in later.

    Of some the description is good: a client believes nothing of what comes beside a wrong one.
    """
    way = rng.random()
    told = Description(NodeId(node.id), str(rng.randrange(4)), rng.randrange(9), 1, 1, (OFFER,) * rng.randint(1, 2))
    good = types_pb2.Description.FromString(codec.description_to_bytes(told))
    payload = mutation.message(rng, good) if way < 0.6 else good.SerializeToString()
    signed = node.sign(DESCRIPTION_CONTEXT, payload)
    answer = orchestrator_pb2.WatchResponse.FromString(codec.watch_answer_to_bytes(WatchAnswer(signed, LOAD)))
    for _ in range(rng.randint(1, 4) if way > 0.7 else 0):
        mutation.change(rng, answer.load)
    return mutation.message(rng, answer) if 0.4 < way < 0.8 else answer.SerializeToString()


def _proven(message: bytes, node: Identity, request: bytes) -> bytes:
    """The message with a good proof behind it: a field that comes twice is the later one."""
    challenge = codec.watch_request_from_bytes(request).challenge
    assert challenge
    proof = codec.signed_to_message(sign_proof(node, challenge))
    return message + orchestrator_pb2.WatchResponse(proof=proof).SerializeToString()


def _look(registry: Registry, rng: random.Random) -> None:
    """All that a request looks at."""
    wanted = Wanted(Work(10**6, 10**6), "text-to-image/sd", 1, 10**9, features=frozenset(("safety",)))
    for offer in list(registry.offers())[:5]:
        registry.found(offer, "lora"), registry.found(offer, "family"), registry.served(offer[0])
        choose(registry.candidates(offer, wanted, 4, frozenset()), wanted, rng, seconds_per_dollar=1.0)


@asynccontextmanager
async def job(folder: Path) -> AsyncIterator[Case]:
    """What a node says of a job: through the client and the checks to the results and the events of the app."""
    node, chance, frames = Identity.generate(), random.Random(), list[bytes]()

    def answer(first: bytes) -> list[bytes]:
        (frame, *_) = codec.frames_from_bytes(first, UserError)
        assert isinstance(frame, TicketFrame)
        frames[:] = _stream(chance, node, open_ticket(frame.ticket))
        return frames

    raw = RawNode(lambda request: [introduction(node, capability(), request)], answer)
    media = MediaStore(folder / "media")
    await media.start()
    async with running_raw(raw) as target, Inspector() as inspector:
        me = Identity.generate()
        registry = Registry([Address.parse(f"{target}#{node.id}")], RpcLimits(), Scores(), random.Random(1), me.id)
        record = registry.nodes()[0]
        registry._take(record, await anext(record.client.watch()))
        context = AttemptContext(me, media, inspector, Limits(silence_s=20))
        candidate = Candidate(node.id, capability(), LOAD.models[0], 0, 1.0, 1.0)

        async def case(rng: random.Random) -> None:
            request = _request(rng)
            progress = JobProgress(request)
            progress.begin_attempt(node.id)
            gate = PreviewGate(request, News().hear, 0, lambda what: None)
            heard, began = list[Event](), time.monotonic()
            chance.seed(rng.random())

            def listen(event: Event) -> None:
                require_bounded(event, where=type(event).__name__)
                heard.append(event)
                gate(event)

            try:
                await run_attempt(context, record, candidate, progress, listen)
            except ReelnetError:
                require(not progress.results, "a failed attempt left results")
            require_bounded((progress.timings_s, progress.facts), where="done")
            sizes = [result.media.size for result in progress.results]
            require(max(sizes, default=0) <= MOST_PICTURE_BYTES, f"pictures of 64 × 64 in {sizes} bytes were kept")
            if not any(_kind(frame) == "batch" for frame in set(frames)):
                most = 1000 + 100 * (time.monotonic() - began) + sum(map(len, frames)) / 1024
                require(len(heard) <= most, f"{len(heard)} messages of one job were heard")
            left = list((folder / "media/incoming").iterdir())
            require(not left, f"{len(left)} files of outputs that nobody keeps")

        yield case
        await record.client.close()


def _request(rng: random.Random) -> JobRequest:
    pipeline = PIPELINES["text-to-image"]
    params = pipeline.parse({**SMALL, "num_images_per_prompt": rng.choice((1, 1, 2)), "preview_steps": 1})
    return JobRequest(new_job_id(), pipeline, "synthetic/bars", params, (), now_ms() + 60_000, None)


def _stream(rng: random.Random, node: Identity, ticket: Ticket) -> list[bytes]:
    """An honest job's frames, some of them changed, doubled, dropped or moved."""
    data = _padded(png(), rng.choice((60_000, 200_000))) if rng.random() < 0.1 else png()
    outputs = [frame for i in range(rng.choice((1, 1, 2))) for frame in delivery(data, index=i)]
    values = signed_for(node, ticket, whole(ticket, *outputs))
    extra: list[FrameValue] = [Progress("denoise", 1, 2), Queued(1, 2.0), Preview(b"\xff\xd8\xff", 0, 1, 2)]
    for value in extra:
        values.insert(rng.randrange(1, len(values)), value)
    messages = [codec.frames_to_bytes([value]) for value in values]
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(messages))
        match rng.randrange(5):
            case 0:
                del messages[at]
            case 1:
                messages[at:at] = [messages[at]] * rng.choice((1, 2, 3000))
            case 2:
                messages.insert(rng.randrange(len(messages)), messages[at])
            case _:
                messages[at] = _mutated_frame(rng, messages[at])
        if not messages:
            break
    return messages


def _padded(picture: bytes, size: int) -> bytes:
    """The PNG with so many bytes more, which are no pixels."""
    body = b"teXt" + bytes(size)
    return picture[:-12] + struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) + picture[-12:]


def _kind(data: bytes) -> str | None:
    try:
        return types_pb2.Frame.FromString(data).WhichOneof("body")
    except DecodeError:
        return None


def _mutated_frame(rng: random.Random, data: bytes) -> bytes:
    """A frame with changes of what it carries, or of the whole."""
    try:
        frame = types_pb2.Frame.FromString(data)
    except DecodeError:
        return mutation.damaged(rng, data)
    kind = frame.WhichOneof("body")
    inner = getattr(frame, kind) if kind else frame
    if inner.DESCRIPTOR.fields and rng.random() < 0.7:
        mutation.change(rng, inner)
        return frame.SerializeToString()
    return mutation.message(rng, frame)


@asynccontextmanager
async def ticket(folder: Path) -> AsyncIterator[Case]:
    """What a broadcaster sends: tickets and frames to a real node. It stays fit for an honest job."""
    engine = InProcessEngine()
    limits = {"first_frame_s": 5, "input_s": 2, "acknowledge_s": 2, "linger_max_s": 1, "drain_s": 1}
    async with AsyncExitStack() as stack:
        plan = PoolPlan(folder, [engine], node={"limits": limits})
        running = await stack.enter_async_context(running_node(node_settings(plan, 0), engine))
        await until(lambda: running.node.offers.by_key, "the node serves its model")
        target = running.address.partition("#")[0]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        me, count = Identity.generate(), 0

        async def case(rng: random.Random) -> None:
            nonlocal count
            count += 1
            if count % 50 == 1:
                await honest_job(channel, me, running)
            if rng.random() < 0.15:
                await _other_call(rng, channel)
                return
            if rng.random() < 0.03:
                await _too_long(channel, me, running)
                return
            good = _node_ticket(me, running)
            payload = codec.ticket_to_bytes(good)
            if rng.random() < 0.9:
                payload = mutation.message(rng, types_pb2.Ticket.FromString(_with_params(rng, payload)))
            first = TicketFrame(me.sign(TICKET_CONTEXT, payload), batches=rng.random() < 0.5)
            messages = [codec.frames_to_bytes([first])]
            if rng.random() < 0.3:
                messages[0] = _mutated_frame(rng, messages[0])
            more = [InputChunk(0, b"x" * 100), codec.Cancel("x"), codec.Acknowledge(), InputChunk(2**32 - 1, b"")]
            for _ in range(rng.randint(0, 3)):
                frame = codec.frames_to_bytes([rng.choice(more)])
                messages.append(_mutated_frame(rng, frame) if rng.random() < 0.5 else frame)
            await _said(channel, messages)

        yield case


def _with_params(rng: random.Random, payload: bytes) -> bytes:
    message = types_pb2.Ticket.FromString(payload)
    if rng.random() < 0.5:
        message.params = mutation.document(rng, SMALL)[: 2**19]
    return message.SerializeToString()


def _node_ticket(me: Identity, running: Any) -> Ticket:
    node = running.node
    offer = node.offers.by_key["text-to-image", "synthetic/bars"]
    return ticket_for(me, node, node.epoch, offer, SMALL, time.time_ns() // 1_000_000 + 30_000)


def ticket_for(me: Identity, node: Any, epoch: str, offer: Capability, ask: dict[str, Any], until_ms: int) -> Ticket:
    """A good ticket for the node with that id."""
    pipeline = PIPELINES[offer.pipeline]
    params = pipeline.parse(ask)
    return Ticket(
        JobId(new_job_id()), 1, BroadcasterId(me.id), NodeId(node.id), epoch, offer.pipeline, offer.schema,
        offer.model, offer.model_digest, params.model_dump_json().encode(), (), pipeline.work(params), offer.rates,
        10**9, until_ms, until_ms,
    )  # fmt: skip


async def honest_job(channel: grpc.aio.Channel, me: Identity, running: Any) -> None:
    """A job from its ticket to the acknowledgement. Raises AssertionError when it is not done."""
    ticket = _node_ticket(me, running)
    first = TicketFrame(me.sign(TICKET_CONTEXT, codec.ticket_to_bytes(ticket)), batches=True)
    call: Any = channel.stream_stream(f"/{SERVICE}/Generate")(timeout=20)
    await call.write(codec.frames_to_bytes([first]))
    async for data in call:
        if any(isinstance(value, Done) for value in codec.frames_from_bytes(data, ReelnetError)):
            await call.write(codec.frames_to_bytes([codec.Acknowledge()]))
            return
    raise AssertionError(f"an honest job is not done any more: {await call.code()} {await call.details()}")


async def _too_long(channel: grpc.aio.Channel, me: Identity, running: Any) -> None:
    """A good ticket, but that its parameters are longer than any job's gets no place."""
    good = _node_ticket(me, running)
    long = replace(good, params=good.params + b" " * MOST_PARAMS_BYTES)
    call: Any = channel.stream_stream(f"/{SERVICE}/Generate")(timeout=5)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
        await call.write(codec.frames_to_bytes([TicketFrame(me.sign(TICKET_CONTEXT, codec.ticket_to_bytes(long)))]))
        require(not isinstance(await call.read(), bytes), f"{len(long.params)} bytes of parameters were accepted")
    call.cancel()


async def _said(channel: grpc.aio.Channel, messages: Sequence[bytes]) -> None:
    """Sends the messages, hears what comes until the call ends, and looks at how."""
    call: Any = channel.stream_stream(f"/{SERVICE}/Generate")(timeout=5)
    try:
        for message in messages:
            await call.write(message)
        await call.done_writing()
        async for _ in call:
            pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
        pass
    code = await call.code()
    if await call.details() == OURS:
        return
    require(code.name in STATUSES, f"the node ended the call with {code.name}: {await call.details()}")
    require(
        len(await call.details()) <= 1000,
        f"the refusal has {len(await call.details())} characters: {(await call.details())[:80]}",
    )


async def _other_call(rng: random.Random, channel: grpc.aio.Channel) -> None:
    challenge = types_pb2.Challenge(nonce=b"n" * 32, audience="me", expires_ms=time.time_ns() // 1_000_000 + 60_000)
    make: Callable[[], Message] = rng.choice(
        (
            lambda: orchestrator_pb2.DescribeRequest(challenge=challenge),
            lambda: orchestrator_pb2.ProbeRequest(pipeline="text-to-image", model="synthetic/bars"),
        )
    )
    good = make()
    method = type(good).__name__.removesuffix("Request")
    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")(mutation.message(rng, good)[: 2**20 - 100], timeout=5)
    code = await call.code()
    require(code.name in STATUSES, f"{method} ended with {code.name}: {await call.details()}")

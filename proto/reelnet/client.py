"""The client of an orchestrator: describe, watch, probe, and one attempt of a job as an asynchronous iterator.

::

    async with OrchestratorClient(Address.parse("127.0.0.1:8935#<node-id>"), audience=identity.id) as node:
        async with node.generate(signed_ticket, [picture], timeout_s=60) as attempt:
            async for event in attempt:      # Accepted, Queued, Started, Progress, Output, Chunk …, Done
                ...
            await attempt.acknowledge()

Every failure is one of `reelnet.errors`, whatever bytes the node sends. Leaving the block before the end closes the
call. A node whose ticket has no linger then stops the job within one step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

from reelnet import codec
from reelnet.clocks import Skew, now_ms
from reelnet.codec import Acknowledge, Cancel, Failed, FrameValue, InputChunk, TicketFrame
from reelnet.errors import NodeError, TransientError
from reelnet.identity import Signed, valid_id
from reelnet.jobs import Accepted, Challenge, Description, Done, Event, Load
from reelnet.proof import check_proof, new_challenge
from reelnet.rpc import CHUNK_BYTES, EAGER_INPUT_BYTES, SERVICE, MessageBudget, RpcLimits, channel_options, error_from
from reelnet.ticket import open_description

ACKNOWLEDGE_TIMEOUT_S = 2.0
WATCH_REST = 40
"""After an update, no other one is read for so many times the CPU seconds of its reading: a flood stalls nobody."""
CALL_ENDED = (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError)
"""What a write raises when the call has ended: its status tells the reader why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node answers, and who must answer there: `host:port#node-id`."""

    target: str
    node_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError with the expected form."""
        target, _, node_id = text.partition("#")
        host, _, port = target.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no address: expected host:port or host:port#node-id")
        if "#" in text and not valid_id(node_id):
            raise ValueError(f"{node_id!r} is no node id: expected 52 characters as `orchestrator id` prints them")
        return cls(target, node_id or None)

    def __str__(self) -> str:
        return f"{self.target}#{self.node_id}" if self.node_id else self.target


@dataclass(frozen=True, slots=True)
class Update:
    """What a watched node says: its description when it changed, its load.

    `skew_s`: how far its clock is ahead of this one, None where it does not say. `refuses`: it serves others only.
    """

    description: Description | None
    load: Load
    skew_s: float | None = None
    refuses: bool = False


class OrchestratorClient:
    """One node's channel. Calls fail with `reelnet.errors`; each has the timeout that its caller gives.

    `audience` is the caller's own id. A node proves its id to it before anything that the node says is believed.
    """

    def __init__(self, address: Address, limits: RpcLimits | None = None, audience: str = "") -> None:
        self.address = address
        self.limits = limits or RpcLimits()
        self._audience = audience
        self._channel = channel = grpc.aio.insecure_channel(address.target, options=channel_options(self.limits))
        self._describe: Any = channel.unary_unary(f"/{SERVICE}/Describe")
        self._watch: Any = channel.unary_stream(f"/{SERVICE}/Watch")
        self._probe: Any = channel.unary_unary(f"/{SERVICE}/Probe")
        self._generate: Any = channel.stream_stream(f"/{SERVICE}/Generate")
        self._settling: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel and every call on it, when what was acknowledged has been said."""
        if self._settling:
            await asyncio.wait(self._settling)
        await self._channel.close()

    async def describe(self, timeout_s: float) -> Description:
        """The node's description, its signature and the node's proof checked."""
        challenge = self._challenge()
        try:
            data = await self._describe(codec.describe_request_to_bytes(challenge), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        answer = codec.describe_answer_from_bytes(data)
        return open_description(answer.description, check_proof(answer.proof, challenge, self.address.node_id))

    async def watch(self) -> AsyncIterator[Update]:
        """The node's updates until the connection ends, which raises. Keepalive notices a dead peer."""
        challenge, node_id, sent_ms = self._challenge(), None, now_ms()
        call, skew = self._watch(codec.watch_request_to_bytes(challenge, sent_ms)), Skew(sent_ms)
        try:
            async for data in call:
                began, received_ms = time.thread_time(), now_ms()
                answer = codec.watch_answer_from_bytes(data)
                node_id = node_id or check_proof(answer.proof, challenge, self.address.node_id)
                description = open_description(answer.description, node_id) if answer.description else None
                rest_s = WATCH_REST * (time.thread_time() - began)
                yield Update(description, answer.load, skew.seen(answer.now_ms, received_ms), answer.refuses)
                await asyncio.sleep(rest_s)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        finally:
            call.cancel()
        raise TransientError("the node ended the watch")

    async def probe(self, pipeline: str, model: str, timeout_s: float) -> float:
        """The node's estimate of a new job's queue time, seconds."""
        try:
            data = await self._probe(codec.probe_request_to_bytes(pipeline, model), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        return codec.probe_answer_from_bytes(data).wait_s

    @asynccontextmanager
    async def generate(
        self, ticket: Signed, inputs: Sequence[bytes], timeout_s: float, resume_from: tuple[int, int] = (0, 0)
    ) -> AsyncIterator[AttemptStream]:
        """One attempt. `inputs` are the bytes that the ticket names, in its order; `timeout_s` bounds the call."""
        call = self._generate(timeout=timeout_s)
        attempt = AttemptStream(call, TicketFrame(ticket, resume_from, batches=True), inputs)
        try:
            yield attempt
        finally:
            attempt.stop_sending()
            if attempt.acknowledged:
                self._settle(attempt)
            else:
                call.cancel()

    def _challenge(self) -> Challenge:
        return new_challenge(self._audience, self.limits.challenge_s)

    def _settle(self, attempt: AttemptStream) -> None:
        """Ends an attempt whose outputs are kept: nobody waits for that."""
        task = asyncio.create_task(attempt.settle(), name="settle")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


class AttemptStream:
    """The events of one attempt, and the two frames that a broadcaster may send while it runs."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[bytes, bytes], first: TicketFrame, inputs: Sequence[bytes]
    ) -> None:
        self.acknowledged = False
        self._call = call
        self._first: TicketFrame | None = first
        self._inputs = inputs
        self._accepted = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._budget = MessageBudget(NodeError)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events until and with Done. Raises the attempt's failure."""
        while True:
            for event in await self.read():
                yield event
                if isinstance(event, Done):
                    return

    async def read(self) -> list[Event]:
        """The next events, which came together. Raises the attempt's failure, and NodeError after Done."""
        if self._first:
            await self._begin()
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        if not isinstance(data, bytes):
            await self._fail_at_end()
        self._budget.take(len(data))
        return [self._event(value) for value in codec.frames_from_bytes(data, NodeError)]

    async def acknowledge(self) -> None:
        """Has the node told, after this block, that it may erase the outputs."""
        self.acknowledged = True

    async def cancel(self, reason: str) -> None:
        """Stops the attempt, also one that would linger after a broken stream."""
        await self._end_with(Cancel(reason))

    async def settle(self) -> None:
        """Sends the acknowledgement and waits shortly for the end of the call."""
        await self._end_with(Acknowledge())
        self._call.cancel()

    def stop_sending(self) -> None:
        """Sends no more input."""
        if self._sender:
            self._sender.cancel()

    async def _begin(self) -> None:
        """Sends the ticket and the beginning of the input, as one message: gRPC loses the status of a call that ends
        in the middle of a write, and a node may refuse the job. The rest of the input follows its Accepted.
        """
        assert self._first
        frames: list[FrameValue] = [self._first]
        self._first, room = None, EAGER_INPUT_BYTES
        chunks = _chunks(self._inputs)
        for chunk in chunks:
            room -= len(chunk.data)
            if room < 0:
                self._sender = asyncio.create_task(self._send(chain((chunk,), chunks)), name="send-inputs")
                break
            frames.append(chunk)
        with suppress(*CALL_ENDED):
            await self._write(*frames)

    async def _send(self, chunks: Iterable[InputChunk]) -> None:
        """Sends the rest of the input when the node has accepted: it may refuse the job meanwhile."""
        await self._accepted.wait()
        with suppress(*CALL_ENDED):
            for chunk in chunks:
                await self._write(chunk)

    def _event(self, value: FrameValue) -> Event:
        match value:
            case Failed(error=failure):
                raise failure
            case TicketFrame() | InputChunk() | Cancel() | Acknowledge():
                raise NodeError("the node sent a broadcaster's frame", code="protocol")
            case Accepted():
                self._accepted.set()
        return value

    async def _fail_at_end(self) -> NoReturn:
        """The stream ended before Done: its status says why."""
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            raise NodeError("the node ended the stream before the job was done", code="cut_off")
        raise error_from(
            grpc.aio.AioRpcError(
                code,
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                await self._call.details(),
            )
        )

    async def _end_with(self, last: FrameValue) -> None:
        late = asyncio.get_running_loop().call_later(ACKNOWLEDGE_TIMEOUT_S, self._call.cancel)
        try:
            await self._write(last)
            await self._call.code()
        except CALL_ENDED:
            pass
        finally:
            late.cancel()

    async def _write(self, *values: FrameValue) -> None:
        await self._call.write(codec.frames_to_bytes(values))


def _chunks(inputs: Sequence[bytes]) -> Iterator[InputChunk]:
    for index, data in enumerate(inputs):
        for start in range(0, len(data), CHUNK_BYTES):
            yield InputChunk(index, data[start : start + CHUNK_BYTES])

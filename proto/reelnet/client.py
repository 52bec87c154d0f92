"""The client of an orchestrator: describe, watch, probe, and one attempt of a job as an asynchronous iterator.

::

    async with OrchestratorClient(Address.parse("127.0.0.1:8935#<node-id>")) as node:
        async with node.generate(signed_ticket, [picture], timeout_s=60) as attempt:
            async for event in attempt:      # Accepted, Queued, Started, Progress, Output, Chunk …, Done
                ...
            await attempt.acknowledge()

Every failure is one of `reelnet.errors`. Leaving the block before the end closes the call; a node whose ticket has
no linger then stops the job within one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import grpc

from reelnet import codec
from reelnet.codec import Acknowledge, Cancel, Failed, FrameValue, InputChunk, TicketFrame
from reelnet.errors import NodeError, TransientError
from reelnet.identity import Signed, valid_id
from reelnet.jobs import Accepted, Description, Done, Event, Load
from reelnet.rpc import CHUNK_BYTES, EAGER_INPUT_BYTES, RpcLimits, channel_options, error_from
from reelnet.ticket import open_description
from reelnet.v1 import orchestrator_pb2 as orchestrator
from reelnet.v1 import types_pb2 as pb
from reelnet.v1.orchestrator_pb2_grpc import OrchestratorServiceStub

ACKNOWLEDGE_TIMEOUT_S = 2.0


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
    """What a watched node says: its description when it changed, its load."""

    description: Description | None
    load: Load


class OrchestratorClient:
    """One node's channel. Calls fail with `reelnet.errors`; each has the timeout that its caller gives."""

    def __init__(self, address: Address, limits: RpcLimits | None = None) -> None:
        self.address = address
        self.limits = limits or RpcLimits()
        self._channel = grpc.aio.insecure_channel(address.target, options=channel_options(self.limits))
        self._stub = OrchestratorServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel and every call on it."""
        await self._channel.close()

    async def describe(self, timeout_s: float) -> Description:
        """The node's description, its signature checked."""
        try:
            answer = await self._stub.Describe(orchestrator.DescribeRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        return open_description(codec.signed_from_message(answer.description), self.address.node_id)

    async def watch(self) -> AsyncIterator[Update]:
        """The node's updates until the connection ends, which raises. Keepalive notices a dead peer."""
        call = self._stub.Watch(orchestrator.WatchRequest())
        try:
            async for answer in call:
                signed = answer.description if answer.HasField("description") else None
                description = (
                    open_description(codec.signed_from_message(signed), self.address.node_id) if signed else None
                )
                yield Update(description, codec.load_from_message(answer.load))
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        finally:
            call.cancel()
        raise TransientError("the node ended the watch")

    async def probe(self, pipeline: str, model: str, timeout_s: float) -> float:
        """The node's estimate of a new job's queue time, seconds."""
        request = orchestrator.ProbeRequest(pipeline=pipeline, model=model)
        try:
            answer = await self._stub.Probe(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        return max(0.0, answer.wait_s)

    @asynccontextmanager
    async def generate(
        self, ticket: Signed, inputs: Sequence[bytes], timeout_s: float, resume_from: tuple[int, int] = (0, 0)
    ) -> AsyncIterator[AttemptStream]:
        """One attempt. `inputs` are the bytes that the ticket names, in its order; `timeout_s` bounds the call."""
        call = self._stub.Generate(timeout=timeout_s)
        attempt = AttemptStream(call, inputs)
        first = TicketFrame(ticket, resume_from)
        sender = asyncio.create_task(attempt.send_inputs(first), name="send-inputs")
        try:
            yield attempt
        finally:
            sender.cancel()
            call.cancel()
            await asyncio.wait([sender])


class AttemptStream:
    """The events of one attempt, and the two frames that a broadcaster may send while it runs."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.Frame, pb.Frame], inputs: Sequence[bytes]) -> None:
        self._call = call
        self._inputs = inputs
        self._accepted = asyncio.Event()

    async def send_inputs(self, first: TicketFrame) -> None:
        """Sends the ticket, up to 1 MiB of input, and the rest once the node has accepted."""
        sent = 0
        try:
            await self._write(first)
            for index, data in enumerate(self._inputs):
                for start in range(0, len(data), CHUNK_BYTES):
                    chunk = data[start : start + CHUNK_BYTES]
                    if sent + len(chunk) > EAGER_INPUT_BYTES:
                        await self._accepted.wait()
                    await self._write(InputChunk(index, chunk))
                    sent += len(chunk)
        except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
            return  # the call has ended: its status tells the reader why

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events until and with Done. Raises the attempt's failure."""
        while True:
            try:
                frame = await self._call.read()
            except grpc.aio.AioRpcError as error:
                raise error_from(error) from None
            if not isinstance(frame, pb.Frame):
                await self._fail_at_end()
            match codec.frame_from_message(frame):
                case None:
                    continue
                case Failed(error=failure):
                    raise failure
                case TicketFrame() | InputChunk() | Cancel() | Acknowledge():
                    raise NodeError("the node sent a broadcaster's frame", code="protocol")
                case event:
                    if isinstance(event, Accepted):
                        self._accepted.set()
                    yield event
                    if isinstance(event, Done):
                        return

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

    async def acknowledge(self) -> None:
        """Tells the node that it may erase the outputs; waits shortly for the end of the call."""
        with suppress(TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                await self._write(Acknowledge())
                await self._call.done_writing()
                await self._call.code()

    async def cancel(self, reason: str) -> None:
        """Stops the attempt, also one that would linger after a broken stream."""
        with suppress(TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                await self._write(Cancel(reason))
                await self._call.code()

    async def _write(self, value: FrameValue) -> None:
        await self._call.write(codec.frame_to_message(value))

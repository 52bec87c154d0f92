"""The node's other gRPC calls, and what a server does with what is too large or not ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orchestrator.app import RunningNode
from reelnet.client import Address, OrchestratorClient
from reelnet.errors import RefusedError, UnsupportedError
from reelnet.identity import Signed
from reelnet.rpc import SERVICE
from reelnet.v1 import types_pb2 as pb
from reelnet.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from tests.fakes.pool import InProcessEngine, PoolPlan, node_settings, running_node, until
from tests.integration.test_cancel import SYNTHETIC


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    """One node with a ready runner."""
    engine = InProcessEngine()
    async with running_node(node_settings(PoolPlan(tmp_path, [engine], [SYNTHETIC]), 0), engine) as running:
        await until(lambda: running.node.table.slots[0].ready, "the runner is ready")
        yield running


@pytest.fixture
async def channel(node: RunningNode) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to it, as any gRPC tool has."""
    async with grpc.aio.insecure_channel(node.address.partition("#")[0]) as bare:
        yield bare


async def test_health_and_reflection_answer(channel: grpc.aio.Channel) -> None:
    """Standard tools can ask the node for its health and its services."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
    async for listed in call:
        assert SERVICE in {service.name for service in listed.list_services_response.service}
        break
    call.cancel()


async def test_probe_answers_from_memory(node: RunningNode) -> None:
    """An idle node has no queue; what it does not serve it says."""
    async with OrchestratorClient(Address.parse(node.address)) as client:
        assert await client.probe("text-to-image", "synthetic/bars", 5) == 0
        with pytest.raises(UnsupportedError):
            await client.probe("text-to-image", "another/model", 5)


async def test_watch_tells_the_load_when_it_changes(node: RunningNode) -> None:
    """The first update is whole; later ones come with changes, at most twice a second."""
    async with OrchestratorClient(Address.parse(node.address)) as client:
        watch = client.watch()
        first = await anext(watch)
        assert first.description is not None
        assert first.load.models[0].free_slots == 1
        loop = asyncio.get_running_loop()
        before = loop.time()
        for _ in range(20):
            node.node.notify()
        second = await asyncio.wait_for(anext(watch), 10)
        assert second.description is None, "what has not changed is not sent again"
        assert loop.time() - before >= 0.4
        await watch.aclose()


async def test_one_connection_does_not_take_every_place(node: RunningNode, channel: grpc.aio.Channel) -> None:
    """A stranger asks for 1,000 watches, and as many health checks that go on: jobs and watches of others go on."""
    limits = node.node.settings.rpc
    watch, generate = channel.unary_stream(f"/{SERVICE}/Watch"), channel.stream_stream(f"/{SERVICE}/Generate")
    health = health_pb2_grpc.HealthStub(channel)
    watches: list[Any] = [watch(b"") for _ in range(1000)]
    checks: list[Any] = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(200)]
    unopened: list[Any] = [generate() for _ in range(400)]
    for calls, allowed in (
        (watches, limits.connection_watches),
        (checks, limits.connection_other_calls),
        (unopened, limits.unopened_calls),
    ):
        await until(lambda c=calls, a=allowed: sum(x.done() for x in c) == len(c) - a, "all but the share are refused")
        codes = {await call.code() for call in calls if call.done()}
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}, "gRPC resets some by itself"
    async with OrchestratorClient(Address.parse(node.address)) as other:
        assert (await other.describe(5)).capabilities
        assert (await anext(other.watch())).description
        with pytest.raises(RefusedError):
            async with other.generate(Signed(b"", b"k" * 32, b""), [], 5) as attempt:
                await attempt.read()


@pytest.mark.parametrize("method", ["Describe", "Watch", "Probe", "Generate"])
@pytest.mark.parametrize("message", [b"\xff" * 4, b"\x0a\xff\xff\xff\xff\x7f", b"[" * 1000])
async def test_bytes_that_are_no_message_end_their_own_call(
    channel: grpc.aio.Channel, method: str, message: bytes
) -> None:
    """The refusal says that the bytes are no message, and the node goes on."""
    if method == "Generate":
        call: Any = channel.stream_stream(f"/{SERVICE}/{method}")()
        await call.write(message)
    else:
        make = channel.unary_stream if method == "Watch" else channel.unary_unary
        call = make(f"/{SERVICE}/{method}")(message)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the bytes are no" in await call.details()


async def test_a_frame_over_the_limit_breaks_one_call_only(channel: grpc.aio.Channel) -> None:
    """A message over 1 MiB is refused, and the node goes on."""
    stub = OrchestratorServiceStub(channel)
    call = stub.Generate()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(pb.Frame(input=pb.InputChunk(data=b"x" * 2**21)))
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    health = health_pb2_grpc.HealthStub(channel)
    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1


@pytest.mark.parametrize("first", [pb.Frame(cancel=pb.Cancel()), pb.Frame(chunk=pb.Chunk(data=b"x")), pb.Frame()])
async def test_a_call_that_does_not_begin_with_a_ticket_is_refused(channel: grpc.aio.Channel, first: pb.Frame) -> None:
    """Nothing is done for a stream whose first frame is no ticket."""
    call = OrchestratorServiceStub(channel).Generate()
    await call.write(first)
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ticket" in await call.details()


async def test_a_ticket_of_noise_is_refused(channel: grpc.aio.Channel) -> None:
    """Bytes that are no ticket end their own call and nothing else."""
    call = OrchestratorServiceStub(channel).Generate()
    noise = pb.SignedBytes(payload=b"\xff\x00noise", key=b"k" * 32, signature=b"s" * 64)
    await call.write(pb.Frame(ticket=pb.TicketFrame(ticket=noise)))
    assert await call.code() is grpc.StatusCode.PERMISSION_DENIED

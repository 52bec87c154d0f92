"""Where a node answers, who must answer there, and how much it may say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reelnet import client as module
from reelnet import codec, rpc
from reelnet.client import WATCH_REST, Address, AttemptStream, OrchestratorClient
from reelnet.codec import TicketFrame, WatchAnswer
from reelnet.errors import NodeError, TransientError
from reelnet.identity import Identity, Signed
from reelnet.jobs import Accepted
from tests.fakes.lying_node import capability
from tests.fakes.raw_node import introduction

NODE_ID = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32))).id


@pytest.mark.parametrize("target", ["127.0.0.1:8935", "node.example.org:1", "[::1]:65535", "localhost:8935"])
@pytest.mark.parametrize("node_id", [None, NODE_ID])
def test_an_address_comes_back_as_its_text(target: str, node_id: str | None) -> None:
    """host:port, with or without the node's id."""
    address = Address.parse(f"{target}#{node_id}" if node_id else target)
    assert (address.target, address.node_id) == (target, node_id)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "8935", ":8935", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "host:port",
     "host:80/path", "127.0.0.1:+80", f"#{NODE_ID}"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """The error shows the expected form."""
    with pytest.raises(ValueError, match="expected host:port or host:port#node-id"):
        Address.parse(text)


@pytest.mark.parametrize("node_id", ["x", NODE_ID.upper(), NODE_ID[:-1], NODE_ID + "a", f"{NODE_ID}#{NODE_ID}"])
def test_an_id_that_is_none_is_refused(node_id: str) -> None:
    """A misspelt id would be a node that never answers."""
    with pytest.raises(ValueError, match="is no node id"):
        Address.parse(f"127.0.0.1:8935#{node_id}")


def test_an_empty_id_is_refused() -> None:
    """`host:port#$NODE` with the variable unset must not quietly trust whoever answers."""
    with pytest.raises(ValueError, match="node id"):
        Address.parse("127.0.0.1:8935#")


class Call:
    """A call that brings these messages."""

    def __init__(self, *messages: bytes) -> None:
        self._left = list(messages)

    async def read(self) -> bytes:
        return self._left.pop(0)

    async def write(self, _: bytes) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._left:
            yield self._left.pop(0)

    def cancel(self) -> None:
        self._left.clear()


@pytest.fixture
async def client() -> AsyncIterator[OrchestratorClient]:
    """A client whose calls a test makes."""
    async with OrchestratorClient(Address("127.0.0.1:1"), audience="me") as made:
        yield made


async def test_updates_do_not_come_more_often_than_they_can_be_read(
    client: OrchestratorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each one the watch rests for many times what its reading took."""
    own, now, rests = Identity.generate(), [0.0], []
    took = iter([0.01, 0.5, 0.0])

    def clock() -> float:
        return now[0]

    def read(data: bytes) -> WatchAnswer:
        now[0] += next(took)
        return codec.watch_answer_from_bytes(data)

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(thread_time=clock))
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=rest))
    monkeypatch.setattr(module, "codec", SimpleNamespace(**vars(codec) | {"watch_answer_from_bytes": read}))
    client._watch = lambda request: Call(*[introduction(own, capability(), request)] * 3)
    watch = client.watch()
    for _ in range(3):
        assert (await anext(watch)).description
    with pytest.raises(TransientError, match="ended the watch"):
        await anext(watch)
    assert rests == [pytest.approx(WATCH_REST * seconds) for seconds in (0.01, 0.5, 0.0)]


async def test_the_messages_of_an_attempt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that sends many small ones fails the job, before its flood holds the event loop."""
    monkeypatch.setattr(rpc, "FREE_MESSAGES", 3)
    monkeypatch.setattr(rpc, "MESSAGES_A_S", 0)
    message = codec.frames_to_bytes([Accepted(0, 0, 0)])
    call: Any = Call(*[message] * 5)
    stream = AttemptStream(call, TicketFrame(Signed(b"", b"", b"")), ())
    for _ in range(3):
        assert await stream.read() == [Accepted(0, 0, 0)]
    with pytest.raises(NodeError) as flood:
        await stream.read()
    assert flood.value.code == "flood"

"""Where a node answers, and who must answer there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import reelnet.client
from reelnet.client import WATCH_REST, Address, OrchestratorClient
from reelnet.errors import TransientError
from reelnet.identity import Identity
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


class Flood:
    """A watch's call that has its updates ready at once."""

    def __init__(self, request: bytes) -> None:
        self._update = introduction(Identity(Ed25519PrivateKey.from_private_bytes(bytes(32))), capability(), request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield self._update

    def cancel(self) -> None:
        """Nothing is left to end."""


async def test_a_flood_of_updates_leaves_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update, no other is read for WATCH_REST times what its reading took, which is most of the time."""
    rests, clock = list[float](), count()

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(reelnet.client, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(reelnet.client, "asyncio", SimpleNamespace(sleep=rest))
    async with OrchestratorClient(Address.parse(f"127.0.0.1:1#{NODE_ID}")) as client:
        monkeypatch.setattr(client, "_watch", Flood)
        with pytest.raises(TransientError):
            async for _ in client.watch():
                pass
    assert rests == [WATCH_REST] * 3
    assert WATCH_REST >= 20

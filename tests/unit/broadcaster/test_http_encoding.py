"""Bodies that come packed."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest

from broadcaster.http_encoding import PIECE_BYTES, Unpacked
from broadcaster.http_guard import BodyLimit
from reelnet.errors import UserError
from reelnet.http_routes import BodyBounds
from tests.unit.broadcaster.test_http_guard import Fed, Reached, ask, reads_and_waits

BODY = b'{"prompt": "boat"}'
PACKED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", " gzip ", "identity, gzip", "gzip,"])
@pytest.mark.parametrize(
    "pieces",
    [[PACKED], [PACKED[i : i + 1] for i in range(len(PACKED))], [PACKED, b""]],
    ids=["whole", "bytes", "late-end"],
)
async def test_gzip_is_unpacked(coding: str, pieces: list[bytes]) -> None:
    """However it is cut, and its length and its coding are none of the body's behind it."""
    app = Reached()
    headers = {"content_encoding": coding, "content_length": "38", "content_type": "application/json"}
    assert (await ask(Unpacked(app), "/x", *pieces, **headers))[0] == 200
    assert app.bodies == [BODY]
    assert [name for name, _ in app.scopes[0]["headers"]] == [b"content-type"]


@pytest.mark.parametrize("coding", ["", "identity", "Identity", ","])
async def test_what_is_not_packed_passes(coding: str) -> None:
    """As it is."""
    app = Reached()
    assert (await ask(Unpacked(app), "/x", BODY, content_encoding=coding))[0] == 200
    assert app.bodies == [BODY]


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip, br", "aws-chunked"])
async def test_another_coding_is_refused(coding: str) -> None:
    """415 before a byte is read, with what to do instead."""
    app = Reached()
    status, body = await ask(Unpacked(app), "/x", BODY, content_encoding=coding)
    assert (status, body["error"]["code"], app.scopes) == (415, "content_encoding", [])
    assert "gzip" in body["detail"]["msg"]


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        pytest.param(BODY, "damaged, or none", id="plain"),
        pytest.param(zlib.compress(BODY), "damaged, or none", id="zlib"),
        pytest.param(PACKED[:-8] + bytes(4) + PACKED[-4:], "damaged, or none", id="checksum"),
        pytest.param(PACKED[:-4], "ends too early", id="cut"),
        pytest.param(PACKED[:5], "ends too early", id="cut-head"),
        pytest.param(PACKED + b"x", "more behind its end", id="trailing"),
        pytest.param(PACKED + PACKED, "more behind its end", id="two-members"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_damaged_body_is_refused(packed: bytes, words: str, whole: bool) -> None:
    """400, wherever it is cut; what was unpacked of it makes no request."""
    pieces = [packed] if whole else [packed[i : i + 1] for i in range(len(packed))]
    app = Reached()
    with pytest.raises(UserError, match=words) as caught:
        await ask(Unpacked(app), "/x", *pieces, content_encoding="gzip")
    assert (caught.value.http_status, app.bodies) == (400, [])


async def test_no_body_is_no_damage() -> None:
    """As of a client that names the coding in every request."""
    app = Reached()
    assert (await ask(Unpacked(app), "/x", b"", method="GET", content_encoding="gzip"))[0] == 200
    assert app.bodies == [b""]


async def test_a_bomb_is_stopped_at_the_bodys_bound() -> None:
    """413 with the first unpacked byte over it: 64 MiB of blanks are 64 KiB packed."""
    app = Reached()
    guard = BodyLimit(app, BodyBounds(2**20, whole_s=60, stall_s=60), total_bytes=2**30)
    with pytest.raises(UserError) as caught:
        await ask(Unpacked(guard), "/x", gzip.compress(bytes(64 * 2**20)), content_encoding="gzip")
    assert (caught.value.http_status, guard.held_bytes) == (413, 0)


async def test_a_large_body_comes_in_pieces() -> None:
    """None of them larger than the bound, and the whole is the same."""
    body = os.urandom(2**17) * 9
    sizes: list[int] = []

    async def measures(scope: object, receive: object, send: object) -> None:
        more, whole = True, b""
        while more:
            message = await receive()  # type: ignore[operator]
            sizes.append(len(message["body"]))
            whole, more = whole + message["body"], message["more_body"]
        assert whole == body

    client = Fed(Unpacked(measures), content_encoding="gzip")
    await client.feed(gzip.compress(body), b"")
    await client.task
    assert max(sizes) <= PIECE_BYTES


async def test_a_client_that_leaves_is_heard() -> None:
    """In the middle of its body, and behind it, while its job runs."""
    for fed in ([PACKED[:10], None], [PACKED, b"", None]):
        client = Fed(Unpacked(reads_and_waits), content_encoding="gzip")
        await client.feed(*fed)
        await client.task

"""A kept result over HTTP, from memory and from its file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

from broadcaster.http_api import _on_failure, _on_fault
from broadcaster.media import MediaSettings, MediaStore
from broadcaster.media_http import media_route
from reelnet.http_routes import Direct

DATA = bytes(range(200))


async def nowhere(*_: object) -> None:
    raise AssertionError("this is a result's path")


@pytest.fixture(params=["memory", "file"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Reads one clip, whose name is the base's end."""
    memory_bytes = 2**20 if request.param == "memory" else 0
    store = MediaStore(tmp_path, MediaSettings(memory_bytes=memory_bytes))
    await store.start()
    async with store.receive("job", 0, "video/mp4") as incoming:
        await incoming.write(DATA)
        kept = await incoming.commit()
    assert isinstance(store.read(kept.name)[0], bytes) is (request.param == "memory")
    route = media_route(store)
    routes = {(method, "/media/{name}"): route for method in ("GET", "HEAD")}
    app: ASGIApp = Direct(nowhere, routes, on_error=_on_failure, on_fault=_on_fault)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://x/media/{kept.name}") as made:
        yield made


def name(client: httpx.AsyncClient) -> str:
    """The result's name."""
    return str(client.base_url).rstrip("/").rpartition("/")[2]


async def read(client: httpx.AsyncClient, method: str = "GET", **headers: str) -> httpx.Response:
    """The answer to one request."""
    url = str(client.base_url).rstrip("/")
    return await client.request(method, url, headers={key.replace("_", "-"): value for key, value in headers.items()})


async def test_a_clip_may_be_shown_and_saved(client: httpx.AsyncClient) -> None:
    """A browser plays it where it is opened, and knows its name; it neither guesses its type nor runs anything."""
    answer = await read(client)
    assert (answer.status_code, answer.content) == (200, DATA)
    policy = answer.headers["content-security-policy"]
    assert "sandbox" not in policy
    assert {"default-src 'none'", "media-src 'self'", "img-src 'self'"} <= set(policy.split("; "))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == f'inline; filename="reelnet-{name(client)}"'
    assert answer.headers["accept-ranges"] == "bytes"


async def test_head_is_get_without_the_bytes(client: httpx.AsyncClient) -> None:
    """Length, type and tag, also where a part is asked for, which HEAD does not know."""
    whole = await read(client)
    for headers in ({}, {"range": "bytes=0-4"}):
        head = await read(client, "HEAD", **headers)
        assert head.status_code == 200
        for field in ("content-length", "content-type", "etag", "content-disposition"):
            assert head.headers[field] == whole.headers[field], field


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_there_already_is_not_sent_again(client: httpx.AsyncClient, known: str, method: str) -> None:
    """304 with the tag and how long it holds; a part that is asked for beside it does not matter."""
    etag = (await read(client)).headers["etag"]
    answer = await read(client, method, if_none_match=known.format(etag), range="bytes=0-1")
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert "immutable" in answer.headers["cache-control"]
    assert "content-length" not in answer.headers
    assert (await read(client, if_none_match='"other"')).status_code == 200


@pytest.mark.parametrize(
    ("asked", "begin", "end"), [("bytes=0-", 0, 200), ("bytes=5-9", 5, 10), ("bytes=-3", 197, 200), ("BYTES=1-1", 1, 2)]
)
async def test_a_part_is_a_part(client: httpx.AsyncClient, asked: str, begin: int, end: int) -> None:
    """206 and where it stands."""
    answer = await read(client, range=asked)
    assert (answer.status_code, answer.content) == (206, DATA[begin:end])
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/200"
    assert answer.headers["content-length"] == str(end - begin)


@pytest.mark.parametrize("asked", ["x", "bytes", "bytes=", "bytes=a-", "bytes=9-2", "items=0-1", "bytes=0-1,5-6", ""])
async def test_what_is_no_range_is_ignored(client: httpx.AsyncClient, asked: str) -> None:
    """The whole file, as RFC 9110 has it."""
    answer = await read(client, range=asked)
    assert (answer.status_code, answer.content) == (200, DATA)


async def test_a_range_behind_the_end_is_refused(client: httpx.AsyncClient) -> None:
    """416 with the length, in the shape of all failures."""
    answer = await read(client, range="bytes=200-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */200")
    assert answer.json()["error"]["code"] == "range"


async def test_a_part_of_another_file_is_the_whole_of_this_one(client: httpx.AsyncClient) -> None:
    """If-Range: a download goes on only where the file is still the same."""
    etag = (await read(client)).headers["etag"]
    assert (await read(client, range="bytes=0-1", if_range=etag)).status_code == 206
    for other in ('"other"', "Wed, 21 Oct 2015 07:28:00 GMT", f"W/{etag}"):
        answer = await read(client, range="bytes=0-1", if_range=other)
        assert (answer.status_code, answer.content) == (200, DATA)

"""What a broadcaster answers to the benchmark: whatever it is, it is a failure with a class."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from benchmark.client import Answer, BroadcasterClient, JobSpec
from reelnet.errors import ReelnetError

ANSWERS = [
    b"", b"[]", b"[" * 100_000, b'{"offers": 1}', b'{"offers": [{"pipeline": 1, "model": 2, "nodes": 1e999}]}',
    b'{"nodes": [{"up": 1, "node": 3, "address": [], "serves": 4}]}', b'{"job": {}, "images": null}', b"\xff\xfe",
    b'{"nodes": "up", "offers": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("body", ANSWERS, ids=lambda body: body[:20])
async def test_an_answer_that_is_none_is_a_failure(body: bytes, status: int) -> None:
    """A stranger's bytes end a question of the benchmark's, never the benchmark."""
    async with BroadcasterClient("http://127.0.0.1:9") as client:
        await client._http.aclose()
        transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
        client._http = httpx.AsyncClient(base_url="http://b", transport=transport)
        job = JobSpec("text-to-image", {"prompt": "a"})
        for ask in (client.offers, client.schemas, client.served, client.nodes, lambda: client.run(job)):
            try:
                await ask()
            except ReelnetError:
                continue
            assert status == 200


def test_a_number_that_is_none_is_no_answer() -> None:
    """An attempt count without end is another form."""
    with pytest.raises(ReelnetError):
        Answer.parse({"job": {"attempts": float("inf")}, "images": []})


async def test_a_key_goes_to_the_broadcaster_alone(tmp_path: Path) -> None:
    """With questions and jobs; a link in an answer may lead anywhere, so a download has none."""
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.headers.get("authorization")
        return httpx.Response(200, content=b"{}")

    async with BroadcasterClient("http://127.0.0.1:9", SecretStr("k")) as client:
        await client._http.aclose()
        client._http = httpx.AsyncClient(base_url="http://b", transport=httpx.MockTransport(answer))
        for ask in (client.offers, lambda: client.run(JobSpec("upscale", {}))):
            with pytest.raises(ReelnetError):
                await ask()
        with pytest.raises(ReelnetError):
            await anext(client.events(JobSpec("upscale-video", {})))
        await client.download("http://elsewhere/file", tmp_path / "out")
    assert seen == {"/models": "Bearer k", "/upscale": "Bearer k", "/upscale-video": "Bearer k", "/file": None}

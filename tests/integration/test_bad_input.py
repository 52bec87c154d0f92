"""Bad input: each with a clear message, the right status, and nothing broken afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broadcaster.journal import JobRow
from reelnet.jobs import TERMINAL
from tests.fakes.pool import PATIENCE_S, InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import picture
from tests.integration.test_cancel import SYNTHETIC

pytestmark = pytest.mark.asyncio(loop_scope="module")
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
CLIP = {"width": 64, "height": 64, "num_inference_steps": 1, "num_frames": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """One synthetic node, which all of these tests share."""
    home = tmp_path_factory.mktemp("home")
    the_plan = PoolPlan(home, [InProcessEngine()], [SYNTHETIC], broadcaster={"limits": {"body_bytes": 2**20}})
    async with running_pool(the_plan) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def pool(running: Pool) -> AsyncIterator[Pool]:
    """After each test it still works, and nobody is blamed."""
    yield running
    assert (await running.job("text-to-image", SMALL)).status_code == 200
    assert running.broadcaster.scores.reputation(running.nodes[0].node.id) == 1


BAD_PARAMS: list[Any] = [
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": "   "}, "prompt", "empty"),
    ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1"),
    ({"num_inference_steps": 10_000}, "num_inference_steps", "less than or equal to"),
    ({"width": 513}, "width", "multiple of 8"),
    ({"width": 100_000}, "width", "less than or equal to"),
    ({"width": 4096, "height": 4096}, "", "pixels"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"guidance_scale": "NaN"}, "guidance_scale", "finite"),
    ({"num_images_per_prompt": 11}, "num_images_per_prompt", "less than or equal to 10"),
    ({"model_id": "synthetic/barz"}, "model_id", "did you mean 'synthetic/bars'"),
    ({"model_id": 7}, "model_id", "expected text"),
    ({"promt": "boat"}, "promt", "did you mean 'prompt'"),
    ({"loras": "not json"}, "loras", "JSON object"),
]


@pytest.mark.parametrize(("change", "field", "words"), BAD_PARAMS)
async def test_a_bad_parameter_is_named(pool: Pool, change: dict[str, Any], field: str, words: str) -> None:
    """422 with the field and what is wrong with it, in the shape that the published clients parse."""
    answer = await pool.job("text-to-image", {**SMALL, **change})
    assert answer.status_code == 422
    rows = answer.json()["detail"]
    assert any(words in row["msg"] and row["loc"][-1] in (field, "body") for row in rows), rows
    assert all(row.keys() == {"loc", "msg", "type"} for row in rows)
    assert answer.json()["error"]["class"] == "user"


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD_PICTURES: list[Any] = [
    pytest.param(picture()[:-200], 400, "damaged or cut off", id="truncated"),
    pytest.param(b"this is no picture at all\n" * 50, 400, "no picture: expected PNG, JPEG, WebP", id="text"),
    pytest.param(
        b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "this is an SVG: expected PNG, JPEG, WebP", id="svg"
    ),
    pytest.param(bomb(20_000, 10_000), 413, "megapixels", id="200-megapixels"),
    pytest.param(bomb(300, 300), 400, "damaged or cut off", id="lying-header"),
    pytest.param(b"", 422, "missing", id="empty"),
]


@pytest.mark.parametrize(("data", "status", "words"), BAD_PICTURES)
async def test_a_bad_picture_is_refused(pool: Pool, data: bytes, status: int, words: str) -> None:
    """What is no whole picture of a sane size never reaches a node."""
    answer = await pool.job("image-to-video", CLIP, data)
    assert answer.status_code == status, answer.text
    assert words in answer.text


async def test_a_body_over_the_limit_is_refused(pool: Pool) -> None:
    """413, whether the length is declared or not."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    declared = await pool.http.post("/text-to-image", content=b" " * 2**21)
    assert declared.status_code == 413
    streamed = await pool.http.post("/text-to-image", content=endless())
    assert streamed.status_code == 413
    assert "larger than" in streamed.json()["detail"]["msg"]


UNREADABLE: list[Any] = [
    (b"{not json", "application/json", 400, "no valid JSON"),
    (b"[1, 2]", "application/json", 400, "JSON object"),
    (b'{"prompt": "boat"}', "text/plain", 415, "application/json"),
    (b'{"prompt": "boat"}', "application/x-www-form-urlencoded", 415, "-H 'content-type: application/json'"),
    (b"nonsense", "multipart/form-data; boundary=x", 400, "form"),
    (b"nonsense", "multipart/form-data", 400, "form"),
]


@pytest.mark.parametrize(("body", "media_type", "status", "words"), UNREADABLE)
async def test_an_unreadable_body_is_refused(pool: Pool, body: bytes, media_type: str, status: int, words: str) -> None:
    """400 or 415, and what to send instead."""
    answer = await pool.http.post("/text-to-image", content=body, headers={"content-type": media_type})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]["msg"]


async def test_a_picture_for_a_pipeline_without_one_is_refused(pool: Pool) -> None:
    """A file that nobody will look at is a mistake, and said so."""
    answer = await pool.job("text-to-image", SMALL, picture())
    assert answer.status_code == 422
    assert "takes no such file" in answer.text


async def test_an_unknown_path_names_the_nearest(pool: Pool) -> None:
    """404 in our shape, with the route that was meant."""
    answer = await pool.http.post("/text-to-imag", json=SMALL)
    assert answer.status_code == 404
    assert "did you mean 'text-to-image'" in answer.json()["detail"]["msg"]


@pytest.mark.parametrize("name", ["..%2fidentity.key", "nothing.png", "x", "%00.png"])
async def test_media_opens_nothing_else(pool: Pool, name: str) -> None:
    """Only a result's own name opens a file."""
    assert (await pool.http.get(f"/media/{name}")).status_code == 404


async def test_media_is_served_inert(pool: Pool) -> None:
    """A browser neither sniffs nor runs what a node has made."""
    answer = await pool.job("text-to-image", SMALL)
    media = await pool.http.get(answer.json()["images"][0]["url"])
    assert media.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in media.headers["content-security-policy"]
    assert media.headers["content-type"] == "image/png"


async def test_a_pipeline_that_nobody_serves_is_said(tmp_path: Path) -> None:
    """503 with Retry-After while no node of the pool serves the pipeline."""
    only_pictures = {**SYNTHETIC, "pipelines": {"text-to-image": {}}}
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], [only_pictures])) as pool:
        answer = await pool.job("image-to-video", CLIP, picture())
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "no node of this pool serves image-to-video" in answer.json()["detail"]["msg"]


async def test_a_key_is_asked_for_where_keys_are_set(tmp_path: Path) -> None:
    """401 without a key; results open without one, for their names are unguessable."""
    (tmp_path / "keys").write_text("first-key\nsecond-key name=shop\n")
    the_plan = PoolPlan(tmp_path, [InProcessEngine()], [SYNTHETIC])
    the_plan.broadcaster = {"keys_file": str(tmp_path / "keys")}
    async with running_pool(the_plan) as pool:
        refused = await pool.job("text-to-image", SMALL)
        assert refused.status_code == 401
        assert "Authorization: Bearer" in refused.json()["detail"]["msg"]
        known = {"authorization": "Bearer second-key"}
        answer = await pool.http.post("/text-to-image", json=SMALL, headers=known)
        assert answer.status_code == 200
        assert (await pool.http.get(answer.json()["images"][0]["url"])).status_code == 200
        row = await ended(pool, answer.json()["job"]["id"])
        assert row.key_id == hashlib.sha256(b"second-key").hexdigest()[:12]
        assert row.run_ms is not None
        metrics = (await pool.http.get(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/metrics")).text
        assert 'reelnet_key_jobs_total{key="shop",outcome="ok"} 1.0' in metrics


async def ended(pool: Pool, job_id: str) -> JobRow:
    """The job's row, once its end is committed."""
    async with asyncio.timeout(PATIENCE_S):
        while (row := await pool.broadcaster.journal.job(job_id)) is None or row.state not in TERMINAL:
            await asyncio.sleep(0.005)
    return row


async def test_a_base_url_with_a_path_works(tmp_path: Path) -> None:
    """Behind a proxy that keeps its prefix, jobs run and links carry it."""
    the_plan = PoolPlan(tmp_path, [InProcessEngine()], [SYNTHETIC])
    the_plan.broadcaster = {"public_url": "https://media.example/reel/v1"}
    async with running_pool(the_plan) as pool:
        for path in ("/text-to-image", "/reel/v1/text-to-image"):
            answer = await pool.http.post(path, json=SMALL)
            assert answer.status_code == 200
            url = answer.json()["images"][0]["url"]
            assert url.startswith("https://media.example/reel/v1/media/")
            assert (await pool.http.get(url.removeprefix("https://media.example"))).status_code == 200


HOSTILE: list[Any] = [
    pytest.param({**SMALL, **dict.fromkeys(map(str, range(20_000)), 1)}, 422, "at most 64", id="names"),
    pytest.param({**SMALL, **{f"{i}{'x' * 2000}": 1 for i in range(50)}}, 422, "more errors", id="long-names"),
    pytest.param({**SMALL, "model_id": "x" * 200_000}, 422, "at most 256 characters", id="model"),
    pytest.param({**SMALL, "model_id": ["x"]}, 422, "expected text", id="list"),
    pytest.param({**SMALL, "model_id": "x\u202ey"}, 422, "printable", id="unprintable"),
    pytest.param(b'{"model_id": "\\ud800"}', 422, "printable", id="surrogate-model"),
    pytest.param(b'{"prompt": "\\ud800", "\\udfff": 1}', 422, "unicode", id="surrogates"),
    pytest.param({**SMALL, "loras": dict.fromkeys(map(str, range(20_000)), 1)}, 422, "at most 8", id="loras"),
    pytest.param({**SMALL, "guidance_scale": 10**399, "seed": 10**399}, 422, "less than", id="integers"),
    pytest.param(b'{"prompt": "x", "guidance_scale": 1e999}', 422, "finite", id="overflow"),
    pytest.param(b'{"prompt": "x", "num_frames": ' + b"[" * 400 + b"]" * 400 + b"}", 422, "num_frames", id="deep"),
    pytest.param(b'{"prompt": "x", "guidance_scale": NaN}', 400, "NaN", id="nan"),
    pytest.param(b'{"prompt": "x", "prompt": "y"}', 400, "stands twice", id="twice"),
    pytest.param(b"[" * 200_000, 400, "nested too deeply", id="deeper"),
    pytest.param(b"[" + b"[]," * 80_000 + b"[]]", 400, "JSON object", id="lists"),
    pytest.param(b'{"model_id": "' + b"x" * 900_000 + b'"}', 413, "the JSON is larger", id="json-bytes"),
]


@pytest.mark.parametrize(("body", "status", "words"), HOSTILE)
async def test_what_a_stranger_sends_costs_little(
    pool: Pool, body: bytes | dict[str, Any], status: int, words: str
) -> None:
    """A clear answer of at most some 16 KiB, whatever comes; the fixture asserts that a good job works after it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await pool.http.post("/text-to-image", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text[:500]
    assert words in answer.text
    assert len(answer.content) <= 16 * 1024


async def test_a_path_or_a_head_that_is_too_long_is_refused(pool: Pool) -> None:
    """404 shows a piece of the path; 431 comes before anything is read of a request."""
    answer = await pool.http.get("/" + "x" * 50_000)
    assert (answer.status_code, len(answer.content) < 1024) == (404, True)
    answer = await pool.http.get("/healthz", headers={f"x-{i}": "y" for i in range(200)})
    assert answer.status_code == 431


async def test_a_form_in_a_charset_of_its_own_is_refused(pool: Pool) -> None:
    """415 before a byte of it is decoded."""
    body = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n' + b"a-zz9" * 40_000 + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b; charset=punycode"}
    assert (await pool.http.post("/text-to-image", content=body, headers=headers)).status_code == 415


async def test_unfinished_bodies_are_bounded_together_and_in_time(tmp_path: Path) -> None:
    """One that does not fit gets 503 at once, one that stops gets 408; then there is room again."""
    limits = {"bodies_bytes": 2**20, "body_stall_s": 1.0}
    the_plan = PoolPlan(tmp_path, [InProcessEngine()], [SYNTHETIC], broadcaster={"limits": limits})
    async with running_pool(the_plan) as pool:
        declared = await pool.http.post("/image-to-video", content=b"x" * 2**21)
        assert declared.status_code == 503
        assert int(declared.headers["retry-after"]) >= 1
        reader, writer = await asyncio.open_connection(pool.http.base_url.host, pool.http.base_url.port)
        writer.write(b"POST /text-to-image HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n")
        writer.close()
        assert b" 408 " in head
        assert (await pool.job("text-to-image", SMALL)).status_code == 200

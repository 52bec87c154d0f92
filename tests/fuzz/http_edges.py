"""The edges over HTTP: an app's requests to a broadcaster, a node's to a runner, and what stands before both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from runner.app import build, make_backend
from tests.fakes import runner as runners
from tests.fakes.lying_node import png
from tests.fakes.pool import InProcessEngine, PoolPlan, running_pool
from tests.fuzz import mutation
from tests.fuzz.engine import Case, require

ASK: dict[str, Any] = {
    "prompt": "boat", "negative_prompt": "", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1,
    "guidance_scale": 1.0, "num_images_per_prompt": 1, "model_id": "synthetic/bars", "loras": {},
}  # fmt: skip
SIZE = ("width", "height", "num_inference_steps", "seed")
ANSWER_BYTES = 20 * 1024
"""No refusal is longer; a good answer is shorter too."""
HEAD_BYTES = 2**20
"""So much of a head is never taken without a refusal."""
REFUSED_S = 5.0
"""Half of the time after which a connection without a whole head is closed, however small that is."""
BODIES_BYTES = 4 * 2**20
JSON_BYTES = 2**17
LIMITS = {
    "bodies_bytes": BODIES_BYTES, "body_stall_s": 1.0, "body_s": 3.0, "body_bytes": 2**20, "json_bytes": JSON_BYTES,
}  # fmt: skip


@asynccontextmanager
async def requests(folder: Path) -> AsyncIterator[Case]:
    """JSON and forms of an app, nearly good, to a pool that goes on to serve good ones."""
    async with running_pool(PoolPlan(folder, [InProcessEngine()], broadcaster={"limits": LIMITS})) as pool:
        count = 0

        async def case(rng: random.Random) -> None:
            nonlocal count
            count += 1
            if count % 40 == 1:
                answer = await pool.http.post("/text-to-image", json={"prompt": "b", "width": 64, "height": 64})
                require(answer.status_code == 200, f"a good job fails: {answer.text[:300]}")
            way = rng.random()
            if way < 0.05:
                await _cut_off(pool.http, rng)
            elif way < 0.55:
                await _post(pool.http, rng, {"content-type": "application/json"}, mutation.document(rng, ASK))
            elif way < 0.85:
                boundary, body = _form(rng)
                await _post(pool.http, rng, {"content-type": f"multipart/form-data; boundary={boundary}"}, body)
            else:
                await _raw(pool.broadcaster.url, rng)

        yield case


async def _post(http: httpx.AsyncClient, rng: random.Random, headers: dict[str, str], body: bytes) -> None:
    path = rng.choice(("/text-to-image", "/text-to-image", "/image-to-image", "/upscale"))
    try:
        answer = await http.post(path, headers=headers, content=body)
    except httpx.TransportError:
        return  # it closed the connection in the middle of a body that it had refused
    require(answer.status_code < 500 or answer.status_code == 503, f"HTTP {answer.status_code}: {answer.text[:300]}")
    require(len(answer.content) <= ANSWER_BYTES, f"an answer of {len(answer.content)} bytes")
    if len(body) > JSON_BYTES and headers["content-type"] == "application/json":
        require(answer.status_code == 413, f"{len(body)} bytes of JSON: HTTP {answer.status_code}")


async def _cut_off(http: httpx.AsyncClient, rng: random.Random) -> None:
    """A good form without some of its end is no job, whatever of it came."""
    parts = [f'--b\r\ncontent-disposition: form-data; name="{k}"\r\n\r\n{ASK[k]}\r\n' for k in ("prompt", *SIZE)]
    body = "".join([*parts, "--b--"]).encode()
    cut = body[: rng.choice((rng.randrange(len(body)), len(body) - 2 - rng.randrange(20)))]
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await http.post("/text-to-image", headers=headers, content=cut)
    require(400 <= answer.status_code < 500, f"HTTP {answer.status_code} for {cut[-40:]!r}")


def _form(rng: random.Random) -> tuple[str, bytes]:
    """A multipart body with an odd field, file or frame."""
    ask = json.loads(json.dumps({k: v for k, v in ASK.items() if k != "loras"}))
    name = rng.choice(sorted(ask))
    odd = rng.choice((*mutation.TEXTS, *mutation.LONG, "nan", "1e999", "[" * 5000, '{"a":1}'))
    fields = [(key, str(value)) for key, value in ask.items()]
    fields.append((rng.choice((name, odd[:1000] or "x", "image")), odd))
    fields += [("x", "1")] * rng.choice((0, 0, 1, 200))
    rng.shuffle(fields)
    parts = [f'--b\r\ncontent-disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields]
    picture = png() if rng.random() < 0.5 else mutation.damaged(rng, png())
    file_name = rng.choice(("a.png", "x" * 10_000, "../../a", "\0"))
    parts.append(
        f'--b\r\ncontent-disposition: form-data; name="image"; filename="{file_name}"\r\n'
        f"content-type: {rng.choice(('image/png', 'text/html', 'x' * 500))}\r\n\r\n".encode()
        + picture
        + b"\r\n"
    )
    body = b"".join(parts) + (b"--b--\r\n" if rng.random() < 0.9 else b"")
    return rng.choice(("b", "b", "b", "", "x" * 100)), mutation.damaged(rng, body) if rng.random() < 0.2 else body


async def _raw(url: str, rng: random.Random) -> None:
    """A connection whose head never ends, or with a body that does not."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    sent = 0
    with contextlib.suppress(OSError):
        match rng.randrange(3):
            case 0:
                writer.write(b"POST /text-to-image HTTP/1.1\r\n")
                while sent < HEAD_BYTES and not reader.at_eof() and not writer.is_closing():
                    writer.write(b"x" * rng.choice((1, 100)) + b": " + b"y" * rng.choice((1, 8000)) + b"\r\n")
                    sent += 8000
                    await writer.drain()
                    await asyncio.sleep(0)
                require(await _refused(reader, writer), "a head of 1 MiB was taken")
            case 1:
                await _unfinished_bodies(url, rng)
            case _:
                head = b"POST /text-to-image HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                body = mutation.document(rng, ASK)
                writer.write(mutation.damaged(rng, head + b"content-length: %d\r\n\r\n" % len(body) + body))
                await writer.drain()
    writer.close()


async def _refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the other side has answered 431, or closed."""
    try:
        async with asyncio.timeout(REFUSED_S):
            return b" 431 " in await reader.read(64) or reader.at_eof()
    except TimeoutError:
        return False  # which is an OSError too
    except OSError:
        return True


async def _unfinished_bodies(url: str, rng: random.Random) -> None:
    """More bytes than all bodies together may have are not taken."""
    parts, lines = urlsplit(url), []
    head = b"POST /text-to-image HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    for _ in range(8):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head + b"content-length: %d\r\n\r\n" % (2**20 - 1000))
        writer.write(b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"x" * 900_000)
        lines.append((reader, writer))
    answers = [await _status(reader) for reader, _ in lines]
    for _, writer in lines:
        writer.close()
    require(b"503" in answers, f"{len(lines) * 900_000} bytes of bodies without an end were taken: {answers}")


async def _status(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(10):
            return (await reader.read(64)).split(b" ")[1]
    except (TimeoutError, OSError, IndexError):
        return b""


@asynccontextmanager
async def orders(folder: Path) -> AsyncIterator[Case]:
    """A node's orders to a runner, nearly good."""
    async with AsyncExitStack() as stack:
        settings = runners.settings(max_json_bytes=JSON_BYTES)
        client = await stack.enter_async_context(runners.serving(build(settings, make_backend(settings)), folder))
        while client.app.state.worker.info is None:
            await asyncio.sleep(0.01)
        good = {"job_id": "j", "attempt": 1, "pipeline": "text-to-image", "deadline_s": 5.0,
                "params": {k: v for k, v in ASK.items() if k not in ("model_id", "loras")}}  # fmt: skip

        async def case(rng: random.Random) -> None:
            body = mutation.document(rng, good)
            answer = await client.http.post("/jobs", headers={"content-type": "application/json"}, content=body)
            require(answer.status_code < 500, f"HTTP {answer.status_code}: {answer.text[:300]}")
            if len(body) > JSON_BYTES:
                require(answer.status_code == 413, f"{len(body)} bytes of JSON: HTTP {answer.status_code}")
            if answer.status_code != 200:
                require(len(answer.content) <= ANSWER_BYTES, f"an answer of {len(answer.content)} bytes")

        yield case

"""A hostile app: requests too large, too slow or never finished, media that cost their reader, jobs that are left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
import numpy as np

from tests.fakes.lying_node import png
from tests.fakes.media import with_parts
from tests.hostile.acts import Act, Harm, doing

KEYS = 20_000
MODEL_ID_BYTES = 16 * 2**20
PIECE = b"x" * 65_536
HEADERS = 5000
UNFINISHED, UNFINISHED_S = 20, 0.5
"""Connections whose body never ends, at once, and the seconds that they are held."""
PNG_CHUNKS = 70_000
"""More than a picture may have, which is found when so many were read. Media that are good would make a job."""
DAMAGE = b"\xff" * 20
CLIP_FRAMES, CLIP_SIZE = 240, (640, 360)
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1, "model_id": "synthetic/bars"}
JSON = b"content-type: application/json\r\n"
FORM = b"content-type: multipart/form-data; boundary=b\r\n"


@dataclass(frozen=True)
class HostileApp:
    """Whoever can reach a broadcaster's port."""

    host: str
    port: int
    keys: bytes
    picture: bytes
    clip: bytes

    def acts(self) -> dict[str, Act]:
        """All that it does."""
        job = json.dumps(SMALL).encode()
        return {
            "20,000 keys": Act(lambda: self._ask([_post(b"/text-to-image", JSON, self.keys)]), 0.2),
            "16 MB of model_id": Act(lambda: self._ask(_long_model_id()), 0.3),
            "endless headers": Act(lambda: self._ask(_endless_headers()), 0.1),
            "unfinished bodies": Act(self.unfinished, 0.1),
            "picture of many chunks": Act(lambda: self._ask([_form(b"/image-to-video", b"image", self.picture)]), 0.2),
            "clip of black frames": Act(lambda: self._ask([_form(b"/upscale-video", b"video", self.clip)]), 0.5),
            "jobs that are left": Act(lambda: self._leave(_post(b"/text-to-image", JSON, job)), 0.1),
        }

    async def unfinished(self) -> None:
        """Heads that promise a body, each with its first byte."""
        head = b"POST /text-to-image HTTP/1.1\r\nhost: x\r\n" + JSON + b"content-length: 1000\r\n\r\n{"
        await asyncio.gather(*(self._leave(head, UNFINISHED_S) for _ in range(UNFINISHED)))

    async def _ask(self, pieces: Iterable[bytes]) -> None:
        """Sends the pieces as long as they are taken, and hears the answer to its end."""
        async with self._connected() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            await reader.read()

    async def _leave(self, data: bytes, after_s: float = 0.0) -> None:
        """Sends and goes, with no word."""
        async with self._connected() as (_, writer):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(after_s)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _post(path: bytes, headers: bytes, body: bytes) -> bytes:
    fixed = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n" % (path, len(body))
    return fixed + headers + b"\r\n" + body


def _form(path: bytes, name: bytes, data: bytes) -> bytes:
    file = b'--b\r\ncontent-disposition: form-data; name="%b"; filename="f"\r\n\r\n' % name
    return _post(path, FORM, file + data + b"\r\n--b--\r\n")


def _long_model_id() -> Iterable[bytes]:
    head = b"POST /text-to-image HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + JSON
    yield head + b"transfer-encoding: chunked\r\n\r\n"
    yield b'e\r\n{"model_id": "\r\n'
    for _ in range(MODEL_ID_BYTES // len(PIECE)):
        yield b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
    yield b'2\r\n"}\r\n0\r\n\r\n'


def _endless_headers() -> Iterable[bytes]:
    yield b"POST /text-to-image HTTP/1.1\r\nhost: x\r\n"
    for number in range(HEADERS):
        yield b"x-%d: %b\r\n" % (number, b"y" * 100)


def black_clip(frames: int = CLIP_FRAMES, size: tuple[int, int] = CLIP_SIZE) -> bytes:
    """An MP4 of black frames, a few KB. Its last bytes are damaged, which is found when all frames were decoded."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        _encode_black(file.name, frames, size)
        return file.read()[: -len(DAMAGE)] + DAMAGE


def _encode_black(path: str, frames: int, size: tuple[int, int]) -> None:
    with av.open(path, "w", options={"movflags": "faststart"}) as container:  # its index comes first, and stays whole
        stream = container.add_stream("libx264", rate=24, options={"threads": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        black = np.zeros((size[1], size[0], 3), np.uint8)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(black)))
        container.mux(stream.encode())


@contextlib.asynccontextmanager
async def hostile_app(url: str) -> AsyncIterator[Harm]:
    """Harm to the broadcaster at `url`, until the block ends."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    keys = json.dumps(SMALL | {f"k{i}": 0 for i in range(KEYS)}).encode()
    picture = with_parts(png(), "image/png", PNG_CHUNKS)
    app = HostileApp(parts.hostname, parts.port, keys, picture, black_clip())
    async with doing(app.acts()) as harm:
        yield harm

"""An image registry on loopback: it serves one image, honestly or not, by Docker's registry protocol (HTTP API V2)."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import secrets
from collections.abc import AsyncIterator

from aiohttp import web

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EMPTY_TAR = bytes(10240)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _image(mark: str) -> tuple[bytes, dict[str, bytes]]:
    """A manifest, and the blobs by digest that it names: an image of one empty layer."""
    layer = gzip.compress(EMPTY_TAR, mtime=0)
    rootfs = {"type": "layers", "diff_ids": [_digest(EMPTY_TAR)]}
    labels = {"Labels": {"mark": mark}}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": labels, "rootfs": rootfs}).encode()
    blobs = {CONFIG: config, LAYER: layer}
    parts = {kind: {"mediaType": kind, "size": len(blob), "digest": _digest(blob)} for kind, blob in blobs.items()}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[CONFIG], "layers": [parts[LAYER]]}
    return json.dumps(manifest).encode(), {_digest(blob): blob for blob in blobs.values()}


class FakeRegistry:
    """`manifests` counts who asked for the image; while `held` is set, nobody gets it; `forged` serves another one.

    Each registry's image is one of its own: an engine keeps manifests by their digest.
    """

    def __init__(self) -> None:
        self.name = "reelnet/runner"
        self.port = 0
        self.manifests = 0
        self.held = False
        self.forged = False
        self.manifest, self.blobs = _image(secrets.token_hex(8))

    @property
    def reference(self) -> str:
        """The image by its digest."""
        return f"127.0.0.1:{self.port}/{self.name}@{_digest(self.manifest)}"

    async def answer(self, request: web.Request) -> web.Response:
        """Any request."""
        kind, _, digest = request.path.removeprefix(f"/v2/{self.name}/").partition("/")
        if request.path == "/v2/":
            return web.json_response({})
        if kind == "manifests" and digest == _digest(self.manifest):
            self.manifests += 1
            while self.held:
                await asyncio.sleep(0.05)
            body = self.manifest.replace(b": ", b":", 1) if self.forged else self.manifest
            return web.Response(body=body, content_type=MANIFEST, headers={"Docker-Content-Digest": digest})
        if kind == "blobs" and digest in self.blobs:
            return web.Response(body=self.blobs[digest], content_type="application/octet-stream")
        missing = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return web.json_response(missing, status=404)


@contextlib.asynccontextmanager
async def fake_registry() -> AsyncIterator[FakeRegistry]:
    """Listens on a free port."""
    registry = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", registry.answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    registry.port = runner.addresses[0][1]
    try:
        yield registry
    finally:
        registry.held = False
        await runner.cleanup()

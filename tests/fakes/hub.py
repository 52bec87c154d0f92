"""A model hub on loopback that speaks the published API, and can be as unreliable as the real way to one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".ckpt")


def tensors(values: bytes = b"abcd") -> bytes:
    """A whole safetensors file with one tensor of these bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


@dataclass
class FakeHub:
    """One repository, `acme/model`.

    cuts: by path, after how many bytes each answer in turn breaks off. statuses: answers of files before the first
    good one. stated: what the listing says of a path, over what is true. ranges: whether Range is obeyed.
    """

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    commit: str = COMMIT
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    stated: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranges: bool = True
    token: str | None = None
    redirect: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    tokens_at_store: list[str | None] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeHub]:
        """Listens on a free loopback port."""
        app = web.Application()
        app.router.add_get("/api/models/acme/model/revision/{revision}", self._listing)
        app.router.add_get("/acme/model/resolve/{commit}/{path:.+}", self._resolve)
        async with TestServer(app) as server, TestServer(self._large_files()) as store:
            self.url = str(server.make_url("")).rstrip("/")
            self._store = str(store.make_url("")).rstrip("/").replace("127.0.0.1", "localhost")
            yield self

    def asked(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a file, in their order."""
        return [header for name, header in self.seen if name == path]

    def _large_files(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.+}", self._from_store)
        return app

    def _may(self, request: web.Request) -> bool:
        return self.token is None or request.headers.get("authorization") == f"Bearer {self.token}"

    async def _listing(self, request: web.Request) -> web.Response:
        if not self._may(request):
            return web.json_response({"error": "gated"}, status=401)
        if request.match_info["revision"] not in ("main", self.commit):
            return web.json_response({"error": "no such revision"}, status=404)
        assert request.query["blobs"] == "true"
        siblings = [self._sibling(path, data) | self.stated.get(path, {}) for path, data in self.files.items()]
        siblings += [stated for path, stated in self.stated.items() if path not in self.files]
        return web.json_response({"id": "acme/model", "sha": self.commit, "cardData": self.card, "siblings": siblings})

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        large = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return {"rfilename": path, "size": len(data), "blobId": blob} | ({"lfs": large} if path.endswith(LARGE) else {})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        if not self._may(request):
            return web.Response(status=401)
        assert request.match_info["commit"] == self.commit
        path = request.match_info["path"]
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"retry-after": "7"})
        if path.endswith(LARGE) and self.redirect:
            raise web.HTTPFound(f"{self._store}/{path}")
        return await self._send(request, path)

    async def _from_store(self, request: web.Request) -> web.StreamResponse:
        self.tokens_at_store.append(request.headers.get("authorization"))
        return await self._send(request, request.match_info["path"])

    async def _send(self, request: web.Request, path: str) -> web.StreamResponse:
        data, header = self.files[path], request.headers.get("range")
        self.seen.append((path, header))
        offset = int(header.removeprefix("bytes=").rstrip("-")) if header and self.ranges else 0
        answer = web.StreamResponse(status=206 if offset else 200)
        answer.content_length = len(data) - offset
        if offset:
            answer.headers["content-range"] = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        await answer.prepare(request)
        cuts = self.cuts.get(path)
        if cuts:
            await answer.write(data[offset : offset + cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(data[offset:])
        return answer

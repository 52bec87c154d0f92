"""Bodies that come packed: gzip is unpacked piece by piece, before anything counts their bytes; the rest is refused."""

from __future__ import annotations

import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadcaster.errors_http import error_response
from reelnet.errors import UserError, printable
from reelnet.http_headers import header_list

GZIP = ("gzip", "x-gzip")
PIECE_BYTES = 256 * 1024
"""Most bytes that one piece is unpacked to: what stands behind this bounds their sum."""
_GZIP_WINDOW = 31
_MAX_SHOWN_CHARS = 40


class Unpacked:
    """Hands a request's body on without its `Content-Encoding`: gzip, or none. Others get 415."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        codings = _codings(scope) if scope["type"] == "http" else []
        if not codings:
            await self._app(scope, receive, send)
        elif len(codings) == 1 and codings[0] in GZIP:
            gone = (b"content-encoding", b"content-length")
            headers = [(name, value) for name, value in scope["headers"] if name not in gone]
            await self._app({**scope, "headers": headers}, _Gzip(receive), send)
        else:
            asked = printable(", ".join(codings), _MAX_SHOWN_CHARS)
            message = f"cannot unpack Content-Encoding: {asked}; send the body as it is, or packed once by gzip"
            error = UserError(message, code="content_encoding", http_status=415)
            await error_response(error, headers={"Accept-Encoding": "gzip"})(scope, receive, send)


def _codings(scope: Scope) -> list[str]:
    named = (coding.strip().lower() for coding in header_list(scope, b"content-encoding").split(","))
    return [coding for coding in named if coding not in ("", "identity")]


class _Gzip:
    """A request's `receive` that unpacks. Raises UserError (400) for what is no whole gzip file of one member."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._zlib = zlib.decompressobj(_GZIP_WINDOW)
        self._packed = b""
        self._begun = self._ended = False
        self._more = True

    async def __call__(self) -> Message:
        """The next message: a piece of at most PIECE_BYTES, or that the client has left."""
        while not self._ended:
            if not self._packed and self._more and (left := await self._read()):
                return left
            piece = self._unpack()
            self._ended = self._zlib.eof or not (piece or self._packed or self._more)
            if self._ended:
                return await self._last(piece)
            if piece:
                return {"type": "http.request", "body": piece, "more_body": True}
        return await self._receive()

    async def _read(self) -> Message | None:
        """Takes the next bytes; gives the message where the client has left."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return message
        self._packed, self._more = message.get("body", b""), message.get("more_body", False)
        self._begun = self._begun or bool(self._packed)
        return None

    def _unpack(self) -> bytes:
        try:
            piece = self._zlib.decompress(self._packed, PIECE_BYTES)
        except zlib.error:
            raise _damaged("it is damaged, or none") from None
        self._packed = self._zlib.unconsumed_tail
        return piece

    async def _last(self, piece: bytes) -> Message:
        if self._begun and not self._zlib.eof:
            raise _damaged("it ends too early")
        trailing = bool(self._zlib.unused_data)
        while self._more and not trailing:
            if left := await self._read():
                return left
            trailing = bool(self._packed)
        if trailing:
            raise _damaged("there is more behind its end")
        return {"type": "http.request", "body": piece, "more_body": False}


def _damaged(why: str) -> UserError:
    return UserError(f"the body cannot be unpacked as gzip: {why}", code="content_encoding", http_status=400)

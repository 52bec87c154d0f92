"""The little of ASGI that the floors need: a whole body in, a whole answer out."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Receive, Send

Header = tuple[bytes, bytes]
JSON: Header = (b"content-type", b"application/json")
NDJSON: Header = (b"content-type", b"application/x-ndjson")
PNG: Header = (b"content-type", b"image/png")
BYTES: Header = (b"content-type", b"application/octet-stream")


async def read_body(receive: Receive) -> bytes:
    """A request's whole body."""
    body = b""
    while True:
        message = await receive()
        more: bytes = message.get("body", b"")
        body += more
        if not message.get("more_body", False):
            return body


async def answer(send: Send, data: bytes, headers: Iterable[Header]) -> None:
    """Sends one body of known length."""
    sized = [(b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": sized})
    await send({"type": "http.response.body", "body": data})


async def stream(send: Send, pieces: Iterable[bytes], headers: Iterable[Header]) -> None:
    """Sends pieces of one body; there is at least one."""
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    *first, last = pieces
    for piece in first:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})

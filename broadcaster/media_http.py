"""A kept result over HTTP: whole, a part of it, or the word that the client has it already."""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from broadcaster.errors_http import error_response
from broadcaster.media import MediaStore
from reelnet.errors import UserError
from reelnet.http_headers import UnsatisfiableRangeError, asked_range, header, header_list, names_tag
from reelnet.http_routes import Answer, Handler

RawHeaders = list[tuple[bytes, bytes]]
MEDIA_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    # A browser shows a clip in a page of its own making, which may load this file and nothing else; with `sandbox` not
    # even that. No file is a page itself: every media type is one of pictures or clips.
    (b"content-security-policy", b"default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"cache-control", b"private, max-age=31536000, immutable"),
    (b"accept-ranges", b"bytes"),
)


def media_route(media: MediaStore) -> Handler:
    """What answers GET and HEAD of a result."""

    async def read(request: Request) -> Response:
        name = request.path_params["name"]
        content, media_type = media.read(name)
        etag = f'"{name}"'
        headers = [*MEDIA_HEADERS, (b"etag", etag.encode())]
        if names_tag(header_list(request.scope, b"if-none-match"), etag):
            return _Bare(304, headers)
        headers += [
            (b"content-type", media_type.encode()),
            (b"content-disposition", f'inline; filename="reelnet-{name}"'.encode()),
        ]
        if isinstance(content, bytes):
            return _of_bytes(request, content, headers, etag)
        try:
            return _of_file(request, content, headers, etag)
        except FileNotFoundError:  # it has expired in this moment
            return _of_file(request, media.open_path(name)[0], headers, etag)

    return read


class _Bare(Response):
    """A head alone, of a status that has no body."""

    def __init__(self, status: int, headers: RawHeaders) -> None:
        self.status_code, self.background, self.body, self.raw_headers = status, None, b"", headers


def _of_bytes(request: Request, content: bytes, headers: RawHeaders, etag: str) -> Response:
    try:
        part = _asked(request, len(content), etag)
    except UnsatisfiableRangeError:
        return _unsatisfiable(len(content))
    if part is None:
        return Answer(content, headers)
    begin, end = part
    where = f"bytes {begin}-{end - 1}/{len(content)}".encode()
    return Answer(content[begin:end], [*headers, (b"content-range", where)], 206)


def _of_file(request: Request, path: Path, headers: RawHeaders, etag: str) -> Response:
    status = path.stat()
    try:
        part = _asked(request, status.st_size, etag)
    except UnsatisfiableRangeError:
        return _unsatisfiable(status.st_size)
    if part is None:  # the response reads the request's header by itself, and fails at what is to be ignored
        request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
    return FileResponse(path, headers=Headers(raw=headers), stat_result=status)


def _asked(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The part that is asked for. `If-Range` with another tag, or a date, asks for all of it."""
    if request.method != "GET" or header(request.scope, b"if-range") not in ("", etag):
        return None
    return asked_range(header_list(request.scope, b"range"), size)


def _unsatisfiable(size: int) -> Response:
    error = UserError(f"the range begins behind the last of the {size} bytes", code="range", http_status=416)
    return error_response(error, headers={"Content-Range": f"bytes */{size}"})

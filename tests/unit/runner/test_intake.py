"""What a runner reads of a request, before it looks into it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from reelnet.clips import ClipLimits
from reelnet.errors import UserError
from reelnet.http_routes import BodyBounds
from runner.intake import IntakeLimits, ParamsError, read_job

MOST = 100
LIMITS = IntakeLimits(BodyBounds(2**20, whole_s=60, stall_s=60), MOST, 2**20, ClipLimits())
FORM = "multipart/form-data; boundary=b"


def part(data: bytes, more: str = "") -> bytes:
    """A form whose only part is the job."""
    head = f'--b\r\ncontent-disposition: form-data; name="job"{more}\r\n\r\n'
    return head.encode() + data + b"\r\n--b--\r\n"


async def refused(kind: str, body: bytes) -> UserError:
    """The error with which a request is refused; it comes in pieces."""
    left = [body[start : start + 64] for start in range(0, len(body), 64)]

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    nothing: Any = None
    with pytest.raises((UserError, ParamsError)) as caught:
        await read_job(Request(scope, receive), nothing, LIMITS)
    error: Any = caught.value
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", lambda data: data, 413),
        (FORM, lambda data: part(data, '; filename="job.json"'), 413),
        (FORM, part, 400),
    ],
    ids=["bare", "file", "field"],
)
async def test_a_jobs_json_is_bounded(kind: str, body: Any, status: int) -> None:
    """However it comes, it has so many bytes and is not read further; one that fits is read, and is none."""
    fits = await refused(kind, body(b"{" + b" " * (MOST - 2) + b"}"))
    assert (fits.http_status, type(fits)) == (422, ParamsError)
    over = await refused(kind, body(b"{" + b" " * (MOST - 1) + b"}"))
    assert over.http_status == status
    assert (await refused(kind, body(b"{" + b" " * 10_000))).http_status == status

"""A request's id."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import get_contextvars

from broadcaster.errors_http import error_body, error_response
from broadcaster.request_ids import RequestIds
from reelnet.errors import UserError


async def answered(method: str, **headers: str) -> tuple[dict[str, str], bytes, dict[str, object]]:
    """Headers and body of a failure's answer, and what a line of the log about it says."""
    sent: list[Message] = []
    logged: dict[str, object] = {}

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        logged.update(get_contextvars())
        await error_response(UserError("wrong"), "job-1")(scope, receive, send)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await RequestIds(fails)({"type": "http", "method": method, "path": "/", "headers": raw}, receive, send)
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}, sent[1]["body"], logged


@pytest.mark.parametrize("given", ["", "from-the-proxy"])
async def test_a_failure_can_be_found_in_the_log(given: str) -> None:
    """Head, body and log have one id; the proxy's where it gave one; the job's stands beside it."""
    headers, body, logged = await answered("GET", **({"x_request_id": given} if given else {}))
    error = json.loads(body)["error"]
    assert headers["x-request-id"] == error["request_id"] == logged["request"]
    assert (error["job_id"], error["request_id"] == given) == ("job-1", bool(given))


async def test_head_has_no_body() -> None:
    """And the length of the body that GET would have."""
    headers, body, _ = await answered("HEAD", x_request_id="a")
    assert body == b""
    assert headers["content-length"] == str(len((await answered("GET", x_request_id="a"))[1]))


def test_outside_of_a_request_there_is_no_id() -> None:
    """Nor a job's, where there is no job."""
    assert not {"request_id", "job_id"} & error_body(UserError("wrong"))["error"].keys()

"""What is read of a request's body, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette import formparsers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from reelnet.errors import ReelnetError, UserError
from reelnet.http_routes import Direct, read_form, read_json, whole_body


def receiving(*pieces: bytes) -> Receive:
    """A body in these pieces."""
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


async def leaves() -> Message:
    """A client that has left."""
    return {"type": "http.disconnect"}


async def test_a_body_is_read_up_to_its_limit() -> None:
    """413 with the first byte over it; what comes behind is not waited for."""
    assert await whole_body(receiving(b"12", b"", b"345"), 5) == b"12345"
    with pytest.raises(UserError, match="the JSON is larger than 5 bytes") as caught:
        await whole_body(receiving(b"12", b"3456", b"never read"), 5, "the JSON")
    assert caught.value.http_status == 413
    with pytest.raises(ClientDisconnect):
        await whole_body(leaves, 5)


NO_JSON: list[Any] = [
    pytest.param(b"", ".", id="empty"),
    pytest.param(b"{", ".", id="cut-off"),
    pytest.param(b"\xff", ".", id="no-utf8"),
    pytest.param('{"a": 1}'.encode("utf-16"), ".", id="utf-16"),
    pytest.param(b"[" * 2**18, "nested too deeply", id="deep"),
    pytest.param(b'{"a":' * 2**15, "nested too deeply", id="deep-objects"),
    pytest.param(b'{"a": NaN}', "NaN is no number", id="nan"),
    pytest.param(b'{"a": -Infinity}', "-Infinity is no number", id="infinity"),
    pytest.param(b'{"a": 1, "b": 2, "a": 1}', "stands twice", id="twice"),
    pytest.param(b'{"loras": {"a": 1, "a": 2}}', "stands twice", id="twice-below"),
    pytest.param(b"1" * 401, "more than 400 digits", id="digits"),
    pytest.param(b"-" + b"1" * 2**18, "more than 400 digits", id="many-digits"),
]


@pytest.mark.parametrize(("data", "words"), NO_JSON)
def test_what_means_no_one_thing_is_no_json(data: bytes, words: str) -> None:
    """A ValueError that says why, whatever comes, and shows nothing of it."""
    with pytest.raises(ValueError, match=words) as caught:
        read_json(data)
    assert len(str(caught.value)) < 200


def test_json_is_read() -> None:
    """Also numbers that are none in a parameter: those are refused where the parameter's name can be said."""
    value = {"a": [1, -2.5, None, True, "ü 🦊"], "b": {"c": {}}, "n": 10**399}
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(json.dumps(value).encode("utf-8-sig")) == value, "as PowerShell writes a file"
    assert read_json('{"a": 1e999}') == {"a": float("inf")}


def form(content_type: str, *pieces: bytes) -> Request:
    """A request with a form."""
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode("latin-1"))]}
    return Request(scope, receiving(*pieces))


def part(head: str, content: bytes = b"x") -> bytes:
    """A form with one part."""
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


async def refusal(request: Request) -> UserError:
    """The error with which a form is refused."""
    with pytest.raises(UserError) as caught:
        async with read_form(request, 2, 2, 100):
            pass
    assert len(caught.value.message) < 300
    return caught.value


DISPOSITION = 'content-disposition: form-data; name="'
BAD_FORMS: list[Any] = [
    pytest.param(b"x" * 2**20 + part(DISPOSITION + 'a"'), id="preamble"),
    pytest.param(part(DISPOSITION + "a" * 2**20 + '"'), id="name"),
    pytest.param(part(DISPOSITION + 'a"; filename="' + "a" * 2**20 + '"'), id="file-name"),
    pytest.param(part(DISPOSITION + 'a"\r\n' + "a: b\r\n" * 1000 + "c: d"), id="headers"),
    pytest.param(part("a" * 2**20 + ": b"), id="header-name"),
    pytest.param(part("x: y"), id="no-name"),
    pytest.param(part(DISPOSITION + 'a"', b"x" * 101), id="field"),
    pytest.param(b"".join(part(DISPOSITION + 'a"')[:-7] for _ in range(3)), id="fields"),
]


@pytest.mark.parametrize("body", BAD_FORMS)
async def test_a_form_that_cannot_be_read_is_refused(body: bytes) -> None:
    """400 with some words, never what was sent."""
    assert (await refusal(form("multipart/form-data; boundary=b", body))).http_status == 400


TWO_PARTS = part(DISPOSITION + 'a"')[:-7] + part(DISPOSITION + 'f"; filename="f"')


@pytest.mark.parametrize("size", [*range(len(TWO_PARTS) - len("--\r\n")), len(TWO_PARTS) - 3])
async def test_a_form_that_is_cut_off_is_refused(size: int) -> None:
    """400 wherever it ends before its closing boundary: no part is lost in silence, no file left open."""
    error = await refusal(form("multipart/form-data; boundary=b", TWO_PARTS[:size]))
    assert (error.http_status, "it ends before its closing boundary" in error.message) == (400, True)


@pytest.mark.parametrize(
    "more",
    ["", "; boundary=" + "b" * 300, "; boundary="],
)
async def test_a_form_needs_a_boundary(more: str) -> None:
    """400 without one, or with one that is too long."""
    assert (await refusal(form("multipart/form-data" + more, part(DISPOSITION + 'a"')))).http_status == 400


@pytest.mark.parametrize(
    "more", ["; charset=punycode", '; CHARSET="undefined"', "; charset=idna", "; charset=utf-7", "; a=b" * 20_000]
)
async def test_a_form_is_not_decoded_as_its_sender_likes(more: str) -> None:
    """415: half a minute of work in punycode is a field of a megabyte, and `undefined` raises what nobody expects."""
    assert (await refusal(form("multipart/form-data; boundary=b" + more, b""))).http_status == 415


@pytest.mark.parametrize("more", ["", "; charset=utf-8", '; charset="UTF-8"'])
async def test_a_form_is_read(more: str) -> None:
    """Fields and files, for the length of the block."""
    body = part(DISPOSITION + 'a"', "ü".encode())[:-7] + part(DISPOSITION + 'f"; filename="f"')
    async with read_form(
        form("multipart/form-data; boundary=b" + more, *(body[i : i + 1] for i in range(len(body)))), 2, 2, 100
    ) as found:
        file = found["f"]
        assert found["a"] == "ü"
        assert not isinstance(file, str)
        assert await file.read() == b"x"
    assert file.file.closed


async def test_a_client_that_leaves_is_no_fault() -> None:
    """In the middle of its body it is a cancelled request, which nobody logs as a fault of this program."""
    seen: list[Exception] = []

    async def handler(request: Request) -> Any:
        await whole_body(request.receive, 5)

    async def on_error(_: Request, error: ReelnetError) -> Any:
        seen.append(error)
        return answered

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def on_fault(_: Request, error: Exception) -> Any:
        raise error

    async def app(*_: Any) -> None:
        raise AssertionError("the route is found")

    direct = Direct(app, {("POST", "/x"): handler}, on_error, on_fault)
    await direct({"type": "http", "method": "POST", "path": "/x", "headers": []}, leaves, leaves)  # type: ignore[arg-type]
    assert [getattr(error, "failure", None) for error in seen] == ["canceled"]


async def test_a_form_whose_client_leaves_keeps_no_file_open() -> None:
    """Not even until somebody collects the garbage."""
    pieces = [part(DISPOSITION + 'f"; filename="f"', b"x" * 50)[:-9]]
    opened: list[Any] = []

    async def receive() -> Message:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(), "more_body": True}
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}
    spooled = formparsers.SpooledTemporaryFile

    def open_one(*args: Any, **kwargs: Any) -> Any:
        opened.append(spooled(*args, **kwargs))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formparsers, "SpooledTemporaryFile", open_one)
        with pytest.raises(ClientDisconnect):
            async with read_form(Request(scope, receive), 2, 2, 100):
                pass
    assert [file.closed for file in opened] == [True]

"""What stands before every route: prefix, key, and size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from broadcaster.http_guard import BodyLimit, KeyGuard, Prefix
from broadcaster.keys import Keys
from reelnet.errors import BusyError, ConfigError, RefusedError, UserError
from reelnet.http_routes import BodyBounds

KEY = "rn-0123456789abcdef"
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Reached:
    """The application behind the guards: reads the whole body and says ok."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            self.bodies.append(body)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})


async def ask(
    app: App, path: str = "/text-to-image", *parts: bytes, method: str = "POST", **headers: str
) -> tuple[int, Any]:
    """Status and body of a request whose body comes in these parts."""
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: Scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": raw}
    left = list(parts or (b"",))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Two keys."""
    file = tmp_path / "keys"
    file.write_text(f"other-key\n\n  {KEY}\n")
    return Keys.read(file)


def test_a_known_key_opens(keys: Keys) -> None:
    """Whatever the case of the scheme."""
    for header in (f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} ", "Bearer other-key"):
        keys.check(header)


@pytest.mark.parametrize(
    "header", ["", KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ünknown"]
)
def test_anything_else_does_not(keys: Keys, header: str) -> None:
    """401, and the way to do it right; the key that was tried is not repeated."""
    with pytest.raises(RefusedError, match="Authorization: Bearer <key>") as caught:
        keys.check(header)
    assert caught.value.http_status == 401
    assert KEY[:-1] not in caught.value.message


def test_without_a_file_no_key_is_asked_for() -> None:
    """A broadcaster of one's own."""
    Keys.read(None).check("")


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe"])
def test_a_file_without_keys_is_a_fault(tmp_path: Path, content: bytes) -> None:
    """An empty file would lock everybody out, or, read otherwise, let everybody in."""
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="keys_file"):
        Keys.read(tmp_path / "keys")
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_a_note_beside_a_key_is_no_key(tmp_path: Path) -> None:
    """One key a line: a word that follows it, such as its owner's name, must not open the API."""
    (tmp_path / "keys").write_text(f"# ours\n{KEY} # alice\n")
    keys = Keys.read(tmp_path / "keys")
    keys.check(f"Bearer {KEY}")
    for word in ("alice", "#", "ours", f"{KEY} # alice"):
        with pytest.raises(RefusedError):
            keys.check(f"Bearer {word}")
    (tmp_path / "keys").write_text(f"{KEY} alice\n")
    with pytest.raises(ConfigError, match="one key a line"):
        Keys.read(tmp_path / "keys")


def test_a_key_is_never_cut_short(tmp_path: Path) -> None:
    """A key may have a `#` in it: what stands before it must not open the API."""
    (tmp_path / "keys").write_text("ab#0123456789abcdef\n")
    keys = Keys.read(tmp_path / "keys")
    with pytest.raises(RefusedError):
        keys.check("Bearer ab")
    keys.check("Bearer ab#0123456789abcdef")


async def test_routes_need_a_key(keys: Keys) -> None:
    """A refusal has the shape that the clients parse, and the application is not reached."""
    app = Reached()
    guard = KeyGuard(app, keys)
    for path in ("/text-to-image", "/models", "/", "/mediax", "//media/x", "/media"):
        status, body = await ask(guard, path)
        assert (status, set(body["detail"])) == (401, {"msg"}), path
    assert app.scopes == []
    assert (await ask(guard, authorization=f"Bearer {KEY}"))[0] == 200


async def test_a_keys_policy_goes_along(tmp_path: Path) -> None:
    """What its jobs are held to reaches the application, beside what is in the request's state already."""
    (tmp_path / "keys").write_text(f"{KEY} safety=blur\nother-key\n")
    app = Reached()
    guard = KeyGuard(app, Keys.read(tmp_path / "keys"), jobs_per_key=1)
    for key in (KEY, "other-key"):
        await ask(guard, authorization=f"Bearer {key}")
    assert [scope["state"]["key"].safety for scope in app.scopes] == ["blur", ""]


class Held(Reached):
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.released = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered.set()
        await self.released.wait()
        await super().__call__(scope, receive, send)


async def test_a_key_has_so_many_jobs_under_way(keys: Keys) -> None:
    """One job more gets 429 and a time to ask again; other keys, and what is no job, are not concerned."""
    app = Held()
    guard = KeyGuard(app, keys, jobs_per_key=1)
    first = asyncio.create_task(ask(guard, authorization=f"Bearer {KEY}"))
    await app.entered.wait()
    status, body = await ask(guard, authorization=f"bearer  {KEY}")
    assert (status, body["error"]["class"], body["error"]["code"]) == (429, "busy", "key_jobs")
    assert body["error"]["retry_after_s"] > 0
    assert KEY not in str(body)
    app.released.set()
    assert (await ask(guard, "/models", method="GET", authorization=f"Bearer {KEY}"))[0] == 200
    assert (await ask(guard, authorization="Bearer other-key"))[0] == 200
    assert (await first)[0] == 200
    assert (await ask(guard, authorization=f"Bearer {KEY}"))[0] == 200, "its place is free again"


async def test_a_job_that_fails_gives_its_place_back(keys: Keys) -> None:
    """Also one whose application raises, or whose client leaves."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    guard = KeyGuard(fails, keys, jobs_per_key=1)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await ask(guard, authorization=f"Bearer {KEY}")


async def test_a_place_is_free_before_the_last_bytes_are_read(keys: Keys) -> None:
    """A client that has its answer may ask again at once, whatever is still to be done behind it."""
    seen: list[int] = []

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/again":
            await Reached()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        seen.append((await ask(guard, "/again", authorization=f"Bearer {KEY}"))[0])
        await send({"type": "http.response.body", "body": b"}"})
        seen.append((await ask(guard, "/again", authorization=f"Bearer {KEY}"))[0])

    guard = KeyGuard(streams, keys, jobs_per_key=1)
    assert (await ask(guard, authorization=f"Bearer {KEY}"))[0] == 200
    assert seen == [429, 200]


async def test_results_and_health_are_open(keys: Keys) -> None:
    """Names of results cannot be guessed; a browser's question before a request carries no key."""
    guard = KeyGuard(Reached(), keys)
    for path in ("/media/abc.png", "/healthz", "/openapi.json"):
        assert (await ask(guard, path, method="GET"))[0] == 200
    assert (await ask(guard, method="OPTIONS"))[0] == 200


async def test_a_prefix_opens_nothing_more(keys: Keys) -> None:
    """Behind a proxy's prefix the same paths are open, and no others."""
    guard = Prefix(KeyGuard(Reached(), keys), "/ai")
    assert (await ask(guard, "/ai/media/abc.png"))[0] == 200
    for path in ("/ai/text-to-image", "/ai/ai/media/x", "/aix/media/x", "/text-to-image"):
        assert (await ask(guard, path))[0] == 401


def body_limit(app: App, size_bytes: int = 10, total_bytes: int = 1000, late_s: float = 60) -> BodyLimit:
    """Bodies of so many bytes."""
    return BodyLimit(app, BodyBounds(size_bytes, whole_s=late_s, stall_s=late_s), total_bytes)


async def test_a_body_over_its_declared_limit_is_not_read() -> None:
    """413 by its Content-Length alone."""
    app = Reached()
    status, body = await ask(body_limit(app), "/x", b"x" * 11, content_length="11")
    assert (status, body["error"]["code"]) == (413, "body_size")
    assert app.scopes == []


async def test_a_body_is_counted_as_it_comes() -> None:
    """A sender may declare nothing, or less than it sends."""
    app = Reached()
    assert (await ask(body_limit(app), "/x", b"12345", b"67890"))[0] == 200
    assert app.bodies == [b"1234567890"]
    for declared in ({}, {"content_length": "2"}):
        with pytest.raises(UserError) as caught:
            await ask(body_limit(app), "/x", b"12345", b"67890", b"x", **declared)
        assert caught.value.http_status == 413


@pytest.mark.parametrize("declared", ["²", "-1", "1_0", "0x1", "", "9" * 5000, " 7"])
async def test_a_length_that_is_no_number_is_counted(declared: str) -> None:
    """It is not taken for one, and the bytes are counted as where none is declared."""
    guard = body_limit(Reached())
    assert (await ask(guard, "/x", b"12345", content_length=declared))[0] == 200
    with pytest.raises(UserError):
        await ask(guard, "/x", b"12345", b"678901", content_length=declared)


class Fed:
    """A client whose body's pieces come when the test says so; None is its leaving."""

    def __init__(self, app: App, **headers: str) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.read = asyncio.Event()
        self.task = asyncio.create_task(self._ask(app))

    async def _ask(self, app: App) -> None:
        scope: Scope = {"type": "http", "method": "POST", "path": "/x", "root_path": "", "headers": self._raw}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._pieces.empty():
            self.read.set()
        piece = await self._pieces.get()
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def _send(self, message: Message) -> None:
        pass

    async def feed(self, *pieces: bytes | None) -> None:
        """Until the application has taken the pieces and waits for more, or has ended."""
        if pieces:
            self.read.clear()
        for piece in pieces:
            self._pieces.put_nowait(piece)
        waits = asyncio.create_task(self.read.wait())
        await asyncio.wait([self.task, waits], return_when=asyncio.FIRST_COMPLETED, timeout=20)
        waits.cancel()


async def reads_and_waits(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads until its client has left, as one whose job runs."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_bodies_are_bounded_together() -> None:
    """503 with a time to ask again for what does not fit, declared or not; a request counts until its end."""
    guard = body_limit(reads_and_waits, size_bytes=80, total_bytes=100)
    first, second = Fed(guard), Fed(guard)
    await first.feed(b"x" * 60)
    await second.feed(b"x" * 30, b"")
    assert guard.held_bytes == 90, "the second one's body is whole, but not its job"
    status, body = await ask(guard, content_length="11")
    assert (status, body["error"]["class"], body["error"]["code"]) == (503, "busy", "bodies_full")
    assert body["error"]["retry_after_s"] > 0
    third = Fed(guard)
    await third.feed(b"x" * 11)
    with pytest.raises(BusyError, match="fill the 100 bytes"):
        await third.task
    assert guard.held_bytes == 90, "what was refused is given back"
    await second.feed(None)
    await second.task
    assert guard.held_bytes == 60
    assert (await ask(body_limit(Reached(), 80, 100), "/x", b"x" * 40, content_length="40"))[0] == 200
    await first.feed(None)
    await first.task
    assert guard.held_bytes == 0


async def test_a_declared_length_takes_no_room_before_its_bytes() -> None:
    """Who says that he will send much, and sends nothing, keeps nobody out."""
    guard = body_limit(reads_and_waits, size_bytes=80, total_bytes=100)
    silent = [Fed(guard, content_length="80") for _ in range(10)]
    for client in silent:
        await client.feed()
    sender = Fed(guard, content_length="80")
    await sender.feed(b"x" * 80)
    assert guard.held_bytes == 80
    for client in (*silent, sender):
        await client.feed(None)
        await client.task
    assert guard.held_bytes == 0


@pytest.mark.parametrize("pieces", [(), (b"x" * 5,)])
async def test_a_body_that_does_not_come_ends(pieces: tuple[bytes, ...]) -> None:
    """408, and what it brought is given back."""
    guard = body_limit(reads_and_waits, late_s=0.02)
    client = Fed(guard)
    await client.feed(*pieces)
    with pytest.raises(UserError, match="did not come") as caught:
        await client.task
    assert (caught.value.http_status, caught.value.code) == (408, "body_late")
    assert guard.held_bytes == 0


async def test_a_body_that_drips_ends() -> None:
    """Each piece comes in time, the whole does not."""
    guard = BodyLimit(reads_and_waits, BodyBounds(2**20, whole_s=0.05, stall_s=60), 2**20)
    client = Fed(guard)
    while not client.task.done():
        await client.feed(b"x")
        await asyncio.sleep(0.005)
    with pytest.raises(UserError) as caught:
        await client.task
    assert caught.value.http_status == 408
    assert guard.held_bytes == 0


async def test_waiting_for_a_job_is_no_stalled_body() -> None:
    """Behind the body a client that is silent waits for its answer."""
    guard = body_limit(reads_and_waits, late_s=0.02)
    client = Fed(guard)
    await client.feed(b"x", b"")
    await asyncio.sleep(0.1)
    assert not client.task.done()
    await client.feed(None)
    await client.task


@pytest.mark.parametrize("make", [body_limit, lambda app: KeyGuard(app, Keys({}))])
async def test_what_is_no_request_passes(make: Callable[[App], App]) -> None:
    """Start and end of the server are not guarded."""
    app = Reached()

    async def nothing(*_: object) -> Any:
        raise AssertionError("nobody sends or receives")

    await make(app)({"type": "lifespan"}, nothing, nothing)
    assert app.scopes == [{"type": "lifespan"}]

"""What stands before every route: a proxy's prefix, the API key, and what bodies cost."""

from __future__ import annotations

import re
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadcaster.errors_http import error_response
from broadcaster.http_names import MEDIA_PATH
from broadcaster.keys import ApiKey, Keys
from reelnet.errors import BusyError, ReelnetError
from reelnet.http_headers import header
from reelnet.http_routes import BodyBounds, BoundedBody, route_path, too_large

OPEN_PATHS = (MEDIA_PATH, "/healthz", "/openapi.json")
"""Paths that need no key: results have unguessable names and open in a browser."""
KEY_RETRY_AFTER_S = 5.0
BODIES_RETRY_AFTER_S = 5.0

_LENGTH = re.compile(r"[0-9]{1,18}")


class Prefix:
    """Serves the same routes below a path, for a proxy that keeps its own prefix."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._prefix and scope["type"] == "http" and scope["path"].startswith(self._prefix + "/"):
            scope = {**scope, "root_path": self._prefix}
        await self._app(scope, receive, send)


class BodyLimit:
    """Bounds each body in bytes and time, and the bytes that all requests under way have sent.

    What a request has sent counts until its end, for a job keeps its inputs. A declared length that does not fit is
    refused at once, but takes no room before its bytes come: a word alone must not keep others out.
    """

    def __init__(self, app: ASGIApp, bounds: BodyBounds, total_bytes: int) -> None:
        self._app = app
        self.bounds = bounds
        self.total_bytes = total_bytes
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif error := self._refusal(_declared_bytes(scope)):
            await error_response(error)(scope, receive, send)
        else:
            await self._counted(scope, receive, send)

    def _refusal(self, more_bytes: int) -> ReelnetError | None:
        """Why so many bytes are not taken."""
        if more_bytes > self.bounds.size_bytes:
            return too_large(self.bounds.size_bytes)
        if self.held_bytes + more_bytes > self.total_bytes:
            message = f"the requests under way fill the {self.total_bytes} bytes that there are for their bodies"
            return BusyError(message, code="bodies_full", retry_after_s=BODIES_RETRY_AFTER_S)
        return None

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = BoundedBody(receive, self.bounds)
        held = 0

        async def counted() -> Message:
            nonlocal held
            try:
                message = await body()
            finally:
                self.held_bytes += body.seen_bytes - held
                held = body.seen_bytes
            if error := self._refusal(0):
                raise error
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self.held_bytes -= held


def _declared_bytes(scope: Scope) -> int:
    """A body's declared length; 0 for none, and for what is no number: its bytes are counted anyway."""
    declared = header(scope, b"content-length")
    return int(declared) if _LENGTH.fullmatch(declared) else 0


class KeyGuard:
    """Asks every request but those of open paths for a key, and bounds the jobs that one key has under way.

    The key stands in the request's state as `key`.
    """

    def __init__(self, app: ASGIApp, keys: Keys, jobs_per_key: int | None = None) -> None:
        self._app = app
        self._keys = keys
        self.jobs_per_key = jobs_per_key
        self._jobs: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _asks_for_key(scope):
            await self._app(scope, receive, send)
            return
        try:
            key = self._keys.check(header(scope, b"authorization"))
            counted = self._takes_place(key, scope)
        except ReelnetError as error:
            await error_response(error)(scope, receive, send)
            return
        scope = {**scope, "state": {**scope.get("state", {}), "key": key}}
        if counted:
            await self._counted(key, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _takes_place(self, key: ApiKey, scope: Scope) -> bool:
        """Whether this request takes a place of its key. Raises BusyError when none is left."""
        limit = self.jobs_per_key
        if limit is None or scope["method"] != "POST":
            return False
        if self._jobs[key.id] >= limit:
            message = f"this key has {limit} job(s) under way, as many as it may have at once"
            raise BusyError(message, code="key_jobs", retry_after_s=KEY_RETRY_AFTER_S, http_status=429)
        return True

    async def _counted(self, key: ApiKey, scope: Scope, receive: Receive, send: Send) -> None:
        """Holds a place of the key until the answer's last bytes: whoever has read them may ask again."""
        held = True

        def release() -> None:
            nonlocal held
            self._jobs[key.id] -= held
            held = False

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                release()
            await send(message)

        self._jobs[key.id] += 1
        try:
            await self._app(scope, receive, sending)
        finally:
            release()


def _asks_for_key(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] == "OPTIONS":
        return False
    return not route_path(scope).startswith(OPEN_PATHS)

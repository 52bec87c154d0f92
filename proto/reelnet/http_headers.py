"""What a request's headers say: its id, the answer that is preferred, what is known already, a part, a host."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

REQUEST_ID = "x-request-id"
"""The header that names a request, in an answer and, where a client or a proxy has given it a name, in a request."""
MAX_HOST_CHARS = 255
_REQUEST_ID_BYTES = 12
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE | re.ASCII)
_QUALITY = re.compile(r"[01](?:\.[0-9]{0,3})?", re.ASCII)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


class UnsatisfiableRangeError(Exception):
    """A range that begins behind the end."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How much a client wants a media type, 0 to 1, and whether it names it (2), its kind (1) or anything (0)."""

    quality: float
    exactness: int


def new_request_id() -> str:
    """An unguessable name for a request."""
    return os.urandom(_REQUEST_ID_BYTES).hex()


def request_id(scope: Scope) -> str:
    """The name that a request brings: at most 128 letters, digits, `.`, `_` and `-`. A new one for any other."""
    given = header(scope, REQUEST_ID.encode())
    return given if _GIVEN_ID.fullmatch(given) else new_request_id()


def header(scope: Scope, name: bytes) -> str:
    """A request's header by its name in lower case; empty where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def header_list(scope: Scope, name: bytes) -> str:
    """A header that may stand several times, each a list: all of them as one list."""
    return ", ".join(str(value, "latin-1") for key, value in scope["headers"] if key == name)


def preference(accept: str, media_type: str) -> Preference:
    """What an `Accept` header says of a media type (lower case): its nearest range decides. RFC 9110, 12.5.1.

    A weight that cannot be read counts as 1.
    """
    kind = media_type.partition("/")[0]
    ranks = {media_type: 2, f"{kind}/*": 1, "*/*": 0}
    best = Preference(0.0, -1)
    for item in accept.split(","):
        name, *params = (part.strip().lower() for part in item.split(";"))
        rank = ranks.get(name, -1)
        if rank > best.exactness:
            best = Preference(_weight(params), rank)
    return best


def _weight(params: list[str]) -> float:
    for param in params:
        name, _, value = param.partition("=")
        if name.strip() == "q" and _QUALITY.fullmatch(value.strip()):
            return min(1.0, float(value))
    return 1.0


def names_tag(if_none_match: str, etag: str) -> bool:
    """Whether an `If-None-Match` header knows this tag, by RFC 9110's weak comparison. `etag` has its quotes."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in tags)


def asked_range(value: str, size: int) -> tuple[int, int] | None:
    """The bytes that a `Range` header asks for, from and up to without the last; None for all `size` bytes.

    None is the answer also to what RFC 9110 (14.2) lets a server ignore: another unit, no range, several at once.
    Raises UnsatisfiableRangeError.
    """
    match = _RANGE.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return None
    if begin >= size:
        raise UnsatisfiableRangeError
    return begin, end


def host_of(value: str) -> str:
    """The host of a `Host` header, as it stands, with its port; empty for what is none."""
    value = value.strip()
    return value if len(value) <= MAX_HOST_CHARS and _HOST.fullmatch(value) else ""


def host_name(value: str) -> str:
    """The name of a `Host` header, lower case, without port, brackets and a last dot; empty for what is none."""
    match = _HOST.fullmatch(value.strip())
    return match["name"].strip("[]").removesuffix(".").lower() if match else ""


def is_address(name: str) -> bool:
    """Whether a host's name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

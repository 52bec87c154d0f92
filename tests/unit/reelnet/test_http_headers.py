"""What a request's headers say."""

from __future__ import annotations

import pytest

from reelnet.http_headers import (
    REQUEST_ID,
    UnsatisfiableRangeError,
    asked_range,
    header_list,
    host_name,
    host_of,
    names_tag,
    preference,
    request_id,
)

EVENTS = "text/event-stream"


@pytest.mark.parametrize(
    ("accept", "quality", "exactness"),
    [
        ("", 0.0, -1),
        ("text/event-stream", 1.0, 2),
        ("Text/Event-Stream", 1.0, 2),
        ("text/event-stream;q=0", 0.0, 2),
        ("text/event-stream; Q=0.25", 0.25, 2),
        ("text/event-stream ; charset=utf-8 ; q = 0.5", 0.5, 2),
        ("text/event-stream;q=7", 1.0, 2),
        ("text/event-stream;q=no", 1.0, 2),
        ("text/event-stream;q=", 1.0, 2),
        ("*/*, text/event-stream;q=0.1", 0.1, 2),
        ("text/*;q=0.3, */*;q=0.8", 0.3, 1),
        ("application/json, */*;q=0.1", 0.1, 0),
        ("application/json", 0.0, -1),
        (",;,text/event-stream,", 1.0, 2),
    ],
)
def test_a_preference_is_the_nearest_ranges(accept: str, quality: float, exactness: int) -> None:
    """Whatever the case and the blanks; a weight that cannot be read counts as none."""
    found = preference(accept, EVENTS)
    assert (found.quality, found.exactness) == (quality, exactness)


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=9-99", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("Bytes = 2 - 4 ", (2, 5)),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=0--1", None),
        ("bytes=1.5-2", None),
        ("bytes=²-3", None),
        ("items=0-1", None),
        ("0-1", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("bytes=0-1;q=1", None),
    ],
)
def test_a_range_is_one_or_ignored(value: str, asked: tuple[int, int] | None) -> None:
    """From and up to, of ten bytes. What is malformed, of another unit or more than one is no request for a part."""
    assert asked_range(value, 10) == asked


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999-"])
def test_a_range_behind_the_end_is_none(value: str) -> None:
    """It is understood, and there is nothing to give."""
    with pytest.raises(UnsatisfiableRangeError):
        asked_range(value, 10)


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ('"a.png"', True),
        ('W/"a.png"', True),
        ('"b", "a.png"', True),
        ("*", True),
        ("", False),
        ('"b"', False),
        ("a.png", False),
        ('"a.png', False),
    ],
)
def test_a_tag_is_known_by_its_word(header: str, known: bool) -> None:
    """Weak or strong, alone or among others."""
    assert names_tag(header, '"a.png"') is known


@pytest.mark.parametrize(
    ("value", "host", "name"),
    [
        ("api.example", "api.example", "api.example"),
        ("API.Example:8443", "API.Example:8443", "api.example"),
        ("api.example.", "api.example.", "api.example"),
        ("127.0.0.1:9935", "127.0.0.1:9935", "127.0.0.1"),
        ("[::1]:9935", "[::1]:9935", "::1"),
        ("", "", ""),
        ("a b", "", ""),
        ("a/b", "", ""),
        ("user@api.example", "", ""),
        ("api.example:99999999", "", ""),
        ('"><script>', "", ""),
        ("ü.example", "", ""),
        ("a" * 300, "", "a" * 300),
    ],
)
def test_a_host_is_a_name_and_a_port(value: str, host: str, name: str) -> None:
    """Nothing else of what a header can hold gets into a link."""
    assert (host_of(value), host_name(value)) == (host, name)


@pytest.mark.parametrize("given", ["7d0a1f", "a.b_c-D", "x" * 128])
def test_a_request_keeps_the_name_it_brings(given: str) -> None:
    """A client's, or its proxy's: one id from there to here."""
    assert request_id({"headers": [(REQUEST_ID.encode(), given.encode())]}) == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü", "a\nb", "{}", "a,b"])
def test_a_name_that_is_none_is_replaced(given: str) -> None:
    """Nobody writes into our log or another one's answer by it; two requests have two names."""
    scope = {"headers": [(REQUEST_ID.encode(), given.encode("latin-1"))]}
    first, second = request_id(scope), request_id(scope)
    assert given not in (first, second)
    assert len({first, second, request_id({"headers": []})}) == 3


def test_a_list_may_stand_on_several_lines() -> None:
    """They are one list."""
    headers = [(b"accept", b"a"), (b"host", b"x"), (b"accept", b"b;q=0")]
    assert header_list({"headers": headers}, b"accept") == "a, b;q=0"

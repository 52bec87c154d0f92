"""The tree of failures, its status table, and texts of strangers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet import errors
from reelnet.errors import (
    HTTP_STATUS,
    MAX_MESSAGE_CHARS,
    BusyError,
    CanceledError,
    DeadlineError,
    FailureClass,
    NodeError,
    ReelnetError,
    UserError,
    from_class,
    printable,
)
from reelnet.rpc import GRPC_STATUS

KINDS = [kind for kind in ReelnetError.__subclasses__() if kind.__module__ == errors.__name__]


def test_every_class_has_one_error_and_one_row() -> None:
    """A failure class without an error or a status could not cross a wire."""
    assert sorted(kind.failure for kind in KINDS) == sorted(FailureClass)
    assert set(HTTP_STATUS) == set(GRPC_STATUS) == set(FailureClass)
    assert GRPC_STATUS[FailureClass.OOM] is GRPC_STATUS[FailureClass.BUSY], "so a bare status names no class"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_tree_is_drawn(kind: type[ReelnetError]) -> None:
    """The module's docstring shows each error, and each has its own default code."""
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.default_code != ReelnetError.default_code
    error = kind("text")
    assert error.http_status == HTTP_STATUS[kind.failure]
    assert (error.message, error.code, str(error)) == ("text", kind.default_code, "text")


def test_a_malformed_request_has_its_own_status() -> None:
    """413 and its like are nearer than the table's 422; what crosses gRPC stays."""
    error = UserError("too large", code="body_size", http_status=413)
    assert error.http_status == 413


@pytest.mark.parametrize(
    ("failure", "http"),
    [("user", 422), ("busy", 503), ("refused", 403), ("unsupported", 422), ("oom", 500), ("poison", 500),
     ("transient", 503), ("node", 500), ("deadline", 504), ("canceled", 499)],
)  # fmt: skip
def test_what_an_app_sees(failure: str, http: int) -> None:
    """A class that came over a wire has the HTTP status that apps are promised."""
    error = from_class(failure, "text")
    assert (error.failure, error.http_status) == (failure, http)


def test_known_classes_come_back_as_their_errors() -> None:
    """Code, text and wait stay."""
    error = from_class("busy", "full", code="queue_full", retry_after_s=2.5)
    assert type(error) is BusyError
    assert (error.message, error.code, error.retry_after_s) == ("full", "queue_full", 2.5)
    assert type(from_class("deadline", "")) is DeadlineError
    assert type(from_class("canceled", "", code="")) is CanceledError
    assert from_class("canceled", "", code="").code == "canceled"


@pytest.mark.parametrize("failure", ["", "USER", "sorry", "user ", "node\n"])
def test_an_unknown_class_counts_as_the_nodes_failure(failure: str) -> None:
    """A class that this version does not know costs the node that says it, and nobody else."""
    assert type(from_class(failure, "text")) is NodeError


def test_a_strangers_words_are_cut_and_cleaned() -> None:
    """Neither text nor code of a peer reaches a terminal or a log as it came."""
    error = from_class("node", "\x1b[31m" + "a" * 10_000, code="x\r\n" + "y" * 1000)
    assert len(error.message) == MAX_MESSAGE_CHARS
    assert len(error.code) == 64
    assert error.message.startswith(" [31maaa")
    assert "\n" not in error.code
    assert "\r" not in error.code


@pytest.mark.parametrize(
    "char",
    ["\x00", "\x07", "\x1b", "\r", "\n", "\x7f", "\x9b", "\u200b", "\u200d", "\u2060", "\ufeff", "\u202e", "\u2066",
     "\u2069", "\u200f", "\u2028", "\u2029", "\u00ad", "\U000e0041", "\ud800", "\ufff9", "\ue000"],
)  # fmt: skip
def test_what_cannot_be_seen_is_a_blank(char: str) -> None:
    """Control, bidirectional, zero-width, tag, private and surrogate characters become a blank."""
    assert printable(f"a{char}b", 10) == "a b"


@given(st.text(st.characters(), max_size=60), st.integers(1, 40))
def test_printable_is_bounded_and_visible(text: str, limit: int) -> None:
    """Never longer than asked, never a character that hides; a short visible text stays as it is."""
    clean = printable(text, limit)
    assert len(clean) <= limit
    assert all(unicodedata.category(c)[0] not in "C" and (c == " " or not unicodedata.category(c).startswith("Z"))
               for c in clean)  # fmt: skip
    assert clean.endswith("…") or len(clean) == len(text)
    assert clean.isprintable()
    if text.isprintable() and len(text) <= limit:
        assert clean == text

"""New lines of a log of which only the last ones are seen."""

from __future__ import annotations

import pytest

from reelnet.operating.log_tail import GAP, LogTail, fresh_lines


@pytest.mark.parametrize(
    ("before", "now", "fresh", "gap"),
    [
        ("abc", "abc", "", False),
        ("abc", "abcde", "de", False),
        ("abc", "bcd", "d", False),
        ("abc", "cde", "de", False),
        ("abc", "xyz", "xyz", True),
        ("", "ab", "ab", False),
        ("abc", "", "", False),
        ("aa", "aaa", "a", False),
    ],
)
def test_two_windows_on_one_log(before: str, now: str, fresh: str, gap: bool) -> None:
    """What overlaps is told once; what is lost in between is told of."""
    assert fresh_lines(list(before), list(now)) == (list(fresh), gap)


def test_a_followed_log() -> None:
    """First all that is there, then what is new, each line with its slot and harmless."""
    tail = LogTail("s", 3)
    assert list(tail.new_lines("a\nb\n")) == ["s | a", "s | b"]
    assert list(tail.new_lines("a\nb\n")) == []
    assert list(tail.new_lines("b\nc\x1b[31m\n")) == ["s | c [31m"]
    assert list(tail.new_lines("x\ny\n")) == [f"s | {GAP}", "s | x", "s | y"]
    assert list(LogTail("", 3).new_lines("a")) == ["a"]


def test_a_note_is_told_once() -> None:
    """A slot that stays without a runner does not fill the terminal."""
    tail = LogTail("s", 3)
    assert list(tail.note("no runner")) == ["s | (no runner)"]
    assert list(tail.note("no runner")) == []
    assert list(tail.note("another reason")) == ["s | (another reason)"]

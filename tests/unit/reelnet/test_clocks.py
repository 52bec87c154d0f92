"""How far a peer's clock is off, from what it says and when that came."""

from __future__ import annotations

import pytest

from reelnet.clocks import Skew, skew_text


@pytest.mark.parametrize("ahead_ms", [0, 61_000, -61_000])
def test_half_of_the_way_there_and_back_is_taken_off(ahead_ms: int) -> None:
    """Sent at 1000, answered at 1100 by a true clock, here at 1200; the next one took 100 too."""
    skew = Skew(1000)
    assert skew.seen(1100 + ahead_ms, 1200) == ahead_ms / 1000
    assert skew.seen(5000 + ahead_ms, 5100) == ahead_ms / 1000


def test_who_does_not_say_is_not_guessed() -> None:
    """Nor is a clock of this machine that jumped back taken for a way of less than no time."""
    assert Skew(1000).seen(None, 1200) is None
    assert Skew(1000).seen(900, 900) == 0


def test_a_lie_is_bounded() -> None:
    """Whatever a peer says of its clock, its tickets' times move by an hour at most."""
    assert Skew(0).seen(2**48, 0) == 3600
    assert Skew(2**48).seen(1, 2**48) == -3600


def test_it_is_said_in_words() -> None:
    """Which way, in whole seconds."""
    assert skew_text(61.4) == "its clock is 61 s ahead of this machine's"
    assert skew_text(-2.6) == "its clock is 3 s behind this machine's"

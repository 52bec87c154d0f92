"""What an operator sees of a broadcaster, at every width and in a pipe."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from broadcaster.operator.status import BroadcasterStatus, PoolNode, from_document, to_document
from broadcaster.operator.status_view import StatusView
from reelnet.operating.console import PIPE_COLUMNS

ID = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"
LONG = "acme/" + "a-model-with-a-name-that-does-not-end-" * 5
NODES = (
    PoolNode(ID, "127.0.0.1:8935", "up", "", 12.0, 0.1, 3, ("acme/sdxl", LONG)),
    PoolNode("127.0.0.1:8936", "127.0.0.1:8936", "down", "Connection refused", 3.0),
    PoolNode("b" + ID[1:], "127.0.0.1:8937", "refuses", f"it refuses this broadcaster: add the id {ID}", 9.0, 61.4),
)
STATUS = BroadcasterStatus(ID, "http://127.0.0.1:9935", "0.1.0", False, 93784.0, 3, "", 2, 0, 2.0, NODES)


def text(status: BroadcasterStatus, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(StatusView(status))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 76, 80, 120, 200])
def test_it_fits(width: int) -> None:
    """No line is wider than the terminal, and all that matters is there."""
    got = text(STATUS, width)
    assert max(cell_len(line) for line in got.splitlines()) <= width
    assert "3 jobs here, 1 of 3 nodes up, 2 keys" in got
    assert "serving" in got


def test_in_a_pipe_nothing_is_cut() -> None:
    """A long name is whole on one line, and lines are no longer than they must be."""
    lines = text(STATUS, PIPE_COLUMNS).splitlines()
    assert any(LONG in line for line in lines)
    assert max(map(len, lines)) < 500


def test_what_is_wrong_is_told_in_words() -> None:
    """Why a node is not up, and whose clock is off."""
    got = text(replace(STATUS, problem="no node is up"), 200)
    assert "! not ready: no node is up" in got
    assert "! 127.0.0.1:8936: Connection refused" in got
    assert f"! bhcz5zguzk: it refuses this broadcaster: add the id {ID}" in got
    assert "! bhcz5zguzk: its clock is 61 s ahead of this machine's; set both machines' clocks (NTP)" in got


def test_a_newer_status_is_read() -> None:
    """A field that is not known is left out; what is none is refused."""
    assert from_document({**to_document(STATUS), "colour": "red"}) == STATUS
    with pytest.raises(ValueError, match="not a broadcaster's status"):
        from_document({"url": 1})

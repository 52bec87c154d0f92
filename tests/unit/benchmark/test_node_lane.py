"""What a node says of one job, and when it says it."""

from __future__ import annotations

import pytest

from benchmark.arrival import Arrival
from benchmark.node_lane import Reception
from reelnet.jobs import Accepted, Done, Started
from tests.fakes.lanes import SimulatedClock


@pytest.mark.parametrize(("claimed_s", "held_s"), [(4.0, 3.005), (0.5, 3.0), (3.004, 3.004)])
def test_a_run_is_timed_by_this_clock(claimed_s: float, held_s: float) -> None:
    """From started to done as heard; the node's word makes it longer by what `started` may be held, never shorter."""
    clock = SimulatedClock()
    reception = Reception(Arrival(()), clock)
    for event, at in ((Accepted(0, 0.0, 1), 1.0), (Started(), 3.0), (Done({"run": claimed_s}, 1, "d"), 6.0)):
        clock.now = at
        reception.take(event)
    timings_s = reception.timings_s()
    assert timings_s["node_run"] == pytest.approx(held_s)
    assert [timings_s[stage] for stage in ("accept", "wait", "total", "run")] == [1.0, 2.0, 6.0, claimed_s]

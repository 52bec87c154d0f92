"""A short soak on true processes: faults of every kind, and every invariant kept."""

from __future__ import annotations

import pytest

from benchmark.soak import Plan, run_soak
from benchmark.soak_account import violations
from benchmark.soak_faults import Fault, draw

JOBS, EVERY, SEED = 40, 4, 1


@pytest.mark.timeout(120)
async def test_a_short_soak_keeps_every_invariant() -> None:
    """Runners, a node, jobs and clients fail, and each job still has one end that everybody agrees on."""
    assert {*draw(JOBS, EVERY, SEED).values()} == {*Fault}
    soaked = await run_soak(Plan(JOBS, EVERY, SEED, "process"))
    assert violations(soaked.facts) == []
    assert soaked.struck[Fault.NODE] == 1
    assert len(soaked.facts.rows) == JOBS
    assert [node.slots for node in soaked.facts.nodes] == [{"ready": 2}] * 2
    ends = {seen.fault: seen.end for seen in soaked.facts.seen}
    assert ends[Fault.POISON] == "poison"
    assert ends[Fault.OOM] == "oom"

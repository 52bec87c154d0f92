"""What a true node tells a crowd of jobs, through its broadcaster."""

from __future__ import annotations

import pytest

from benchmark import eta


@pytest.mark.timeout(120)
async def test_a_crowd_is_told_times_and_all_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten jobs for one slot: who waits is told how long, and who is refused comes again until it has a place."""
    monkeypatch.setattr(eta, "JOB_S", 0.2)
    found = await eta.measure(1)
    assert len(found.jobs) == 10
    assert sum(job.true_s > 0.1 for job in found.jobs) >= 3
    assert sum(job.told_s > 0 for job in found.jobs) >= 3
    assert any(job.refusals for job in found.jobs)

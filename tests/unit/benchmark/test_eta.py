"""What is made of the times that a node told, and whether they are good enough."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmark import eta
from benchmark.client import JobSpec
from benchmark.eta import Etas, Told
from reelnet.errors import BusyError, NodeError
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED, EXIT_USAGE

GOOD = Etas(2, [Told(0, 0, 0), Told(1, 1.5, 0), Told(2, 1.6, 1), Told(3, 3, 1)])


class Node:
    """Refuses so many times, then tells a time and keeps a job waiting for another one."""

    def __init__(self, refusals: int, told_s: float, true_s: float) -> None:
        self.refusals, self.told_s, self.true_s = refusals, told_s, true_s

    async def events(self, job: JobSpec) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """As a broadcaster streams them."""
        yield "job", {"id": "x"}
        if self.refusals:
            self.refusals -= 1
            raise BusyError("full", retry_after_s=0.01)
        yield "queued", {"position": 1, "eta_s": self.told_s}
        yield "queued", {"position": 0, "eta_s": 99}
        await asyncio.sleep(self.true_s)
        yield "started", {}
        yield "result", {}


async def test_a_job_comes_again_until_it_is_let_in() -> None:
    """The first time it is told counts, against the time until it starts."""
    told = await eta._told(Node(2, 0.5, 0.05), 1)  # type: ignore[arg-type]
    assert (told.refusals, told.told_s) == (2, 0.5)
    assert 0.05 <= told.true_s < 5
    with pytest.raises(NodeError):
        await eta._told(Node(10_000, 0.5, 0.0), 1)  # type: ignore[arg-type]


def test_jobs_that_did_not_wait_do_not_count() -> None:
    """A factor is over those that waited or were told to; too long and too short are equally wrong."""
    assert sorted(GOOD.ratios) == pytest.approx([1 / 1.5, 1, 1.25])
    assert GOOD.factor == pytest.approx(1.25)
    assert Etas(1, [Told(4, 1, 0)]).factor == Etas(1, [Told(1, 4, 0)]).factor == 4
    assert Etas(1, [Told(0, 3, 0)]).factor == pytest.approx(30), "an unforeseen wait counts"
    assert Etas(1, [Told(0, 0, 0)]).factor == 1


def test_a_return_in_vain_counts_each_time() -> None:
    """One of four returns found a place; where nobody is refused, nobody returned in vain."""
    assert Etas(1, [Told(1, 1, 4)]).let_in == 0.25
    assert Etas(1, [Told(1, 1, 0)]).let_in == 1
    assert GOOD.good
    assert not Etas(1, [Told(1, 1, 4)]).good
    assert not Etas(1, [Told(4, 1, 0)]).good


def test_the_report_has_the_distribution() -> None:
    """And one sentence; nothing is divided by nothing when no job waited."""
    out = io.StringIO()
    eta.show(GOOD, Console(width=120, file=out))
    eta.show(Etas(1, [Told(0, 0, 0)]), Console(width=120, file=out))
    assert "4 jobs at once, 2 slots: off by a factor of 1.25 at the median" in out.getvalue()
    assert "2 were refused and came again 2 times, 100% found a place" in out.getvalue()
    assert json.loads(json.dumps(eta.document(GOOD)))["let_in"] == 1


@pytest.mark.parametrize(("found", "code"), [(GOOD, EXIT_DONE), (Etas(1, [Told(9, 1, 0)]), EXIT_FAILED)])
def test_the_exit_code_says_whether_it_is_good(monkeypatch: pytest.MonkeyPatch, found: Etas, code: int) -> None:
    """1 where what a node says is not worth listening to."""

    async def measure(slots: int) -> Etas:
        return found

    monkeypatch.setattr(eta, "measure", measure)
    assert CliRunner().invoke(eta.cli, []).exit_code == code
    assert CliRunner().invoke(eta.cli, ["--slots", "0"]).exit_code == EXIT_USAGE

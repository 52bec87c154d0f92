"""Every edge, fuzzed with the same cases at each run; `python -m tests.fuzz` goes on with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.edges import EDGES
from tests.fuzz.engine import fuzz

CASES = {
    "watch": 120, "job": 40, "ticket": 80, "calls": 4, "reports": 60, "stream": 80, "book": 30, "requests": 20,
    "orders": 40, "files": 20,
}  # fmt: skip
"""So many take about a second each."""


def test_every_edge_is_fuzzed() -> None:
    """A new edge has its cases here too."""
    assert CASES.keys() == EDGES.keys()


@pytest.mark.parametrize("edge", EDGES)
async def test_no_case_is_a_finding(edge: str, tmp_path: Path) -> None:
    """Whatever comes is a bounded value or a refusal, in bounded time, and an honest peer is served on."""
    result = await fuzz(EDGES[edge], tmp_path, "repeatable", cases=CASES[edge])
    assert result.found == []
    assert result.cases == CASES[edge]

"""The life of an attempt at a node, whatever goes wrong in it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.orchestrator.test_attempts import TICKET
from tests.unit.orchestrator.test_operation import home, model, office, quick

__all__ = ["home", "quick"]
KEY = ("b", "j", 1)


class Faulty:
    """An attempt that raises what nobody foresaw, in one of its steps."""

    ticket = TICKET
    quote = 0

    def __init__(self, step: str) -> None:
        self.failure: Any = None
        self.acknowledged = asyncio.Event()
        self.steps: list[str] = []
        self._faulty = step

    async def run(self) -> None:
        self._do("run")

    async def delivered(self) -> None:
        self._do("delivered")

    def erase(self) -> None:
        self._do("erase")

    def _do(self, step: str) -> None:
        self.steps.append(step)
        if step == self._faulty:
            raise ZeroDivisionError("nobody foresaw this")


@pytest.mark.parametrize("step", ["run", "delivered", "erase"])
async def test_a_fault_in_one_attempt_ends_that_attempt(home: Path, step: str) -> None:
    """It is logged, its ticket is used up, its bytes are erased, and the node goes on."""
    async with office(home, model()) as at:
        attempt: Any = Faulty(step)
        await at.until(lambda: at.node._tasks)
        assert at.node._tasks
        with capture_logs() as logs:
            task = at.node._tasks.create_task(at.node._live(KEY, attempt))
            at.node._attempts[KEY] = (attempt, task)
            await asyncio.wait([task])
        assert task.exception() is None
        assert attempt.steps == ["run", "delivered", "erase"]
        assert (attempt.failure and attempt.failure.code) == ("internal" if step == "run" else None)
        assert [entry["job"] for entry in logs if entry["log_level"] == "error"] == ["j"]
        assert at.node.attempts() == []
        assert KEY in at.node._closed
        await at.until(lambda: at.node.not_ready() is None)

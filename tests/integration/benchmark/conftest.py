"""Fixtures of the benchmark's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """How busy the machine is does not matter here, and listening for it takes half a second."""
    monkeypatch.setattr("benchmark.machine.LISTEN_S", 0.01)

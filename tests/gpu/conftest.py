"""Tests that need a card are skipped where there is none."""

from __future__ import annotations

import pytest

from tests.gpu.families import DEVICE


def pytest_runtest_setup(item: pytest.Item) -> None:
    """By their mark; a device that was named for trying is taken at its word."""
    if item.get_closest_marker("gpu") and DEVICE == "cuda":
        torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

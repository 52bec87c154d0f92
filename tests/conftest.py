"""Fixtures of every tier."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
# Properties are checked with the same examples at each run, however slow the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In CI nothing that belongs to `make test` is skipped: a missing tool is a failure, not a pass."""
    if os.environ.get("CI") == "true":
        for item in items:
            item.add_marker(pytest.mark.usefixtures("no_skips"))


@pytest.fixture
def no_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes pytest.skip a failure."""

    def refuse(reason: str = "", **_: object) -> None:
        pytest.fail(f"skipped in CI: {reason}")

    monkeypatch.setattr(pytest, "skip", refuse)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny random-weight models, made once."""
    from runner.models.tiny import make_all

    folder = tmp_path_factory.mktemp("models")
    make_all(folder)
    return folder

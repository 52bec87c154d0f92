"""Fixtures of every tier."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Properties are checked with the same examples at each run, however slow the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing that belongs to `make test` is skipped: a missing tool is a failure, not a pass."""
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Nor is a whole file."""
    return _no_skip((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _no_skip(report: Report) -> Report:
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be skipped: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return " ".join(str(reason).removeprefix("Skipped: ").split())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says why tests were skipped, a line for each, in the file that `scripts/test` sums up."""
    file = os.environ.get("REELNET_TEST_SKIPS")
    reports = terminalreporter.stats.get("skipped", [])
    if file and reports and not hasattr(config, "workerinput"):  # a worker's are told by who gave it the tests
        with Path(file).open("a", encoding="utf-8") as skips:
            skips.writelines(f"{_reason(report)}\n" for report in reports)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny random-weight models, made once."""
    from runner.models.tiny import make_all

    folder = tmp_path_factory.mktemp("models")
    make_all(folder)
    return folder

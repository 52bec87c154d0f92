"""What a command says of a module that is not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reelnet import console

METADATA = ["pyyaml>=6", "no-such-thing>=1; extra == 'runner'", "pytest>=8; extra == 'benchmark'"]


@pytest.fixture(autouse=True)
def metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has all of one extra, and not of another one."""
    monkeypatch.setattr(console, "requires", lambda name: METADATA)


def lacking(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Has every command fail for want of a module."""

    def load(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(console.importlib, "import_module", load)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, one line, and the line that installs it."""
    lacking(monkeypatch, "fastapi.routing")
    with pytest.raises(SystemExit) as caught:
        console.runner()
    assert caught.value.code == 3
    said = capsys.readouterr().err
    assert said.startswith("error: runner needs fastapi, which is not installed: pip install 'reelnet[runner]'")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("command", "module"), [(console.runner, "runner.no_such"), (console.benchmark, "httpx")])
def test_another_fault_stays_a_traceback(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], module: str
) -> None:
    """A module of our own that is not there, or one that no extra would bring, is a fault of ours."""
    lacking(monkeypatch, module)
    with pytest.raises(ModuleNotFoundError, match=module):
        command()


def test_extras_are_asked_for_by_what_they_bring() -> None:
    """Only the one that lacks something, in the order that was asked."""
    assert console.missing_extras("benchmark", "runner") == ("runner",)
    assert console.missing_extras("benchmark") == ()

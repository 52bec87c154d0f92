"""The console commands, and what they say where the extra that brings their libraries is not installed."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires

from reelnet.lifecycle import EXIT_CANNOT_START

OWN = frozenset({"reelnet", "broadcaster", "orchestrator", "runner", "benchmark"})
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*;.*\bextra == ['\"]([\w-]+)['\"]")
"""A requirement of an extra in the package's metadata: the distribution's name, and the extra."""


def broadcaster() -> None:
    """The command `broadcaster`."""
    _command("broadcaster")


def orchestrator() -> None:
    """The command `orchestrator`."""
    _command("orchestrator")


def runner() -> None:
    """The command `runner`."""
    _command("runner")


def benchmark() -> None:
    """The command `benchmark`."""
    _command("benchmark")


def missing_extras(*extras: str) -> tuple[str, ...]:
    """Those of which a distribution is not installed; none where this package itself is not."""
    try:
        wanted = [found.groups() for line in requires("reelnet") or () if (found := _REQUIREMENT.match(line))]
    except PackageNotFoundError:
        return ()
    lacking = {extra for name, extra in wanted if extra in extras and not _is_installed(name)}
    return tuple(extra for extra in extras if extra in lacking)


def installation(*extras: str) -> str:
    """How to install extras, as one line for a shell."""
    names = ",".join(extras)
    return f"pip install 'reelnet[{names}]' (in a clone: pip install '.[{names}]')"


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _command(component: str) -> None:
    """Runs a component's command; exit code 3 where a module of its extra is missing."""
    try:
        importlib.import_module(f"{component}.cli").main()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in OWN or not missing_extras(component):
            raise
        sys.stderr.write(f"error: {component} needs {module}, which is not installed: {installation(component)}\n")
        sys.exit(EXIT_CANNOT_START)

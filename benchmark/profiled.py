"""Runs a module under a profiler: `python -m benchmark.profiled FOLDER NAME MODULE ARGS…`.

The profile is that of the main thread's CPU time between SIGUSR1 and SIGUSR2, so that neither start nor stop is in it.
FOLDER gets NAME-PID.ready at the start, and NAME-PID.pstats and .json at the end. A runner that the module starts is
run in the same way.
"""

from __future__ import annotations

import cProfile
import json
import os
import runpy
import shlex
import signal
import sys
import time
from pathlib import Path

SHIM = """#!/bin/sh
if [ "$1 $2" = "-m runner.cli" ]; then
  shift 2
  exec {python} -P -m benchmark.profiled {folder} runner runner.cli "$@"
fi
exec {python} "$@"
"""
"""Stands for the interpreter where the module starts others."""


class Recorder:
    """A profile between two signals."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._profile = cProfile.Profile(time.thread_time)
        self._began = (0.0, 0.0)

    def listen(self) -> None:
        """Takes the signals from now on, and says so."""
        signal.signal(signal.SIGUSR1, lambda *_: self.begin())
        signal.signal(signal.SIGUSR2, lambda *_: self.end())
        self._stem.with_suffix(".ready").touch()

    def begin(self) -> None:
        """Begins to count."""
        self._began = _clocks()
        self._profile.enable()

    def end(self) -> None:
        """Writes what was counted: the profile, then the CPU seconds of the main thread and of the process."""
        self._profile.disable()
        thread_s, process_s = (now - then for now, then in zip(_clocks(), self._began, strict=True))
        self._profile.dump_stats(self._stem.with_suffix(".pstats"))
        partial = self._stem.with_suffix(".partial")
        partial.write_text(json.dumps({"thread_s": thread_s, "process_s": process_s}), "utf-8")
        partial.replace(self._stem.with_suffix(".json"))


def _clocks() -> tuple[float, float]:
    return time.thread_time(), time.process_time()


def _shim(folder: Path) -> Path:
    """A program that runs Python, and a runner under this module."""
    path = folder / f"python-{os.getpid()}"
    path.write_text(SHIM.format(python=shlex.quote(sys.executable), folder=shlex.quote(str(folder))), "utf-8")
    path.chmod(0o700)
    return path


def main() -> None:
    """Becomes the module."""
    folder, name, module, *arguments = sys.argv[1:]
    Recorder(Path(folder, f"{name}-{os.getpid()}")).listen()
    sys.executable = str(_shim(Path(folder)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

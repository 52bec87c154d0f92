"""How a component's process starts and ends: signals, exit codes, and the file that says where it answers.

A service manager that started the process is told as well.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

from reelnet import notify
from reelnet.errors import ConfigError, StartError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CANNOT_START = 3
EXIT_FORCED = 130
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD_BYTES = 16 * 2**20
KEPT_BYTES = 64 * 2**20
GC_THRESHOLDS = (20_000, 20, 50)
READY_FILE = "ready.json"
STOPPING = (signal.SIGTERM, signal.SIGINT)

Main = Callable[[asyncio.Event], Awaitable[None]]


def run(main: Main) -> int:
    """Runs `main` until it returns; gives the exit code.

    The first SIGTERM or Ctrl-C sets the event that `main` gets, so that it drains; a second one ends the process at
    once with 130. A ConfigError ends with 2, a StartError with 3, each as one message on standard error.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(main))
    except (ConfigError, StartError) as error:
        return report(error)
    except BaseExceptionGroup as group:
        known = _only_known(group)
        if not known:
            raise
        return max(report(error) for error in known)
    return EXIT_DONE


def report(error: ConfigError | StartError) -> int:
    """Prints what an operator has to do; gives the exit code."""
    sys.stderr.write(f"error: {error}\n")
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_CANNOT_START


async def _main(main: Main) -> None:
    stopping = asyncio.Event()
    settle_memory()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(EXIT_FORCED)
        notify.stopping()
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, on_signal)
    if (interval_s := notify.watchdog_interval_s()) is not None:
        _feed_watchdog(loop, interval_s)
    try:
        await main(stopping)
    finally:
        for number in STOPPING:  # while the loop is open: once it is closed, its handler would stay and do nothing
            loop.remove_signal_handler(number)


def _feed_watchdog(loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
    """Says now and every `interval_s` that the process lives, for as long as its event loop turns."""
    notify.watchdog()
    loop.call_later(interval_s, _feed_watchdog, loop, interval_s)


def settle_memory() -> None:
    """Leaves what a component has loaded out of every later collection, and collects less often.

    A job makes some thousand small objects, few of them in cycles; the default looks at all of them after every 700.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Has the C library keep memory for the next megabyte: to get fresh pages costs more than to fill them.

    Where there is no such library nothing changes. See mallopt(3).
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _only_known(group: BaseExceptionGroup[BaseException]) -> list[ConfigError | StartError]:
    """The operator's errors in a group that holds nothing else; otherwise none."""
    known, other = group.split((ConfigError, StartError))
    return [] if other or known is None else list(_leaves(known))


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Any]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


@contextmanager
def ready_file(folder: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """For the length of the block `folder`/ready.json says where the component answers, and its pid."""
    path = _write_ready(folder, facts)
    notify.ready()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _write_ready(folder: Path, facts: dict[str, Any]) -> Path:
    """Whole or not at all."""
    path = folder / READY_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**facts, "pid": os.getpid()}) + "\n", "utf-8")
    partial.replace(path)
    return path

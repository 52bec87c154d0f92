"""SIGHUP: a component reads its configuration again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from reelnet import notify
from reelnet.errors import ConfigError

Reload = Callable[[], Awaitable[tuple[str, ...]]]
log = structlog.get_logger()


class Hangups:
    """Counts SIGHUPs from the start of the process on, so that none ends it, and reloads once it can.

    `follow` is given the component's reload when it serves; a signal that came earlier is acted on then.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._reload: asyncio.Future[Reload] = asyncio.get_running_loop().create_future()

    def follow(self, reload: Reload) -> None:
        """From now on a signal calls `reload`."""
        self._reload.set_result(reload)

    async def run(self) -> None:
        """Reloads at each signal, until canceled; several at once are one."""
        reload = await self._reload
        while True:
            await self._asked.wait()
            self._asked.clear()
            notify.reloading()
            try:
                log.info("configuration reloaded", changed=await reload())
            except ConfigError as error:
                log.warning("configuration not reloaded: nothing is changed", reason=str(error))
            except Exception:  # outermost: a signal must not take the component down
                log.exception("the reload failed by a fault of this program")
            finally:
                notify.ready()

    def ask(self) -> None:
        """What the signal does."""
        self._asked.set()


@asynccontextmanager
async def hangups() -> AsyncIterator[Hangups]:
    """Takes SIGHUP for the length of the block, and acts on it in a task of its own."""
    loop = asyncio.get_running_loop()
    taken = Hangups()
    loop.add_signal_handler(signal.SIGHUP, taken.ask)
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(taken.run(), name="hangups")
            try:
                yield taken
            finally:
                task.cancel()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)

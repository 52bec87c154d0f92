"""The operator's word that outlives a restart of the node: that it is drained. It stands in `node.db`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy import BigInteger, Column, Engine, MetaData, Table, Text, delete, insert, select

from reelnet.database.faults import DATABASE_ERRORS
from reelnet.database.migrations import Schema
from reelnet.database.opening import database_url, open_database, start_errors

DRAINED = "drained"
FILE = "node.db"
NOT_KEPT = "the operator's word will not survive a restart: free space in the node's state folder, and say it again"
log = structlog.get_logger()

metadata = MetaData()
words = Table(
    "operator_words",
    metadata,
    Column("word", Text, primary_key=True),
    Column("said_ms", BigInteger, nullable=False),
)
SCHEMA = Schema("node", metadata, Path(__file__).with_name("migrations"))


class OperatorWord:
    """Keeps the newest word, behind and off the event loop. `drained` is what was kept when the node began.

    What cannot be written is told in the log, and counts until the node ends.
    """

    def __init__(self, engine: Engine, *, drained: bool) -> None:
        self._engine = engine
        self._said: bool | None = None
        self._news = asyncio.Event()
        self._closing = False
        self.drained = drained

    def say(self, drained: bool) -> None:
        """The operator has drained the node, or has it take jobs again."""
        self._said = drained
        self._news.set()

    def close(self) -> None:
        """Has `run` return when all is written."""
        self._closing = True
        self._news.set()

    async def run(self) -> None:
        """Writes each word, until it is closed."""
        while self._said is not None or not self._closing:
            await self._news.wait()
            self._news.clear()
            if self._said is not None:
                said, self._said = self._said, None
                await self._keep(said)

    async def _keep(self, drained: bool) -> None:
        try:
            await asyncio.to_thread(self._write, drained)
        except DATABASE_ERRORS as error:
            reason = str(error.__cause__ or error)
            log.warning(NOT_KEPT, drained=drained, file=str(self._engine.url.database), error=reason)

    def _write(self, drained: bool) -> None:
        with self._engine.begin() as connection:
            connection.execute(delete(words).where(words.c.word == DRAINED))
            if drained:
                connection.execute(insert(words).values(word=DRAINED, said_ms=time.time_ns() // 1_000_000))


@asynccontextmanager
async def operator_word(folder: Path) -> AsyncIterator[OperatorWord]:
    """The word in a node's state folder; `run` has to have ended before the block does. Raises StartError."""
    engine, drained = await asyncio.to_thread(_open, folder)
    try:
        yield OperatorWord(engine, drained=drained)
    finally:
        await asyncio.to_thread(engine.dispose)


def _open(folder: Path) -> tuple[Engine, bool]:
    engine = open_database(database_url("sqlite", folder / FILE), SCHEMA)
    try:
        with start_errors(engine, SCHEMA), engine.connect() as connection:
            return engine, connection.execute(select(words).where(words.c.word == DRAINED)).first() is not None
    except BaseException:
        engine.dispose()
        raise

"""The operator's word outlives the node's process; that it stops is not the operator's word."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from orchestrator.operator_word import OperatorWord, operator_word
from reelnet.errors import StartError


@asynccontextmanager
async def writing(folder: Path) -> AsyncIterator[OperatorWord]:
    """A word, and the task that writes it."""
    async with operator_word(folder) as word, asyncio.TaskGroup() as tasks:
        tasks.create_task(word.run())
        yield word
        word.close()


def kept_words(folder: Path) -> list[tuple[str]]:
    """What another program reads."""
    with closing(sqlite3.connect(folder / "node.db")) as file:
        return file.execute("SELECT word FROM operator_words").fetchall()


async def test_a_word_is_there_at_the_next_start(tmp_path: Path) -> None:
    """Also one that was said just before the end, and the newest of several."""
    for said, kept in (((), False), ((True,), True), ((), True), ((True, False), False), ((False, True, True), True)):
        async with writing(tmp_path) as word:
            for drained in said:
                word.say(drained)
        async with operator_word(tmp_path) as word:
            assert word.drained is kept


async def test_a_word_is_written_while_the_node_runs(tmp_path: Path) -> None:
    """A killed node has it too."""
    async with writing(tmp_path) as word:
        word.say(True)
        async with asyncio.timeout(10):
            while not kept_words(tmp_path):
                await asyncio.sleep(0.001)
        assert kept_words(tmp_path) == [("drained",)]


async def test_a_word_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """It counts until the node ends, and the next one is tried again."""
    async with operator_word(tmp_path) as word:
        event.listen(word._engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA query_only=1"))
        with capture_logs() as said:
            word.say(True)
            word.close()
            await word.run()
    assert [line["log_level"] for line in said] == ["warning"]
    assert "will not survive a restart: free space" in said[0]["event"]
    assert (said[0]["drained"], "readonly" in said[0]["error"]) == (True, True)
    async with operator_word(tmp_path) as word:
        assert not word.drained


async def test_a_damaged_file_starts_no_node(tmp_path: Path) -> None:
    """It could say that the node is drained."""
    (tmp_path / "node.db").write_bytes(b"\xaa" * 8192)
    with pytest.raises(StartError, match=r"node: .*/node\.db is no database of SQLite"):
        async with operator_word(tmp_path):
            raise AssertionError("it started")


@pytest.mark.parametrize("component", ["orchestrator", "broadcaster"])
def test_a_command_that_needs_no_database_imports_none(component: str) -> None:
    """`--help` answers before SQLAlchemy would have been read."""
    code = f"import sys, {component}.cli; sys.exit(bool({{'sqlalchemy', 'alembic'}} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0

"""A database lives on: one that is older is migrated and loses nothing, any other that is not ours is told as such."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, Text, inspect, make_url, text
from sqlalchemy.exc import OperationalError

from broadcaster import journal_schema
from orchestrator import operator_word
from reelnet.database.faults import told
from reelnet.database.migrations import Schema
from reelnet.database.opening import database_url, open_database
from reelnet.errors import ConfigError, StartError
from reelnet.lifecycle import EXIT_CANNOT_START, report

FIRST = """
from sqlalchemy import Column, Integer, Text
revision, down_revision = "1", None
def upgrade(op):
    op.create_table("things", Column("id", Text, primary_key=True))
"""
SECOND = """
from sqlalchemy import Column, Integer, Text
revision, down_revision = "2", "1"
def upgrade(op):
    op.add_column("things", Column("size", Integer))
    op.create_index("things_by_size", "things", ["size"])
"""
KILLED = SECOND + "    import os; os._exit(9)\n"
OPENS = """
import sys
from tests.unit.reelnet.test_database import opened
opened(*sys.argv[1:])
"""


def schema(tmp_path: Path, *versions: str) -> Schema:
    """The schema `things` in so many versions."""
    folder = tmp_path / f"migrations-{len(versions)}-{hash(versions)}"
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    for number, version in enumerate(versions, 1):
        (folder / "versions" / f"v{number}.py").write_text(version)
    columns = [Column("id", Text, primary_key=True), Column("size", Integer)][: len(versions)]
    metadata = MetaData()
    Table("things", metadata, *columns)
    return Schema("test", metadata, folder, first=frozenset({"things"}))


def sqlite_url(tmp_path: Path) -> str:
    return database_url("sqlite", tmp_path / "things.db")


def opened(folder: str, *versions: str) -> None:
    """What another process does."""
    open_database(sqlite_url(Path(folder)), schema(Path(folder), *versions)).dispose()


def written(tmp_path: Path, *ids: str, versioned: bool = True) -> Path:
    """A file of version 1 with rows."""
    path = tmp_path / "things.db"
    if versioned:
        opened(str(tmp_path), FIRST)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE IF NOT EXISTS things (id TEXT PRIMARY KEY)")
        file.executemany("INSERT INTO things (id) VALUES (?)", [(name,) for name in ids])
        file.commit()
    return path


def look(path: Path, query: str) -> list[tuple[object, ...]]:
    """What another program reads in a file."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        return file.execute(query).fetchall()


def refusal(tmp_path: Path, *versions: str) -> str:
    """The message with which a database is not opened."""
    with pytest.raises(StartError) as caught:
        open_database(sqlite_url(tmp_path), schema(tmp_path, *versions))
    return str(caught.value)


def test_a_new_file_has_every_version(tmp_path: Path) -> None:
    """It is made by the same migrations as an old one, and nothing is copied."""
    engine = open_database(sqlite_url(tmp_path), schema(tmp_path, FIRST, SECOND))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM schema_version")).all() == [("2",)]
        assert [index["name"] for index in inspect(connection).get_indexes("things")] == ["things_by_size"]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()
    assert not list(tmp_path.glob("things.db.*"))


@pytest.mark.parametrize("versioned", [True, False])
def test_an_older_file_keeps_its_rows(tmp_path: Path, versioned: bool) -> None:
    """Also one from before there were versions; a copy of what it was lies beside it, and stays."""
    path = written(tmp_path, "a", "b", versioned=versioned)
    path.chmod(0o600)
    for _ in range(2):
        opened(str(tmp_path), FIRST, SECOND)
    assert look(path, "SELECT id, size FROM things") == [("a", None), ("b", None)]
    assert look(path, "SELECT version_num FROM schema_version") == [("2",)]
    copy = tmp_path / "things.db.v1"
    assert look(copy, "SELECT * FROM things") == [("a",), ("b",)]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.glob("*.db*")) == ["things.db", "things.db.v1"]


@pytest.mark.parametrize("versioned", [True, False])
def test_a_kill_in_the_middle_leaves_the_old_version(tmp_path: Path, versioned: bool) -> None:
    """Whatever the migration had done is undone; the next start does it from the beginning."""
    path = written(tmp_path, "a", versioned=versioned)
    killed = subprocess.run([sys.executable, "-c", OPENS, str(tmp_path), FIRST, KILLED], env=_environment())
    assert killed.returncode == 9
    assert look(path, "SELECT * FROM things") == [("a",)]
    assert look(path, "SELECT count(*) FROM sqlite_master WHERE name = 'things_by_size'") == [(0,)]
    opened(str(tmp_path), FIRST, SECOND)
    assert look(path, "SELECT id, size FROM things") == [("a", None)]


def test_two_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    """The second one waits, and finds nothing left to do: a column that is added twice would be an error."""
    path = written(tmp_path, "a")
    url, things = sqlite_url(tmp_path), schema(tmp_path, FIRST, SECOND)
    together, failures = threading.Barrier(4), []

    def start() -> None:
        together.wait()
        try:
            open_database(url, things).dispose()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert look(path, "SELECT version_num FROM schema_version") == [("2",)]


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """Who wrote it can read it: the message says which version it has, which is known, and what helps."""
    opened(str(tmp_path), FIRST, SECOND)
    before = (tmp_path / "things.db").read_bytes()
    said = refusal(tmp_path, FIRST)
    where = f"test: {tmp_path}/things.db"
    assert said.startswith(f"{where} has version 2 of its schema, this program knows 1; install the newer reelnet")
    assert "or restore the copy that was kept beside it" in said
    assert (tmp_path / "things.db").read_bytes() == before
    assert not (tmp_path / "things.db.v2").exists()


def test_a_version_that_is_no_number(tmp_path: Path) -> None:
    """Nothing is guessed of it."""
    path = written(tmp_path, "a")
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE schema_version SET version_num = 'x7'")
        file.commit()
    assert "has version x7 of its schema" in refusal(tmp_path, FIRST)


@pytest.mark.parametrize("component", [journal_schema.SCHEMA, operator_word.SCHEMA], ids=lambda schema: schema.what)
def test_migrations_end_where_the_tables_begin(tmp_path: Path, component: Schema) -> None:
    """What a component's migrations make is what its statements are written for: columns, types and indexes."""
    engine = open_database(sqlite_url(tmp_path), component)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "schema_version"})
        assert compare_metadata(context, component.metadata) == []
    engine.dispose()


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """It is told as such, and the program that wrote the file goes on with it."""
    path = written(tmp_path, "a")
    said = refusal(tmp_path, FIRST, SECOND + "    op.drop_table('absent')\n")
    assert "go on with the reelnet that wrote it" in said
    assert "no such table: absent" in said
    assert look(path, "SELECT * FROM things") == [("a",)]
    opened(str(tmp_path), FIRST)


def test_without_a_copy_nothing_is_migrated(tmp_path: Path) -> None:
    """Where its place is taken by a folder, and so on a full disk."""
    path = written(tmp_path, "a")
    (tmp_path / "things.db.v1").mkdir()
    said = refusal(tmp_path, FIRST, SECOND)
    assert f"no copy of {path} can be kept as {path}.v1" in said
    assert "free " in said
    assert look(path, "SELECT * FROM things") == [("a",)]
    assert not (tmp_path / "things.db.v1.partial").exists()


def test_what_is_no_database(tmp_path: Path) -> None:
    """It is somebody's file, and stays."""
    (tmp_path / "things.db").write_bytes(b"no database " * 1000)
    said = refusal(tmp_path, FIRST)
    assert said.startswith(f"test: {tmp_path}/things.db is no database of SQLite")
    assert "restore your copy of it, or move it away (with its -wal and -shm) and a new one is begun" in said
    assert (tmp_path / "things.db").read_bytes().startswith(b"no database")


def test_a_damaged_file(tmp_path: Path) -> None:
    """Found by a look at the whole file, before anything is written."""
    path = written(tmp_path, *(f"{number:0100}" for number in range(1000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xaa" * (len(whole) - 4096))
    assert f"test: {path} is damaged; restore your copy of it" in refusal(tmp_path, FIRST, SECOND)
    assert not (tmp_path / "things.db.v1").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """No folder is made for it."""
    with pytest.raises(StartError, match=r"cannot be opened; see that its folder exists, and that this user may write"):
        open_database(database_url("sqlite", tmp_path / "gone" / "x.db"), schema(tmp_path, FIRST))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """Not even when there is nothing to migrate: rows would be lost later."""
    opened(str(tmp_path), FIRST)
    url = f"sqlite:///file:{tmp_path}/things.db?mode=ro&uri=true"
    with pytest.raises(StartError, match="cannot be written; see that its folder exists"):
        open_database(url, schema(tmp_path, FIRST))


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_FULL, "free space on its disk"),
        (sqlite3.SQLITE_IOERR | 3 << 8, "see to its disk"),
        (sqlite3.SQLITE_BUSY, "end the other program that has it open"),
        (99, "report it, with this line (a text)"),
    ],
)
def test_each_fault_has_its_advice(code: int, advice: str) -> None:
    """By SQLite's own code, never by a text."""
    cause = sqlite3.OperationalError("a text")
    cause.sqlite_errorcode = code
    error = told(OperationalError("SELECT", {}, cause), "test", make_url("sqlite:////x.db"))
    assert advice in str(error)
    assert report(error) == EXIT_CANNOT_START


def test_a_password_stands_in_no_message() -> None:
    """The URL is shown without it."""
    error = OperationalError("SELECT", {}, Exception("no route to host"))
    said = str(told(error, "test", make_url("postgresql+psycopg://me:secret@h/d")))
    assert said == "test: postgresql+psycopg://me:***@h/d cannot be used: no route to host; see `database`"


def test_a_missing_driver(tmp_path: Path) -> None:
    """The message names the package."""
    with pytest.raises(StartError, match=r"postgresql\+psycopg needs the package psycopg; install it"):
        open_database(database_url("postgresql://u@h/d", tmp_path), schema(tmp_path, FIRST))


def test_database_urls(tmp_path: Path) -> None:
    """`sqlite` is a file of the instance; PostgreSQL goes through psycopg; the rest is refused."""
    assert database_url("sqlite", tmp_path / "x.db") == f"sqlite:///{tmp_path}/x.db"
    for name in ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"):
        assert database_url(name, tmp_path) == "postgresql+psycopg://u@h/d"
    for name in ("mysql://h/d", "postgres", "postgresql://"):
        with pytest.raises(ConfigError, match="postgresql://"):
            database_url(name, tmp_path)
    with pytest.raises(ConfigError, match="no URL of a database"):
        open_database("postgresql+psycopg://h:port/d", schema(tmp_path, FIRST))


def _environment() -> dict[str, str]:
    """This process's, with the modules that it imports from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

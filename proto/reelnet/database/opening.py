"""Opens a component's database: whole, in the newest version, or with one message that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError

from reelnet.database.faults import DATABASE_ERRORS, check_whole, told
from reelnet.database.migrations import BEGIN_MODE, Schema, migrate, versions
from reelnet.errors import ConfigError, StartError


def database_url(database: str, file: Path) -> str:
    """The URL of a `database` setting: `sqlite` is `file`. Raises ConfigError."""
    if database == "sqlite":
        return f"sqlite:///{file}"
    scheme, _, rest = database.partition("://")
    if scheme in {"postgresql", "postgresql+psycopg"} and rest:
        return f"postgresql+psycopg://{rest}"
    raise ConfigError('database: expected "sqlite" or a postgresql:// URL')


def open_database(url: str, schema: Schema) -> Engine:
    """The engine of a database that is whole and has this program's version of the schema.

    A file of SQLite is made when it is missing, and copied before it is migrated. Raises ConfigError for a URL that is
    none, StartError for whatever else keeps the database from being used.
    """
    engine = _engine(url, schema)
    try:
        with start_errors(engine, schema):
            if engine.dialect.name == "sqlite":
                check_whole(engine)
            migrate(engine, schema)
    except BaseException:
        engine.dispose()
        raise
    return engine


def looked_at(file: Path, schema: Schema) -> tuple[int, int]:
    """The version of a file of SQLite, and this program's; the whole file is read, and nothing is changed.

    Raises StartError for what would keep the database from being used.
    """
    engine = create_engine(f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true")
    try:
        with start_errors(engine, schema):
            check_whole(engine)
            return versions(engine, schema)
    finally:
        engine.dispose()


@contextmanager
def start_errors(engine: Engine, schema: Schema) -> Iterator[None]:
    """What the database refuses in the block is raised as StartError."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise told(error, schema.what, engine.url) from error


def _engine(url: str, schema: Schema) -> Engine:
    try:
        engine = create_engine(url)
    except ModuleNotFoundError as error:
        scheme = url.partition(":")[0]
        raise StartError(f"{schema.what}: {scheme} needs the package {error.name}; install it") from None
    except (ArgumentError, ValueError):
        raise ConfigError("database: no URL of a database; expected postgresql://USER@HOST:PORT/NAME") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _tune_sqlite(connection: Any, _: object) -> None:
    """WAL lets readers and the writer work together; FULL makes a commit survive a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Python's driver by itself begins no transaction before a change of the schema."""
    connection.exec_driver_sql(connection.get_execution_options().get(BEGIN_MODE, "BEGIN"))

"""Brings a database to this program's version of its schema, in one transaction; nothing of it is kept half done.

A version is a whole number, a revision of Alembic by that name. It stands in the table `schema_version`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import ColumnClause, Connection, Engine, MetaData, column, func, inspect, select, table, update

from reelnet.database.copies import keep_copy
from reelnet.database.faults import place
from reelnet.errors import StartError, printable

BEGIN_MODE = "sqlite_begin"
"""Execution option: the statement that begins a transaction of SQLite."""
VERSION_TABLE = "schema_version"
ADVISORY_LOCK = 0x5245454C
"""The number of PostgreSQL's lock that whoever migrates holds ("REEL")."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schema:
    """A component's tables, and how they came about: `migrations` is the folder that holds `versions`.

    `what` is the database's name in messages. A database that has the tables `first` and no version has version 1.
    """

    what: str
    metadata: MetaData
    migrations: Path
    first: frozenset[str] = frozenset()


def migrate(engine: Engine, schema: Schema) -> None:
    """Makes the tables, or changes those that are there; one process at a time, for a second one nothing is left.

    Raises StartError for a database of a newer program, or one that has not the tables that its version says.
    """
    with engine.connect().execution_options(**{BEGIN_MODE: "BEGIN IMMEDIATE"}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        script = ScriptDirectory(schema.migrations)
        version, newest = _version(connection, schema), int(script.get_current_head() or 0)
        if version > newest:
            raise _too_new(engine, schema, str(version), newest)
        context = _context(connection, script)
        if version and not context.get_current_revision():
            context.stamp(script, str(version))
        if version < newest:
            _upgrade(context, schema, version, newest)
        _prove_writable(connection)
        _check_columns(connection, schema)


def versions(engine: Engine, schema: Schema) -> tuple[int, int]:
    """A database's version, 0 where nothing of the schema is in it, and this program's. Changes nothing.

    Raises StartError for a newer one.
    """
    newest = int(ScriptDirectory(schema.migrations).get_current_head() or 0)
    with engine.connect() as connection:
        version = _version(connection, schema)
    if version > newest:
        raise _too_new(engine, schema, str(version), newest)
    return version, newest


def _upgrade(context: MigrationContext, schema: Schema, version: int, newest: int) -> None:
    connection = context.connection
    assert connection is not None
    if version and connection.dialect.name == "sqlite":
        keep_copy(connection.engine, schema.what, version)
    context.run_migrations(op=Operations(context))
    log.info("database migrated", database=schema.what, before=version, now=newest)


def _prove_writable(connection: Connection) -> None:
    """A disk that is full, or a file that may only be read, is found now and not with the first row."""
    version: ColumnClause[str] = column("version_num")
    connection.execute(update(table(VERSION_TABLE, version)).values({version: version}))


def _context(connection: Connection, script: ScriptDirectory | None = None) -> MigrationContext:
    """Alembic's, inside the connection's own transaction. A migration gets its operations as an argument."""
    opts = {
        "version_table": VERSION_TABLE,
        "fn": lambda revision, _: script._upgrade_revs("head", revision) if script else [],
    }
    return MigrationContext.configure(connection, opts=opts)


def _version(connection: Connection, schema: Schema) -> int:
    """The database's version; 0 for one that holds nothing of the schema."""
    if found := _context(connection).get_current_revision():
        if not found.isdecimal():
            raise _too_new(connection.engine, schema, printable(found, 40), 0)
        return int(found)
    return 1 if schema.first and schema.first <= set(inspect(connection).get_table_names()) else 0


def _check_columns(connection: Connection, schema: Schema) -> None:
    """Every column that rows are written to is there; else each commit would lose its rows."""
    found = inspect(connection)
    for expected in schema.metadata.sorted_tables:
        name = expected.name
        there = {column["name"] for column in found.get_columns(name)} if found.has_table(name) else set()
        if missing := sorted({column.name for column in expected.c} - there):
            where = f"{schema.what}: {place(connection.engine.url)}: table {name}"
            raise StartError(
                f"{where} has no column {', '.join(missing)}, although its version says so; "
                "restore your copy of it, or move it away and a new one is begun"
            )


def _too_new(engine: Engine, schema: Schema, version: str, newest: int) -> StartError:
    where = f"{schema.what}: {place(engine.url)}"
    known = f"this program knows {newest or 'none of that name'}"
    return StartError(
        f"{where} has version {version} of its schema, {known}; install the newer reelnet that wrote it, "
        "or restore the copy that was kept beside it"
    )

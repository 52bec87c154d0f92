"""What can be wrong with a database at a start, and what its operator is told to do about it."""

from __future__ import annotations

import sqlite3
from urllib.parse import unquote

from alembic.util import CommandError
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from reelnet.errors import StartError, printable

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, CommandError)
"""What a database and its migration raise; SQLite's own come from what is done when a connection is made."""
TEXT_CHARS = 200
_RESTORE = "restore your copy of it, or move it away (with its -wal and -shm) and a new one is begun"
_OTHER = "has tables that this program cannot change; go on with the reelnet that wrote it, and report this"
_FOLDER = "see that its folder exists, and that this user may write there"
_ADVICE = {
    sqlite3.SQLITE_ERROR: _OTHER,
    sqlite3.SQLITE_CORRUPT: f"is damaged; {_RESTORE}",
    sqlite3.SQLITE_NOTADB: f"is no database of SQLite, or its beginning is damaged; {_RESTORE}",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened; {_FOLDER}",
    sqlite3.SQLITE_READONLY: f"cannot be written; {_FOLDER}",
    sqlite3.SQLITE_PERM: f"cannot be written; {_FOLDER}",
    sqlite3.SQLITE_FULL: "cannot be written; free space on its disk, or move it",
    sqlite3.SQLITE_IOERR: "cannot be read or written; see to its disk, and whether it is full",
    sqlite3.SQLITE_BUSY: "is in use; end the other program that has it open",
}


def check_whole(engine: Engine) -> None:
    """Goes once through a file of SQLite. Raises sqlite3.DatabaseError, or SQLAlchemy's around it, for damage."""
    with engine.connect() as connection:
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        error = sqlite3.DatabaseError(str(found))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def place(url: URL) -> str:
    """Where a database is: a file of SQLite by its path, any other by its URL without the password."""
    if url.get_backend_name() == "sqlite":
        return unquote(str(url.database).removeprefix("file:"))  # a file that is only read is named by a URI
    return url.render_as_string()


def told(error: Exception, what: str, url: URL) -> StartError:
    """The error as an operator reads it: whose database, where it lies, what is wrong, what to do."""
    cause = getattr(error, "orig", None) or error
    reason = printable(str(cause), TEXT_CHARS)
    if url.get_backend_name() != "sqlite":
        return StartError(f"{what}: {place(url)} cannot be used: {reason}; see `database`")
    code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
    advice = _ADVICE.get(code, "cannot be used; report it, with this line")
    return StartError(f"{what}: {place(url)} {advice} ({reason})")

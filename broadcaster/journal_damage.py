"""A journal of SQLite whose file is damaged: how it is known, and how it is put aside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Engine, text

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FILES = ("", "-wal", "-shm")
"""What belongs to one database of SQLite: the file, and these endings beside it."""


def check_whole(engine: Engine) -> None:
    """Goes once through the file. Raises sqlite3.DatabaseError, or SQLAlchemy's around it, for damage."""
    with engine.connect() as connection:
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        error = sqlite3.DatabaseError(str(found))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is no whole database; a full disk or a lock says something else."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)
    return (code or 0) & 0xFF in _DAMAGE


def put_aside(path: Path, now_s: int) -> Path:
    """Renames the database and what belongs to it; the new name of the file. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged-{now_s}")
    for ending in _FILES:
        source = path.with_name(path.name + ending)
        if source.exists():
            source.rename(aside.with_name(aside.name + ending))
    return aside

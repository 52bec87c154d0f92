"""The copy of a database of SQLite that is kept beside it before its schema is changed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import structlog
from sqlalchemy import Engine

from reelnet.errors import StartError

log = structlog.get_logger()


def keep_copy(engine: Engine, what: str, version: int) -> Path:
    """Copies what is committed to `<file>.v<version>`, whole or not at all; that of an earlier try is replaced.

    The copy has the file's mode. Raises StartError when it cannot be written.
    """
    path = Path(str(engine.url.database))
    copy = path.with_name(f"{path.name}.v{version}")
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        _write(path, partial)
        partial.replace(copy)
        _to_disk(copy.parent)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        size = path.stat().st_size
        raise StartError(
            f"{what}: no copy of {path} can be kept as {copy}, without which its schema is not changed ({error}); "
            f"free {size} bytes there"
        ) from error
    log.info("database copied before its migration", database=what, version=version, copy=str(copy))
    return copy


def _write(path: Path, partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.touch(mode=path.stat().st_mode & 0o777)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target)
    _to_disk(partial)


def _to_disk(path: Path) -> None:
    """What is written there survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

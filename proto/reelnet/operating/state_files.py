"""A component's own small files: read up to a bound, and put aside when they are damaged."""

from __future__ import annotations

from pathlib import Path

import structlog

log = structlog.get_logger()


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A file's content. Raises OSError, and ValueError when it is longer."""
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"{path.name}: more than {most_bytes} bytes")
    return data


def put_aside(path: Path, reason: str) -> None:
    """Gives a damaged file another name, over an older one's; says so in the log. It is in nobody's way then."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError as error:
        log.warning("a damaged file stays", file=str(path), reason=reason, error=error.strerror)
        return
    log.warning("a damaged file was put aside", file=str(path), kept_as=str(aside), reason=reason)

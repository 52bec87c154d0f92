"""Logging of every component: a console on a terminal, JSON lines otherwise, ids bound to the context of a job."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.contextvars import get_contextvars
from structlog.typing import EventDict, WrappedLogger

REDACTED = frozenset({"prompt", "negative_prompt", "params", "image", "data"})
"""Keys whose values never reach a log."""
_LEVELS = {"warn": "warning", "exception": "error"}
"""The levels of methods that are not named after theirs."""
_encode = json.JSONEncoder(default=repr).encode


class KeptLines:
    """The newest lines of a process's log, in memory: what an operator reads who has no service manager's journal."""

    def __init__(self, most: int = 0) -> None:
        self._lines: deque[str] = deque(maxlen=most)

    def text(self, lines: int) -> str:
        """The newest so many lines."""
        return "".join(f"{line}\n" for line in list(self._lines)[-lines:])

    def keep(self, _: WrappedLogger, __: str, line: str) -> str:
        """A processor behind the one that renders."""
        self._lines.append(line)
        return line


def configure(component: str, level: str = "info", stream: TextIO = sys.stderr, kept: KeptLines | None = None) -> None:
    """Sets up structlog for a process; every line carries the component's name. `kept` gets each line too."""
    complete = partial(_complete, component)
    keep: list[Any] = [kept.keep] if kept else []
    render = structlog.dev.ConsoleRenderer() if stream.isatty() else _json
    structlog.configure(
        processors=[complete, render, *keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _complete(component: str, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A line's whole content. One function, because a processor for each part of it costs more than the part."""
    event = {**get_contextvars(), **event}
    event.setdefault("component", component)  # not by contextvars: a thread of a library's has none
    event["level"] = _LEVELS.get(method, method)
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, method, event)
    for key in REDACTED & event.keys():
        event[key] = "<redacted>"
    return event


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _encode(event)

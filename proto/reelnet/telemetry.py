"""Logging of every component: a console on a terminal, JSON lines otherwise, ids bound to the context of a job."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TextIO

import structlog

REDACTED = frozenset({"prompt", "negative_prompt", "params", "image", "data"})
"""Keys whose values never reach a log."""


def configure(component: str, level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Sets up structlog for a process; every line carries the component's name."""
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            partial(_name, component),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _name(
    component: str, _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Not by contextvars: a thread of a library's has none."""
    event.setdefault("component", component)
    return event


def _redact(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key in REDACTED & event.keys():
        event[key] = "<redacted>"
    return event

"""A component's log lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from reelnet import telemetry


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where lines go; what other tests log with is as it was afterwards."""
    before = structlog.get_config()
    stream = io.StringIO()
    telemetry.configure("a component", stream=stream)
    yield stream
    structlog.configure(**before)


def last(stream: io.StringIO) -> dict[str, Any]:
    """The newest line."""
    line: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_a_line_says_who_and_when_and_how_bad(stream: io.StringIO) -> None:
    """Component, level and time stand in each line beside what was said, whatever it is."""
    log = structlog.get_logger()
    log.info("job", job="j", node=None, path=Path("/a"), text="\ud800ü")
    line = last(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job", "component": "a component", "level": "info",
        "job": "j", "node": None, "path": repr(Path("/a")), "text": "\ud800ü",
    }  # fmt: skip
    log.debug("not at this level")
    assert last(stream)["event"] == "job"


def test_a_failure_has_its_traceback(stream: io.StringIO) -> None:
    """`exception` is an error, with where it came from."""
    try:
        raise KeyError("x")
    except KeyError:
        structlog.get_logger().exception("failed")
    line = last(stream)
    assert (line["level"], "exc_info" in line) == ("error", False)
    assert "KeyError: 'x'" in line["exception"]


def test_no_prompt_and_no_picture_is_logged(stream: io.StringIO) -> None:
    """Values under these names never reach a log, bound to a context or not."""
    with structlog.contextvars.bound_contextvars(prompt="a secret", job="j"):
        structlog.get_logger().info("x", image=b"bytes", negative_prompt="another")
    assert "secret" not in stream.getvalue()
    assert {name for name, value in last(stream).items() if value == "<redacted>"} == {
        "prompt", "image", "negative_prompt",
    }  # fmt: skip
    assert last(stream)["job"] == "j"

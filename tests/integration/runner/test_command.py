"""The command `runner`, as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.runner import PATIENCE_S, parts

ROOT = Path(__file__).parents[3]
FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 3}
SYNTHETIC = ("serve", "--backend", "synthetic", "--model", "synthetic/bars")


def _start(*arguments: str) -> subprocess.Popen[str]:
    return _python("-m", "runner.cli", *arguments)


def _python(*arguments: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


@contextlib.contextmanager
def _served(path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = _start(*SYNTHETIC, "--socket", str(path), *arguments)
    transport = httpx.HTTPTransport(uds=str(path))
    try:
        with httpx.Client(transport=transport, base_url="http://runner", timeout=PATIENCE_S) as client:
            _wait_ready(path, client, process)
            yield process, client
    finally:
        process.kill()
        process.communicate()


def _wait_ready(path: Path, client: httpx.Client, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit and process.poll() is None:
        if _listens(path) and client.get("/health").json()["state"] == "READY":
            return
        time.sleep(0.02)  # between polls of another process
    raise AssertionError("the runner does not become ready")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:  # httpx leaks the socket of a connection that is refused
        return probe.connect_ex(str(path)) == 0


def _ended(*arguments: str) -> tuple[int, str]:
    with _start(*arguments) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


def test_sigterm_stops_cleanly(tmp_path: Path) -> None:
    """Code 0, no socket left, and the job's client learns of it."""
    path = tmp_path / "runner.sock"
    with _served(path) as (process, client):
        slow = FOX | {"prompt": "!slow 1000"}
        with client.stream("POST", "/jobs", files=parts(params=slow)) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["event"] == "started"
            process.send_signal(signal.SIGTERM)
            assert json.loads(list(lines)[-1])["class"] == "transient"
        assert process.wait(PATIENCE_S) == 0
    assert not path.exists()


def test_the_end_of_stdin_is_the_end_at_once(tmp_path: Path) -> None:
    """A killed parent leaves nothing, even under a job that hangs."""
    with _served(tmp_path / "runner.sock", "--exit-with-stdin") as (process, client):
        hung = FOX | {"prompt": "!hang"}
        with client.stream("POST", "/jobs", files=parts(params=hung)) as response:
            assert next(response.iter_lines())
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
            assert process.wait(PATIENCE_S) == 0


def test_a_hung_job_does_not_hold_up_sigterm(tmp_path: Path) -> None:
    """The synthetic hang ends with the backend; the process ends either way."""
    with _served(tmp_path / "runner.sock") as (process, client):
        hung = FOX | {"prompt": "!hang"}
        with client.stream("POST", "/jobs", files=parts(params=hung)) as response:
            assert next(response.iter_lines())
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0


def test_die_kills_the_process(tmp_path: Path) -> None:
    """As the kernel would."""
    with _served(tmp_path / "runner.sock") as (process, client):
        with contextlib.suppress(httpx.TransportError):
            client.post("/jobs", files=parts(params=FOX | {"prompt": "!die"}))
        assert process.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_runner_that_nobody_asks_anything_ends(tmp_path: Path) -> None:
    """`idle_exit_s` bounds how long an orphan stays."""
    config = tmp_path / "runner.yaml"
    config.write_text("idle_exit_s: 0.5\n")
    with _served(tmp_path / "runner.sock", "--config", str(config)) as (process, _):
        assert process.wait(PATIENCE_S) == 0


LOST = """
from pathlib import Path
from reelnet import telemetry
from runner import process
from runner.app import build
from tests.fakes.runner import BrokenBackend, settings

values = settings(socket=Path({path!r}), defunct_exit_s=1.0)
app = build(values, BrokenBackend(run=RuntimeError("CUDA error"), recover=RuntimeError("device lost")))
telemetry.configure("runner", "info")
process.serve(app, values)
process.leave(app.state.worker)
"""


def test_a_runner_whose_device_is_lost_says_so_and_exits(tmp_path: Path) -> None:
    """DEFUNCT can be read for `defunct_exit_s`; then the process ends with code 1 and a line that says why."""
    path = tmp_path / "runner.sock"
    process = _python("-c", LOST.format(path=str(path)))
    transport = httpx.HTTPTransport(uds=str(path))
    try:
        with httpx.Client(transport=transport, base_url="http://runner", timeout=PATIENCE_S) as client:
            _wait_ready(path, client, process)
            assert '"node"' in client.post("/jobs", files=parts(params=FOX)).text
            health = client.get("/health").json()
            assert (health["state"], "does not compute" in health["reason"]) == ("DEFUNCT", True)
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "this runner exits, for its device is lost" in output + errors
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("serve",), 2, "model: Field required"),
        (("serve", "--model", "x", "--tcp", "nowhere"), 2, "expected 127.0.0.1:PORT"),
        (("serve", "--model", "x", "--tcp", "0.0.0.0:1"), 2, "not a loopback address"),
        (("serve", "--model", "x", "--synthetic", "3"), 2, "expected a JSON object"),
        ((*SYNTHETIC, "--synthetic", '{"faults": [{"kind": "explode"}]}'), 2, "unknown kind 'explode'"),
        ((*SYNTHETIC, "--pipelines", "image-to-vide"), 2, "did you mean 'image-to-video'"),
        ((*SYNTHETIC, "--socket", "/nonexistent/x.sock"), 3, "does its folder exist"),
        (("serve", "--modle", "x"), 2, "No such option"),
    ],
)
def test_mistakes_are_one_line_and_a_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    """2 for usage and configuration, 3 for what cannot start; no traceback."""
    returned, errors = _ended(*arguments)
    assert returned == code, errors
    assert message in errors
    assert "Traceback" not in errors


def test_a_port_in_use_cannot_start() -> None:
    """Code 3, and the line says which."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        returned, errors = _ended(*SYNTHETIC, "--tcp", f"127.0.0.1:{port}")
    assert returned == 3
    assert f"127.0.0.1:{port}: cannot listen" in errors


@pytest.mark.parametrize("command", [("serve",), ("models", "make-tiny")])
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    """Every command shows how it is used."""
    with _start(*command, "--help") as process:
        shown, _ = process.communicate(timeout=PATIENCE_S)
    assert "Example:" in shown

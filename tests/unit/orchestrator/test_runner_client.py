"""What a node reads of a runner that drips, or has no end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator import runner_client as module
from orchestrator.runner_answers import HEALTH_BYTES, INFO_BYTES, REFUSAL_BYTES, AnswerError
from orchestrator.runner_client import METRICS_BYTES, SILENT, RunnerClient, RunnerJob
from orchestrator.runner_events import PROTOCOL
from reelnet.errors import NodeError

OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
REFUSED = b"HTTP/1.1 422 No\r\nconnection: close\r\n\r\n"
PATIENCE_S = 20.0


@asynccontextmanager
async def answering(folder: Path, head: bytes, drip: bytes, pause_s: float) -> AsyncIterator[RunnerClient]:
    """A runner that says this much, and then the same bytes for ever. `pause_s` lies between two of them."""

    told: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.add(asyncio.current_task())  # type: ignore[arg-type]
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while not reader.at_eof():
                writer.write(drip)
                await writer.drain()
                await asyncio.sleep(pause_s)
        writer.close()

    socket = folder / "r.sock"
    server = await asyncio.start_unix_server(answer, socket)
    client = RunnerClient(socket, cancel_s=0.05)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield client
    finally:
        await client.close()
        server.close()
        for task in told:
            task.cancel()
        await asyncio.gather(*told)


REPORTS: list[Any] = [
    pytest.param(lambda client: client.health(), HEALTH_BYTES, id="health"),
    pytest.param(lambda client: client.info(), INFO_BYTES, id="info"),
    pytest.param(lambda client: client.metrics(PATIENCE_S), METRICS_BYTES, id="metrics"),
]


@pytest.mark.parametrize(("ask", "most"), REPORTS)
async def test_a_report_without_an_end_is_not_read(
    tmp_path: Path, ask: Callable[[RunnerClient], Any], most: int
) -> None:
    """Nor kept: it ends with the first byte over its bound."""
    async with answering(tmp_path, OK, b" " * 65_536, 0) as client:
        with pytest.raises(AnswerError, match=f"more than {most} bytes"):
            await ask(client)


@pytest.mark.parametrize("head", [OK, b"HTTP/1.1 200 OK\r\nx: "], ids=["body", "head"])
@pytest.mark.parametrize("ask", [lambda client: client.health(), lambda client: client.info()], ids=["health", "info"])
async def test_a_report_that_drips_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[RunnerClient], Any], head: bytes
) -> None:
    """It has its time in all, however often a byte comes."""
    monkeypatch.setattr(module, "HEALTH_TIMEOUT_S", 0.05)
    async with answering(tmp_path, head, b"x", 0.005) as client:
        with pytest.raises(TimeoutError):
            await ask(client)


async def _bytes() -> AsyncIterator[bytes]:
    yield b"picture"


def job(*, form: bool) -> RunnerJob:
    """A job as a form, or bare."""
    return RunnerJob("j", 1, "upscale", b"{}", 60, {"image": (_bytes(), "image/png")} if form else {})


async def failure(client: RunnerClient, work: RunnerJob) -> tuple[str, str]:
    """The code with which a job ends as the node's failure, and why its runner is given up."""
    stuck: list[str] = []
    with pytest.raises(NodeError) as caught:
        async with client.run(work, stuck.append):
            raise AssertionError("the job was not taken")
    return caught.value.code, "".join(stuck)


@pytest.mark.parametrize("form", [False, True], ids=["bare", "form"])
async def test_a_refusal_without_an_end_is_a_broken_contract(tmp_path: Path, form: bool) -> None:
    """It is read up to its bound, and the runner that said it is given up."""
    async with answering(tmp_path, REFUSED, b"x" * REFUSAL_BYTES, 0) as client:
        assert await failure(client, job(form=form)) == (PROTOCOL, "the runner's refusal of a job has no end")


@pytest.mark.parametrize("form", [False, True], ids=["bare", "form"])
async def test_a_refusal_that_drips_is_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: bool) -> None:
    """It has its time in all, and the runner is given up."""
    monkeypatch.setattr(module, "HEALTH_TIMEOUT_S", 0.05)
    async with answering(tmp_path, REFUSED, b"x", 0.005) as client:
        assert await failure(client, job(form=form)) == (SILENT, "the runner does not answer a job")


@pytest.mark.parametrize("form", [False, True], ids=["bare", "form"])
async def test_an_answer_to_a_job_that_does_not_begin_is_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: bool
) -> None:
    """Its head has its time in all, with inputs and without."""
    monkeypatch.setattr(module, "UPLOAD_S", 0.05)
    monkeypatch.setattr(module, "SILENCE_S", 0.05)
    async with answering(tmp_path, b"HTTP/1.1 200 OK\r\nx: ", b"x", 0.005) as client:
        code, why = await failure(client, job(form=form))
    assert (code, bool(why)) == (SILENT, True)


@pytest.mark.parametrize("ask", [lambda client: client.health(), lambda client: client.info()])
async def test_a_report_is_not_looked_for_elsewhere(tmp_path: Path, ask: Callable[[RunnerClient], Any]) -> None:
    """A runner sends its node nowhere."""
    moved = b"HTTP/1.1 301 Moved\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n"
    async with answering(tmp_path, moved, b"", 0.01) as client:
        with pytest.raises(AnswerError, match="HTTP 301"):
            await ask(client)

"""A true Prometheus for the length of a test: a child on a free port of loopback, its data in the test's folder."""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

START_S = 30.0
STOP_S = 10.0
POLL_S = 0.05
CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "prometheus.yml"
_LISTENS = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:\d+)')


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def vector(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and value of each series that a query gives now."""
        data = await self.get("/api/v1/query", query=query)
        assert data["resultType"] == "vector"
        return [(row["metric"], float(row["value"][1])) for row in data["result"]]

    async def number(self, query: str) -> float:
        """The value of a query that gives one series; not a number when it gives none."""
        rows = await self.vector(query)
        assert len(rows) < 2, f"{query} gives {len(rows)} series"
        return rows[0][1] if rows else math.nan

    async def get(self, path: str, **params: str) -> Any:
        """The `data` of an answer of the API."""
        answer = await self._http.get(path, params=params)
        body = answer.json()
        assert body["status"] == "success", body
        return body["data"]

    async def until(self, query: str, wanted: float, within_s: float) -> None:
        """Returns when a query gives this number; fails the test when it does not in time."""
        found = math.nan
        try:
            async with asyncio.timeout(within_s):
                while (found := await self.number(query)) != wanted:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"{query} is {found} and not {wanted}") from None


@asynccontextmanager
async def running_prometheus(folder: Path, targets: Mapping[str, list[str]]) -> AsyncIterator[Prometheus]:
    """Prometheus with deploy/prometheus.yml, but for targets (by job name) and a scrape every two seconds."""
    folder.mkdir()
    config, log = folder / "prometheus.yml", folder / "log"
    config.write_text(yaml.safe_dump(configuration(targets)), "utf-8")
    command = [
        *(sys.executable, "-P", "-m", "benchmark.leash", str(os.getpid())),
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *("--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=1h"),
    ]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        async with httpx.AsyncClient(base_url=await _url(process, log), timeout=START_S, trust_env=False) as http:
            await _ready(http)
            yield Prometheus(http)
    finally:
        await _stop(process)


def configuration(targets: Mapping[str, list[str]]) -> dict[str, Any]:
    """deploy/prometheus.yml with these targets, read every two seconds."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    return config


async def _url(process: asyncio.subprocess.Process, log: Path) -> str:
    """Where it listens, as its log says."""
    async with asyncio.timeout(START_S):
        while not (found := _LISTENS.search(log.read_text("utf-8"))):
            assert process.returncode is None, log.read_text("utf-8")
            await asyncio.sleep(POLL_S)
    return f"http://{found[1]}"


async def _ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_S):
        while (await http.get("/-/ready")).status_code != httpx.codes.OK:
            await asyncio.sleep(POLL_S)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

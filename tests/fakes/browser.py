"""A browser without a window, steered over the WebDriver protocol as its own driver speaks it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 60.0
CHROMIUM: dict[str, Any] = {
    "browserName": "chrome",
    "goog:chromeOptions": {
        "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"]
    },
    "pageLoadStrategy": "normal",
}
"""Without its sandbox, which root cannot have."""
PLAYED = """
const clip = document.querySelector("video");
if (!clip) return null;
const quality = clip.getVideoPlaybackQuality();
return {frames: quality.totalVideoFrames, width: clip.videoWidth, height: clip.videoHeight, ended: clip.ended,
        time: clip.currentTime, error: clip.error && clip.error.message};
"""
"""What became of the clip that the page shows; null without one."""
SHOWN = """
const picture = document.querySelector("img");
return picture && {width: picture.naturalWidth, height: picture.naturalHeight};
"""


@dataclass(frozen=True)
class Browser:
    """One page of a browser."""

    driver: httpx.AsyncClient
    session: str

    async def open(self, url: str) -> None:
        """Goes to a link, as one who clicks on it."""
        await self._ask("url", {"url": url})

    async def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns that runs in the page; one that returns a promise is waited for."""
        return await self._ask("execute/sync", {"script": script, "args": list(arguments)})

    async def until(self, script: str, condition: Any) -> Any:
        """The first thing that a script returns for which the condition holds."""
        found = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition(found := await self.run(script)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"the page never came so far: {found}") from None
        return found

    async def screenshot(self, file: Path) -> None:
        """Writes what is to be seen, as PNG."""
        answer = await self.driver.get(f"/session/{self.session}/screenshot")
        file.write_bytes(base64.b64decode(answer.raise_for_status().json()["value"]))

    async def _ask(self, what: str, body: dict[str, Any]) -> Any:
        answer = await self.driver.post(f"/session/{self.session}/{what}", json=body)
        assert answer.is_success, answer.text
        return answer.json()["value"]


@contextlib.asynccontextmanager
async def running_chromium(home: Path) -> AsyncIterator[Browser]:
    """Chromium and its driver, on a free port; both are ended, and what they keep lies in `home`."""
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(home)}
    driver = await asyncio.create_subprocess_exec(
        "chromedriver", "--port=0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environ
    )
    try:
        port = await _port(driver)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as http:
            answer = await http.post("/session", json={"capabilities": {"alwaysMatch": CHROMIUM}})
            assert answer.is_success, answer.text
            session = answer.json()["value"]["sessionId"]
            try:
                yield Browser(http, session)
            finally:
                await http.delete(f"/session/{session}")
    finally:
        driver.terminate()
        await driver.wait()


async def _port(driver: asyncio.subprocess.Process) -> int:
    assert driver.stdout
    async with asyncio.timeout(PATIENCE_S):
        async for line in driver.stdout:
            if match := re.search(rb"on port ([1-9]\d+)", line):
                return int(match[1])
    raise AssertionError("the driver did not start")

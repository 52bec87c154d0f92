"""A result's link in a browser: opened as it is, and read by a page of another origin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image

from tests import programs
from tests.fakes.browser import PLAYED, SHOWN, Browser, running_chromium
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import picture

pytestmark = pytest.mark.asyncio(loop_scope="module")
FRAMES, FPS = 14, 14
CLIP = {"width": 128, "height": 64, "num_inference_steps": 1, "num_frames": FRAMES, "fps": FPS}
PICTURE = {"prompt": "bars", "width": 128, "height": 64, "num_inference_steps": 1}
FETCHED = """
return fetch(arguments[0], {headers: {Range: arguments[1]}}).then(async answer => ({
    status: answer.status, bytes: (await answer.arrayBuffer()).byteLength,
    range: answer.headers.get("content-range"), etag: answer.headers.get("etag"),
    id: answer.headers.get("x-request-id"),
}), String)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """One synthetic node."""
    programs.needs("chromium", "chromedriver")
    async with running_pool(PoolPlan(tmp_path_factory.mktemp("home"), [InProcessEngine()])) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """Chromium, as Debian has it."""
    async with running_chromium(tmp_path_factory.mktemp("browser")) as chromium:
        yield chromium


async def link(pool: Pool, *, clip: bool) -> str:
    """A new result's link."""
    job = pool.job("image-to-video", CLIP, picture()) if clip else pool.job("text-to-image", PICTURE)
    url: str = (await job).json()["images"][0]["url"]
    return url


@pytest.mark.parametrize("kept", ["memory", "file"])
async def test_a_clips_link_plays(pool: Pool, browser: Browser, kept: str) -> None:
    """Every frame is shown, from the first to the end, and nobody has to press anything."""
    url = await link(pool, clip=True)
    if kept == "file":
        await _forgotten(pool, url)
    await browser.open(url)
    played = await browser.until(PLAYED, lambda clip: clip and (clip["ended"] or clip["error"]))
    assert (played["error"], played["width"], played["height"]) == (None, 128, 64)
    assert played["frames"] == FRAMES
    assert played["time"] == pytest.approx(FRAMES / FPS, abs=0.1)


async def _forgotten(pool: Pool, url: str) -> None:
    """The result is in its file alone, as one that is too large for memory, or from before a restart."""
    media = pool.broadcaster.gateway._p.media
    await media.file(url.rpartition("/")[2])
    media._forget(url.rpartition("/")[2])
    assert isinstance(media.read(url.rpartition("/")[2])[0], Path)


async def test_a_pictures_link_shows_it(pool: Pool, browser: Browser, tmp_path: Path) -> None:
    """In its own size, and there is more than one colour to be seen."""
    await browser.open(await link(pool, clip=False))
    assert await browser.run(SHOWN) == {"width": 128, "height": 64}
    await browser.screenshot(tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as seen:
        assert len({colour for _, colour in seen.convert("RGB").getcolors(2**16) or []}) > 4


@pytest.mark.parametrize("clip", [True, False])
async def test_a_page_of_another_origin_reads_a_result(pool: Pool, browser: Browser, clip: bool) -> None:
    """By `fetch`, a part of it too, with the headers that say which; the API itself stays closed to that page."""
    url = await link(pool, clip=clip)
    size = len((await pool.http.get(url)).content)
    await browser.open(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/livez")
    read = await browser.run(FETCHED, url, "bytes=0-")
    assert (read["status"], read["bytes"], read["range"]) == (206, size, f"bytes 0-{size - 1}/{size}")
    assert read["etag"] == f'"{url.rpartition("/")[2]}"'
    assert read["id"]
    gone = await browser.run(FETCHED, url.replace("/media/", "/media/0"), "bytes=0-")
    assert gone["status"] == 404, "the page learns that it has expired"
    assert "TypeError" in await browser.run(FETCHED, f"{pool.broadcaster.url}/models", "bytes=0-")

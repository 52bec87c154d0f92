"""One job end to end over HTTP, gRPC and HTTP, in one process, on the synthetic backend."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broadcaster.journal_schema import JobRow
from reelnet.inspection import check_output
from reelnet.jobs import TERMINAL
from reelnet.pipelines import MediaSpec
from tests.fakes.pool import PATIENCE_S, InProcessEngine, Pool, PoolPlan, running_pool, sse_events, until
from tests.fakes.runner import picture

SMALL = {"prompt": "bars", "width": 128, "height": 64, "num_inference_steps": 3}


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """Two nodes with one synthetic model each, and a broadcaster."""
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine(), InProcessEngine()])) as running:
        yield running


async def test_a_picture_comes_back(pool: Pool, tmp_path: Path) -> None:
    """A text-to-image job gives a PNG of the asked size at an absolute URL, with its seed."""
    answer = await pool.job("text-to-image", {**SMALL, "seed": 7})
    (data,) = await pool.outputs(answer)
    (tmp_path / "out.png").write_bytes(data)
    check_output(tmp_path / "out.png", "image/png", MediaSpec("image", 128, 64), 10**7)
    image = answer.json()["images"][0]
    assert image["seed"] == 7
    assert image["nsfw"] is False
    assert image["url"].startswith(pool.broadcaster.url)


@pytest.mark.parametrize(("asked", "ending"), [("jpeg", "jpg"), ("webp", "webp")])
async def test_a_picture_comes_in_the_format_that_was_asked(pool: Pool, asked: str, ending: str) -> None:
    """Through the whole chain, named and served as what it is."""
    answer = await pool.job("text-to-image", {**SMALL, "output_format": asked})
    (data,) = await pool.outputs(answer)
    check_output(data, f"image/{asked}", MediaSpec("image", 128, 64, media_type=f"image/{asked}"), 10**7)
    assert answer.json()["images"][0]["url"].endswith(f".{ending}")


async def test_a_picture_becomes_a_clip(pool: Pool, tmp_path: Path) -> None:
    """An image-to-video job gives an MP4 with the asked frames, rate and size."""
    params = {"width": 128, "height": 64, "num_inference_steps": 2, "fps": 9}
    (data,) = await pool.outputs(await pool.job("image-to-video", params, picture()))
    (tmp_path / "out.mp4").write_bytes(data)
    check_output(tmp_path / "out.mp4", "video/mp4", MediaSpec("video", 128, 64, 14, 9), 10**7)


@pytest.mark.parametrize("pipeline", ["image-to-image", "upscale"])
async def test_every_pipeline_is_reachable_from_the_one_table(pool: Pool, pipeline: str) -> None:
    """A pipeline in `reelnet.pipelines` has a route of its own without further code."""
    answer = await pool.job(pipeline, {"prompt": "bars", "num_inference_steps": 2}, picture())
    assert len(await pool.outputs(answer)) == 1


async def test_n_images_are_n_files(pool: Pool) -> None:
    """N images of one job are N different files, and image i alone is image i of N."""
    answer = await pool.job("text-to-image", {**SMALL, "seed": 40, "num_images_per_prompt": 4})
    files = await pool.outputs(answer)
    images = answer.json()["images"]
    assert [image["seed"] for image in images] == [40, 41, 42, 43]
    assert len({image["url"] for image in images}) == 4
    assert len(set(files)) == 4
    (third,) = await pool.outputs(await pool.job("text-to-image", {**SMALL, "seed": 42}))
    assert third == files[2]


async def test_progress_is_told_as_it_happens(pool: Pool) -> None:
    """A client that asks for events gets each step, and the result in the plain answer's form."""
    answer = await pool.http.post("/text-to-image", json=SMALL, headers={"accept": "text/event-stream"})
    events = sse_events(answer.text)
    names = [name for name, _ in events]
    assert names[0] == "job"
    assert names[-1] == "result"
    assert "started" in names
    assert len(events[-1][1]["images"]) == 1


async def test_what_is_not_done_as_asked_is_in_the_answer(pool: Pool) -> None:
    """Warnings of the runner and of the broadcaster, in the plain answer and in the stream's result; else none."""
    answer = await pool.job("text-to-image", {**SMALL, "prompt": "!warn (bars:1.2)", "preview_steps": 1})
    told = {(warning["code"], warning["parameter"]) for warning in answer.json()["warnings"]}
    assert told == {("prompt_cut", "prompt"), ("plain_brackets", "prompt"), ("no_preview", "preview_steps")}
    stream = {"accept": "text/event-stream"}
    answer = await pool.http.post("/text-to-image", json={**SMALL, "prompt": "!warn bars"}, headers=stream)
    (result,) = [data for name, data in sse_events(answer.text) if name == "result"]
    assert [warning["code"] for warning in result["warnings"]] == ["prompt_cut"]
    assert (await pool.job("text-to-image", SMALL)).json()["warnings"] == []


async def test_a_job_is_recorded_without_its_prompt(pool: Pool, tmp_path: Path) -> None:
    """The journal holds the job's end, node and price; no file of the broadcaster holds its prompt."""
    answer = await pool.job("text-to-image", {**SMALL, "prompt": "a very secret thing"})
    job = answer.json()["job"]
    row = await recorded(pool, job["id"])
    assert (row.state, row.node_id, row.attempts) == ("succeeded", job["node"], 1)
    assert len(await pool.broadcaster.journal.attempts(job["id"])) == 1
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes(), path


async def recorded(pool: Pool, job_id: str) -> JobRow:
    """The job's row, once its end is committed: rows are written behind."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            row = await pool.broadcaster.journal.job(job_id)
            if row and row.state in TERMINAL:
                return row
            await asyncio.sleep(0.01)


async def test_twenty_mebibytes_of_input_pass(pool: Pool) -> None:
    """A large picture goes through every hop whole: its digest is in the ticket."""
    noise = np.random.default_rng(1).integers(0, 256, (2700, 2700, 3), np.uint8)
    path_bytes = _png(Image.fromarray(noise))
    assert len(path_bytes) > 20 * 2**20
    params = {"width": 64, "height": 64, "num_inference_steps": 1, "num_frames": 2}
    assert len(await pool.outputs(await pool.job("image-to-video", params, path_bytes))) == 1


async def test_nothing_is_kept_on_the_node(pool: Pool, tmp_path: Path) -> None:
    """After a job the node's spool is empty and no attempt is left."""
    await pool.outputs(await pool.job("upscale", {"num_inference_steps": 1}, picture()))
    for running in pool.nodes:
        await until(lambda running=running: not running.node.attempts(), "the attempts end")
    assert list(tmp_path.glob("orchestrator/*/spool/*")) == []


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=0)
    return out.getvalue()

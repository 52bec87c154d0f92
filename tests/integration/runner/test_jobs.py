"""A job's stream, over a true server."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import av
import pytest

from reelnet.clips import probe_clip
from reelnet.inspection import check_output
from reelnet.pipelines import PIPELINES, MediaSpec
from runner.app import build
from runner.worker import State
from tests.fakes.media import Clip
from tests.fakes.runner import BrokenBackend, RunnerClient, parts, picture, serving, settings

PICTURE = picture(96, 64)
FOX: dict[str, Any] = {"prompt": "a red fox", "seed": 1, "width": 128, "height": 64, "num_inference_steps": 3}
CLIP: dict[str, Any] = {"seed": 1, "width": 128, "height": 64, "num_inference_steps": 3}
JOBS: dict[str, dict[str, Any]] = {
    "text-to-image": {"params": FOX},
    "image-to-image": {"params": {"prompt": "a fox", "seed": 1, "num_inference_steps": 3}, "image": PICTURE},
    "image-to-video": {"params": CLIP, "image": PICTURE},
    "upscale": {"params": {"seed": 1, "num_inference_steps": 3}, "image": PICTURE},
    "upscale-video": {"params": {"seed": 1}, "video": Clip(frames=3).encode()},
    "frame-interpolation": {"params": {"seed": 1, "fps": 30}, "video": Clip(frames=3).encode()},
}


@pytest.mark.parametrize("pipeline", list(PIPELINES))
async def test_a_job_s_events_in_their_order(runner: RunnerClient, pipeline: str) -> None:
    """started, progress, then each output with chunks and its true digest, then done; nothing after it."""
    answer = await runner.run(pipeline=pipeline, **JOBS[pipeline])
    names = [event["event"] for event in answer.events if event["event"] != "tick"]
    assert names[0] == "started"
    assert names[-4:] == ["output", "chunk", "output_end", "done"]
    assert set(names[1:-4]) == {"progress"}
    (end,) = answer.named("output_end")
    assert end["size"] == len(answer.outputs[0])
    assert end["sha256"] == hashlib.sha256(answer.outputs[0]).hexdigest()
    (output,) = answer.named("output")
    assert (output["seed"], output["nsfw"], output["index"]) == (1, None, 0)


async def test_done_says_how_it_was_made(runner: RunnerClient) -> None:
    """Times of each stage and the whole, the model's digest, the class, the versions."""
    done = (await runner.run(params=FOX)).last
    assert set(done["timings_s"]) == {"denoise", "decode", "encode", "run"}
    assert done["model_digest"] == hashlib.sha256(b"synthetic:synthetic/bars").hexdigest()
    assert done["class"] == "Synthetic"
    assert done["versions"]["runner"]


async def test_progress_counts_all_images(runner: RunnerClient) -> None:
    """Frames of three images are one count; image i alone is image i of three, to the byte."""
    three = await runner.run(params=FOX | {"num_images_per_prompt": 3})
    steps = [(row["step"], row["total"]) for row in three.named("progress") if row["stage"] == "encode"]
    assert steps[-1] == (3, 3)
    assert steps == sorted(steps), "of steps in one moment only the newest is told"
    assert [row["seed"] for row in three.named("output")] == [1, 2, 3]
    assert len(set(three.outputs)) == 3
    alone = await runner.run(params=FOX | {"seed": 3})
    assert alone.outputs[0] == three.outputs[2]


async def test_large_outputs_come_in_bounded_chunks(runner: RunnerClient) -> None:
    """No chunk is larger than 256 KiB."""
    image = picture(1024, 1024)
    answer = await runner.run(pipeline="upscale", params={"seed": 1, "num_inference_steps": 1}, image=image)
    assert answer.pixels().shape == (4096, 4096, 3)
    assert max(row["size"] for row in answer.named("chunk")) <= 262_144


async def test_a_clip_is_playable(runner: RunnerClient) -> None:
    """MP4 of the asked size, frames and rate."""
    answer = await runner.run(pipeline="image-to-video", params=CLIP | {"fps": 7}, image=PICTURE)
    assert answer.named("output")[0]["media_type"] == "video/mp4"
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        stream = clip.streams.video[0]
        assert (stream.width, stream.height, stream.frames, stream.average_rate) == (128, 64, 14, 7)


@pytest.mark.parametrize("codec", ["h264", "av1", "vp9"])
@pytest.mark.parametrize("pipeline", ["image-to-video", "upscale-video", "frame-interpolation"])
async def test_a_clip_is_coded_as_asked(runner: RunnerClient, pipeline: str, codec: str) -> None:
    """Made of a picture or of a clip, it is what the job's `video_codec` says, and passes a broadcaster's check."""
    order = JOBS[pipeline]
    answer = await runner.run(pipeline=pipeline, **order | {"params": order["params"] | {"video_codec": codec}})
    found = probe_clip(answer.outputs[0])
    spec = MediaSpec("video", found.width, found.height, found.frames, found.fps, found.fps_den, codec=codec)
    check_output(answer.outputs[0], "video/mp4", spec, 10**7)


@pytest.mark.parametrize("pipeline", list(PIPELINES))
async def test_a_file_says_how_it_was_made_when_asked(runner: RunnerClient, pipeline: str) -> None:
    """Each pipeline's output has model, digest and parameters in it then, and nothing otherwise."""
    order = JOBS[pipeline]
    asked = await runner.run(pipeline=pipeline, **order | {"params": order["params"] | {"metadata": True}})
    plain = await runner.run(pipeline=pipeline, **order)
    digest = hashlib.sha256(b"synthetic:synthetic/bars").hexdigest().encode()
    assert digest in asked.outputs[0]
    assert PIPELINES[pipeline].schema.encode() in asked.outputs[0]
    assert b"job-1" not in asked.outputs[0]
    assert digest not in plain.outputs[0]
    assert b"reelnet" not in plain.outputs[0]


async def test_the_same_job_gives_the_same_bytes(runner: RunnerClient) -> None:
    """Equal requests, equal answers; another seed, another."""
    first, again, other = [await runner.run(params=FOX | {"seed": seed}) for seed in (1, 1, 2)]
    assert first.outputs == again.outputs != other.outputs


async def test_info_tells_what_is_served(runner: RunnerClient) -> None:
    """Schemas, digest, licence and versions: what a capability is made of."""
    info = (await runner.http.get("/info")).json()
    assert [row["schema"] for row in info["pipelines"]] == [pipeline.schema for pipeline in PIPELINES.values()]
    assert {row["class"] for row in info["pipelines"]} == {"Synthetic"}
    assert info["model"] == "synthetic/bars"
    assert info["licence"] == {"id": "CC0-1.0", "commercial": "yes"}
    assert (info["loras"], info["vram_bytes"], info["device"]) == ([], 0, "cpu")
    assert set(info["versions"]) == {"python", "runner"}


async def test_metrics_count_jobs_and_stages(runner: RunnerClient) -> None:
    """By pipeline and outcome; a second app in this process has counts of its own."""
    await runner.run(params=FOX)
    await runner.run(params=FOX | {"prompt": "!fail node"})
    text = (await runner.http.get("/metrics")).text
    assert 'reelnet_runner_jobs_total{class="none",outcome="ok",pipeline="text-to-image"} 1.0' in text
    assert 'reelnet_runner_jobs_total{class="node",outcome="failed",pipeline="text-to-image"} 1.0' in text
    assert 'reelnet_runner_stage_seconds_count{pipeline="text-to-image",stage="encode"} 1.0' in text


async def test_no_log_shows_a_prompt(
    runner: RunnerClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a job succeeds, fails or is refused."""
    secret = "xyzzy"
    await runner.run(params=FOX | {"prompt": secret})
    await runner.run(params=FOX | {"prompt": f"{secret} !fail node"})
    await runner.http.post("/jobs", files=parts(params=FOX | {"prompt": secret, "negative_promt": secret}))
    shown = "".join(capsys.readouterr())
    assert "job ended" in shown
    assert secret not in shown


async def test_a_strange_exception_s_text_goes_nowhere(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its type is told, and the runner goes on."""
    backend = BrokenBackend(run=ValueError("cannot draw xyzzy"))
    async with serving(build(settings(), backend), tmp_path) as client:
        await client.until(State.READY)
        error = (await client.run(params=FOX)).last
        assert (error["event"], error["class"], error["code"]) == ("error", "node", "ValueError")
        assert (await client.health())["state"] == "READY"
        assert "xyzzy" not in error["message"] + "".join(capsys.readouterr())


async def test_an_output_that_is_not_as_promised_fails_the_job(tmp_path: Any) -> None:
    """A backend that gives too little is found by the runner itself."""

    class Lazy(BrokenBackend):
        def run(self, job: Any, report: Any) -> Any:
            return iter(list(super().run(job, report))[:-1])

    async with serving(build(settings(), Lazy()), tmp_path) as client:
        await client.until(State.READY)
        error = (await client.run(params=FOX | {"num_images_per_prompt": 2})).last
        assert (error["class"], error["code"]) == ("node", "output_count")

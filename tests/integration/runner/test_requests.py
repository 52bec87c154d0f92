"""What is refused before the stream."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reelnet.pipelines import PIPELINES, Size
from runner.app import build
from runner.worker import State
from tests.fakes.runner import RunnerClient, parts, picture, serving, settings

FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 1}
CLIP: dict[str, Any] = {"pipeline": "image-to-video", "params": {"seed": 1, "width": 64, "height": 64}}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "text/plain"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"--x", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
    ],
)
async def test_what_is_no_form_is_malformed(runner: RunnerClient, content: bytes, kind: str) -> None:
    """400, of class `user`."""
    response = await runner.http.post("/jobs", content=content, headers={"content-type": kind})
    assert response.status_code == 400
    assert response.json()["detail"]["class"] == "user"


@pytest.mark.parametrize("job", [b"{", b"\xff", None])
async def test_a_job_part_that_is_no_json_is_malformed(runner: RunnerClient, job: bytes | None) -> None:
    """400 too: missing, or not JSON."""
    files = {"job": (None, job, "application/json")} if job is not None else {"other": (None, b"{}", "text/plain")}
    response = await runner.http.post("/jobs", files=files)
    assert response.status_code == 400


async def test_a_job_without_inputs_may_be_bare_json(runner: RunnerClient) -> None:
    """It is the same job as the form's; what is wrong with it is told alike."""
    order = {"job_id": "j", "attempt": 1, "pipeline": "text-to-image", "params": FOX}
    kind = {"content-type": "application/json; charset=utf-8"}
    bare = await runner.http.post("/jobs", content=json.dumps(order), headers=kind)
    form = await runner.http.post("/jobs", files={"job": (None, json.dumps(order).encode(), "application/json")})
    assert (bare.status_code, form.status_code) == (200, 200)
    digests = [re.findall(rb'"sha256":"([0-9a-f]+)"', answer.content) for answer in (bare, form)]
    assert digests[0] == digests[1] != []
    assert (await runner.http.post("/jobs", content=b"{", headers=kind)).status_code == 400
    assert (await runner.http.post("/jobs", content=b"{}", headers=kind)).status_code == 422
    clip = order | {"pipeline": "image-to-video", "params": {"seed": 1, "width": 64, "height": 64}}
    answer = await runner.http.post("/jobs", content=json.dumps(clip), headers=kind)
    assert answer.json()["detail"][0]["loc"] == ["image"]


async def test_the_job_part_may_be_a_file(runner: RunnerClient) -> None:
    """Some clients give every part a file name."""
    order = {"job_id": "j", "attempt": 1, "pipeline": "text-to-image", "params": FOX, "later": "ignored"}
    response = await runner.http.post("/jobs", files={"job": ("job.json", json.dumps(order).encode())})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("params", "loc", "kind"),
    [
        (FOX | {"width": 65}, ["width"], "multiple_of"),
        (FOX | {"widht": 64}, ["widht"], "extra_forbidden"),
        ({"prompt": "a fox"}, ["seed"], "missing"),
        ({"seed": 1}, ["prompt"], "missing"),
    ],
)
async def test_bad_params_name_their_field(
    runner: RunnerClient, params: dict[str, Any], loc: list[str], kind: str
) -> None:
    """422 in FastAPI's form, without the value."""
    response = await runner.http.post("/jobs", files=parts(params=params))
    assert response.status_code == 422
    (row,) = response.json()["detail"]
    assert (row["loc"], row["type"]) == (loc, kind)
    assert "a fox" not in response.text


async def test_a_pipeline_that_is_not_served_is_unsupported(tmp_path: Path) -> None:
    """The runner names those that it serves."""
    async with serving(build(settings(pipelines=["upscale"])), tmp_path) as client:
        await client.until(State.READY)
        response = await client.http.post("/jobs", files=parts(params=FOX))
        assert response.status_code == 422
        assert response.json()["class"] == "unsupported"
        assert "it serves upscale" in response.json()["detail"][0]["msg"]


async def test_a_missing_input_is_named(runner: RunnerClient) -> None:
    """422 at the input's name."""
    response = await runner.http.post("/jobs", files=parts(**CLIP))
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["image"]


@pytest.mark.parametrize("image", [b"hello", b"", picture()[:-30]], ids=["text", "empty", "truncated"])
async def test_an_input_that_is_no_picture(runner: RunnerClient, image: bytes) -> None:
    """415, of class `user`, and the permit is free."""
    response = await runner.http.post("/jobs", files=parts(image=image, **CLIP))
    assert response.status_code == 415
    assert response.json()["detail"]["class"] == "user"
    assert (await runner.health())["state"] == "READY"


async def test_limits_on_size(tmp_path: Path) -> None:
    """413 for a picture of too many pixels and for a request of too many bytes."""
    limits = settings(max_pixels=1000, max_body_bytes=100_000)
    async with serving(build(limits), tmp_path) as client:
        await client.until(State.READY)
        for image in (picture(96, 64), bytes(200_000)):
            response = await client.http.post("/jobs", files=parts(image=image, **CLIP))
            assert response.status_code == 413


async def test_canceling_an_unknown_job(runner: RunnerClient) -> None:
    """404."""
    assert (await runner.http.delete("/jobs/nothing")).status_code == 404


async def test_openapi_describes_the_api(runner: RunnerClient) -> None:
    """Each route, and the form of a job."""
    api = (await runner.http.get("/openapi.json")).json()
    assert set(api["paths"]) == {"/health", "/info", "/metrics", "/jobs", "/jobs/{job_id}"}
    form = api["paths"]["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["job"]


async def test_another_work_than_the_inputs_is_refused_before_the_permit(runner: RunnerClient) -> None:
    """The order's work has to be that of the decoded picture; what it is stands in `started`, odd sizes as well."""
    order: dict[str, Any] = {"params": {"prompt": "a fox", "seed": 1}, "pipeline": "upscale", "image": picture(37, 23)}
    steps = PIPELINES["upscale"].work(PIPELINES["upscale"].parse(order["params"]), Size(37, 23))
    right = {"pixel_steps": steps.pixel_steps, "output_pixels": steps.output_pixels}
    async with runner.stream(**order, **right | {"pixel_steps": 1}) as response:
        body = json.loads(await response.aread())
    assert (response.status_code, body["class"], body["detail"]["code"]) == (422, "refused", "work")
    assert (await runner.health())["state"] == State.READY
    for told in (right, {}):
        answer = await runner.run(**order, **told)
        assert answer.events[0] == {"event": "started", **right}
        assert answer.last["event"] == "done"


@pytest.mark.parametrize("path", ["/health", "/info", "/metrics", "/openapi.json"])
async def test_head_is_answered_wherever_get_is(runner: RunnerClient, path: str) -> None:
    """Without the body; another method gets 405, and is told both."""
    got, head = await runner.http.get(path), await runner.http.head(path)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", got.headers["content-type"])
    posted = await runner.http.post(path)
    assert (posted.status_code, set(posted.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    asked = await runner.http.head("/jobs")
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST")


async def test_null_is_an_absent_value(runner: RunnerClient) -> None:
    """In the order and in its parameters; where it is no default, as for the seed, it is missing."""
    params = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 1}
    absent = dict.fromkeys(("attempt", "deadline_s", "pixel_steps", "anything"))
    nulls = dict.fromkeys(("negative_prompt", "guidance_scale", "loras", "output_format", "preview_steps"))
    answer = await runner.run(params=params | nulls, **absent)
    assert answer.last["event"] == "done"
    async with runner.stream(params={**params, "seed": None}) as response:
        body = json.loads(await response.aread())
    assert (response.status_code, body["detail"][0]["loc"]) == (422, ["seed"])

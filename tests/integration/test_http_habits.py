"""What curl, browsers, proxies and generated clients send, and what they get: on a true server, through every guard."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from broadcaster.openapi import document
from reelnet.pipelines import PIPELINES
from tests.fakes.pool import PATIENCE_S, InProcessEngine, Pool, PoolPlan, running_pool, sse_events
from tests.fakes.runner import picture
from tests.fakes.schema import faults
from tests.integration.test_cancel import SYNTHETIC

pytestmark = pytest.mark.asyncio(loop_scope="module")
SMALL: dict[str, Any] = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
DEFAULTS = {"synthetic/bars": {"defaults": {"output_format": "webp", "num_images_per_prompt": 2}}}
DOCUMENT = document()
FORM = b'--b\r\ncontent-disposition: form-data; name="image"; filename="f"\r\n\r\n'
FORM_HEAD = "content-type: multipart/form-data; boundary=b\r\n"
JSON_HEAD = "content-type: application/json\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    """One synthetic node, and a broadcaster that names no proxy."""
    the_plan = PoolPlan(tmp_path_factory.mktemp("home"), [InProcessEngine()], [SYNTHETIC])
    the_plan.broadcaster = {"catalogue": DEFAULTS}
    async with running_pool(the_plan) as running:
        yield running


def schema(name: str) -> dict[str, Any]:
    """A schema of the API's description."""
    return {"$ref": f"#/components/schemas/{name}"}


READS = ("/models", "/healthz", "/openapi.json")


@pytest.mark.parametrize("path", READS)
async def test_head_is_answered_wherever_get_is(pool: Pool, path: str) -> None:
    """With the length and the type, and without the body."""
    got, head = await pool.http.get(path), await pool.http.head(path)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    for name in ("content-length", "content-type"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(("GET", f"/{name}", {"POST"}) for name in PIPELINES),
        ("HEAD", "/text-to-image", {"POST"}),
        ("OPTIONS", "/text-to-image", {"POST"}),
        ("PUT", "/text-to-image", {"POST"}),
        *(("POST", path, {"GET", "HEAD"}) for path in (*READS, "/media/x.png")),
        ("DELETE", "/media/x.png", {"GET", "HEAD"}),
        ("PATCH", "/models", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_told_which_there_are(pool: Pool, method: str, path: str, allowed: set[str]) -> None:
    """405 with Allow, in our shape."""
    answer = await pool.http.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "method"


async def test_the_metrics_listener_knows_head_and_allow(pool: Pool) -> None:
    """As every server of ours does."""
    base = f"http://127.0.0.1:{pool.broadcaster.metrics_port}"
    for path in ("/livez", "/readyz", "/metrics"):
        got, head = await pool.http.get(base + path), await pool.http.head(base + path)
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", got.headers["content-type"])
        posted = await pool.http.post(base + path)
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    assert (await pool.http.post(f"{base}/nothing")).status_code == 404


async def test_answers_are_as_they_are_described(pool: Pool) -> None:
    """A job's, a failure's, a stream's, the pool's and its health's."""
    done = await pool.job("text-to-image", SMALL)
    assert not faults(done.json(), schema("Answer"), DOCUMENT)
    wrong = await pool.job("text-to-image", {**SMALL, "width": 1})
    assert not faults(wrong.json(), schema("InvalidParameters"), DOCUMENT)
    assert not faults((await pool.http.get("/nothing")).json(), schema("Failure"), DOCUMENT)
    assert not faults((await pool.http.get("/models")).json(), schema("Pool"), DOCUMENT)
    assert not faults((await pool.http.get("/healthz")).json(), schema("Health"), DOCUMENT)
    stream = await pool.http.post("/text-to-image", json=SMALL, headers={"accept": "text/event-stream"})
    for name, data in sse_events(stream.text):
        assert not faults({"event": name, "data": data}, schema("Event"), DOCUMENT), name
    assert (await pool.http.get("/openapi.json")).json() == DOCUMENT


@pytest.mark.parametrize("name", ["from.my_proxy-7", None])
async def test_every_answer_has_a_request_id(pool: Pool, name: str | None) -> None:
    """Good or bad, from a guard or from a route, whatever is asked; errors say it in their body too."""
    headers = {"x-request-id": name} if name else {}
    media = urlsplit((await pool.job("text-to-image", SMALL)).json()["images"][0]["url"]).path
    for method, path in (
        ("GET", "/models"),
        ("HEAD", "/models"),
        ("GET", media),
        ("GET", "/nothing"),
        ("GET", "/media/x"),
    ):
        answer = await pool.http.request(method, path, headers=headers)
        assert answer.headers["x-request-id"] == (name or answer.headers["x-request-id"]) != ""
        if answer.is_error:
            assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    refused = await pool.http.get("/models", headers={**headers, "origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["error"]["request_id"]) == (403, refused.headers["x-request-id"])


async def test_a_failed_job_names_itself(pool: Pool) -> None:
    """In the plain answer and in the stream: by it the journal and the node's log are read."""
    fails = {**SMALL, "prompt": "boat !fail node"}
    with capture_logs() as logged:
        plain = (await pool.job("text-to-image", fails)).json()["error"]
        stream = await pool.http.post("/text-to-image", json=fails, headers={"accept": "text/event-stream"})
    _, last = sse_events(stream.text)[-1]
    jobs = [line["job"] for line in logged if line["event"] == "job" and "key" in line]
    assert [plain["job_id"], last["error"]["job_id"]] == jobs


async def test_a_refused_stream_has_its_status(pool: Pool) -> None:
    """503 and Retry-After where no node takes the job: no stream begins."""
    asks = {**SMALL, "prompt": "boat !fail busy"}
    pool.broadcaster.gateway.draining = True
    try:
        answer = await pool.http.post("/text-to-image", json=asks, headers={"accept": "text/event-stream"})
    finally:
        pool.broadcaster.gateway.resume()
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    assert int(answer.headers["retry-after"]) >= 1
    assert (answer.json()["error"]["code"], bool(answer.json()["error"]["job_id"])) == ("draining", True)


ABSENT = (
    "negative_prompt", "width", "guidance_scale", "num_images_per_prompt", "loras", "scheduler", "output_format",
    "seed", "safety", "safety_check", "model_id", "preview_steps", "strength", "image", "anything_else",
)  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
async def test_null_is_an_absent_value(pool: Pool, name: str) -> None:
    """The default, the catalogue's before the pipeline's, is taken; whatever the name is."""
    answer = await pool.http.post("/text-to-image", json={**SMALL, name: None})
    assert answer.status_code == 200, answer.text
    images = answer.json()["images"]
    assert (len(images), images[0]["url"][-5:]) == (2, ".webp")


async def test_null_and_empty_are_absent_in_what_has_parts(pool: Pool) -> None:
    """A LoRA without a strength is off; an empty text in a form is no value, before the catalogue's default either."""
    assert (await pool.http.post("/text-to-image", json={**SMALL, "loras": {"acme/x": None}})).status_code == 200
    fields = {**{key: str(value) for key, value in SMALL.items()}, "num_images_per_prompt": "", "output_format": ""}
    answer = await pool.http.post("/text-to-image", files={name: (None, value) for name, value in fields.items()})
    assert len(answer.json()["images"]) == 2


async def test_null_is_no_prompt(pool: Pool) -> None:
    """What is required is missing then."""
    answer = await pool.http.post("/text-to-image", json={**SMALL, "prompt": None})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "prompt"])


AS_TEXT: list[Any] = [
    ("image-to-image", {"prompt": "x", "image": "data:image/png;base64,iVBORw0KGgo="}, "image"),
    ("image-to-image", {"prompt": "x", "image": "https://app.example/cat.png"}, "image"),
    ("image-to-image", {"prompt": "x", "image": {"url": "https://app.example/cat.png"}}, "image"),
    ("image-to-image", {"prompt": "x", "init_image": "https://app.example/cat.png"}, "init_image"),
    ("image-to-video", {"image_url": "https://app.example/cat.png"}, "image_url"),
    ("image-to-video", {"imageBase64": "iVBORw0KGgo="}, "imageBase64"),
    ("upscale", {"image": ""}, "image"),
    ("upscale", {"my_cat": "data:image/png;base64,iVBORw0KGgo="}, "my_cat"),
    ("upscale-video", {"video": "https://app.example/cat.mp4"}, "video"),
    ("frame-interpolation", {"video_url": "https://app.example/cat.mp4"}, "video_url"),
    ("text-to-image", {"prompt": "x", "image": "data:image/png;base64,iVBORw0KGgo="}, "image"),
]


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize(("pipeline", "fields", "name"), AS_TEXT)
async def test_a_picture_as_text_is_told_how_to_come(
    pool: Pool, pipeline: str, fields: dict[str, Any], name: str, form: bool
) -> None:
    """As an address or as base64, in JSON or in a form's field: one row, which says multipart."""
    if form:
        parts = {key: (None, value if isinstance(value, str) else json.dumps(value)) for key, value in fields.items()}
        answer = await pool.http.post(f"/{pipeline}", files=parts)
    else:
        answer = await pool.http.post(f"/{pipeline}", json=fields)
    assert answer.status_code == 422
    (row,) = answer.json()["detail"]
    assert (row["loc"], "multipart/form-data" in row["msg"]) == (["body", name], True)


async def test_a_large_picture_as_text_is_told_too(pool: Pool) -> None:
    """It is over the bound of a text before it is looked at."""
    text = "data:image/png;base64," + "A" * 2**20
    answer = await pool.http.post("/image-to-image", json={"prompt": "x", "image": text})
    assert (answer.status_code, "multipart/form-data" in answer.text) == (413, True)
    answer = await pool.http.post("/image-to-image", files={"prompt": (None, "x"), "image": (None, text)})
    assert (answer.status_code, "as a file" in answer.text) == (400, True)


async def test_a_forms_empty_file_is_absent(pool: Pool) -> None:
    """A page's form sends a file without a name where none was chosen."""
    body = b"".join(
        f'--b\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in SMALL.items()
    )
    body += b'--b\r\ncontent-disposition: form-data; name="image"; filename=""\r\n'
    body += b"content-type: application/octet-stream\r\n\r\n\r\n--b--\r\n"
    answer = await pool.http.post(
        "/text-to-image", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200, answer.text


async def test_a_file_of_another_name_is_told_its_own(pool: Pool) -> None:
    """`-F file=@cat.png` is a slip that everybody makes."""
    answer = await pool.job("image-to-image", {"prompt": "x"}, picture(), name="file")
    assert "sent as 'image'" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("pipeline", ["image-to-image", "image-to-video", "upscale"])
async def test_a_picture_that_cannot_be_used_is_a_bad_request(pool: Pool, pipeline: str) -> None:
    """400, whose message the published clients show; 415 they do not know."""
    fields = {"prompt": "x"} if "prompt" in PIPELINES[pipeline].params.model_fields else {}
    answer = await pool.job(pipeline, fields, b"no picture, whatever its name says")
    assert (answer.status_code, set(answer.json()["detail"])) == (400, {"msg"})


async def test_a_clip_that_cannot_be_used_is_of_no_type_that_is_taken(pool: Pool) -> None:
    """415: no published client sends clips."""
    assert (await pool.job("upscale-video", {}, b"no clip", name="video")).status_code == 415


async def test_a_packed_body_is_read(pool: Pool) -> None:
    """JSON and a form; another coding gets 415 and what there is."""
    packed = {"content-encoding": "GZip", "content-type": "application/json"}
    answer = await pool.http.post("/text-to-image", content=gzip.compress(json.dumps(SMALL).encode()), headers=packed)
    assert answer.status_code == 200, answer.text
    form = pool.http.build_request("POST", "/upscale", files={"image": ("a.png", picture())})
    headers = {"content-encoding": "gzip", "content-type": form.headers["content-type"]}
    answer = await pool.http.post("/upscale", content=gzip.compress(await form.aread()), headers=headers)
    assert answer.status_code == 200, answer.text
    answer = await pool.http.post("/text-to-image", content=b"x", headers={"content-encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")


LEAVES: list[Any] = [
    pytest.param("/text-to-image", JSON_HEAD + "content-length: 100\r\n", b"{", id="json"),
    pytest.param("/text-to-image", JSON_HEAD + "content-length: 100\r\n", b"", id="nothing"),
    pytest.param(
        "/text-to-image", JSON_HEAD + "accept: text/event-stream\r\ncontent-length: 100\r\n", b"{", id="stream"
    ),
    pytest.param(
        "/text-to-image", JSON_HEAD + "content-encoding: gzip\r\ncontent-length: 100\r\n", b"\x1f\x8b", id="gzip"
    ),
    pytest.param("/upscale", FORM_HEAD + "content-length: 9000000\r\n", FORM + b"x", id="form"),
    pytest.param("/upscale", FORM_HEAD + "content-length: 9000000\r\n", FORM + b"x" * 3_000_000, id="large-form"),
    pytest.param("/upscale", FORM_HEAD + "transfer-encoding: chunked\r\n", b"3\r\n--b\r\n", id="chunked"),
]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("path", "head", "body"), LEAVES)
async def test_a_client_that_leaves_in_its_upload_is_no_fault(
    pool: Pool, path: str, head: str, body: bytes, reset: bool
) -> None:
    """Nothing is logged as an error, and it is counted as what it is."""
    before = await left(pool)
    with capture_logs() as logged:
        _, writer = await asyncio.open_connection("127.0.0.1", pool.http.base_url.port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n".encode() + body)
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while await left(pool) != {**before, "left": before["left"] + 1}:
                await asyncio.sleep(0.01)
    assert not [line for line in logged if line["log_level"] in ("warning", "error", "critical")]


async def left(pool: Pool) -> dict[str, float]:
    """Requests that were refused, by reason."""
    text = (await pool.http.get(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/metrics")).text
    lines = (line.split('"') for line in text.splitlines() if line.startswith("reelnet_refusals_total{"))
    return {reason: float(count.removeprefix("} ")) for _, reason, count in lines}


@pytest.mark.parametrize("path", ["/models", "/healthz", "/openapi.json"])
async def test_a_foreign_name_reads_nothing(pool: Pool, path: str) -> None:
    """A page that lets its own name point here reads as little as it can post; results are for everybody."""
    answer = await pool.http.get(path, headers={"host": "evil.example:9935"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host")
    posted = await pool.http.post("/text-to-image", json=SMALL, headers={"host": "evil.example"})
    assert posted.status_code == 403
    url = (await pool.job("text-to-image", SMALL)).json()["images"][0]["url"]
    assert (await pool.http.get(url, headers={"host": "cdn.example"})).status_code == 200


async def test_links_are_as_the_client_called(pool: Pool) -> None:
    """By the name that it used; nobody's word of a proxy is believed where none is named."""
    said = {"host": "localhost:8443", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
    answer = await pool.http.post("/text-to-image", json=SMALL, headers=said)
    assert answer.json()["images"][0]["url"].startswith("http://localhost:8443/media/")


async def test_what_is_no_http_gets_an_answer_in_our_shape(pool: Pool) -> None:
    """With a code and an id too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pool.http.base_url.port)
    writer.write(b"\x16\x03\x01 no http\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert head.startswith(b"HTTP/1.1 400 ")
    assert (error["code"], f"x-request-id: {error['request_id']}".encode() in head) == ("head", True)


async def test_a_named_proxy_is_believed(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Links carry the scheme and the name by which the proxy was called; pages of that name may call."""
    home = tmp_path_factory.mktemp("proxied")
    the_plan = PoolPlan(home, [InProcessEngine()], [SYNTHETIC], broadcaster={"proxies": ["127.0.0.1"]})
    async with running_pool(the_plan) as behind:
        said = {"x-forwarded-proto": "https", "x-forwarded-host": "api.example", "origin": "https://api.example"}
        answer = await behind.http.post("/text-to-image", json=SMALL, headers=said)
        assert answer.json()["images"][0]["url"].startswith("https://api.example/media/")
        other = await behind.http.post("/text-to-image", json=SMALL, headers={**said, "origin": "https://evil.example"})
        assert other.status_code == 403

"""From a request to a job: what is found before any node is asked."""

from __future__ import annotations

import errno
import json
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from broadcaster.inspector import Inspector
from broadcaster.intake import MAX_MODEL_ID_CHARS, Intake, InvalidParamsError, handling_of, read_body
from broadcaster.job import JobRequest
from broadcaster.keys import ApiKey
from broadcaster.local_failure import LocalError
from broadcaster.registry import Registry
from broadcaster.scores import Scores
from broadcaster.settings import BroadcasterSettings, CatalogueEntry
from reelnet.client import Address, Update
from reelnet.errors import ReelnetError
from reelnet.inspection import Handling, InputLimits, PictureFacts
from reelnet.jobs import Capability, Description, Load, NodeId
from reelnet.picture_wishes import taken_wishes
from reelnet.pipelines import FAMILIES, PIPELINES
from reelnet.pricing import Rates
from reelnet.rpc import RpcLimits
from reelnet.warnings import JobWarning

SHORT, LONGEST = "acme/sd", "m" * MAX_MODEL_ID_CHARS
FULL = OSError(errno.ENOSPC, "No space left on device")


class Copies(Inspector):
    """An inspector that finds every picture good, and copies it as it is."""

    def __init__(self, failure: OSError | None = None) -> None:
        self._failure = failure

    async def picture(
        self,
        path: Path,
        *,
        stripped_to: Path | None = None,
        limits: InputLimits | None = None,
        handling: Handling | None = None,
    ) -> PictureFacts:
        if self._failure:
            raise self._failure
        assert stripped_to
        stripped_to.write_bytes(path.read_bytes())
        notes = (("profile_ignored", "Its profile is broken."),)
        return PictureFacts("image/png", 64, 64, 7, "", constant=False, fingerprint="", notes=notes)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A pool of one node with two models, one of the longest name."""
    made = Registry([Address("127.0.0.1:1")], RpcLimits(), Scores(), random.Random(5))
    served = tuple(Capability("text-to-image", "text-to-image/sd@3", m, "d" * 64, Rates()) for m in (SHORT, LONGEST))
    made._take(made.nodes()[0], Update(Description(NodeId("n"), "e", 1, 1, 1, served), Load()))
    yield made
    await made.nodes()[0].client.close()


def intake(registry: Registry, scratch: Path, failure: OSError | None = None) -> Intake:
    """As a broadcaster has it."""
    settings = BroadcasterSettings.model_validate({"home": scratch, "orchestrators": ["127.0.0.1:1"]})
    return Intake(settings, registry, Copies(failure), scratch)


async def asked(taken: Intake, key: ApiKey | None = None, **fields: Any) -> JobRequest:
    """The job of a JSON request, which came with a key or without."""

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps({"prompt": "boat", **fields}).encode()}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    scope |= {"state": {"key": key}} if key else {}
    return await taken.job(PIPELINES["text-to-image"], Request(scope, receive))


@pytest.mark.parametrize(
    ("name", "model"),
    [(LONGEST, LONGEST), (SHORT, SHORT), (f" {SHORT}\t ", SHORT), (None, SHORT), ("", SHORT), ("  ", SHORT)],
)
async def test_a_models_name_is_found(registry: Registry, tmp_path: Path, name: str | None, model: str) -> None:
    """Up to its bound, with blanks around it; none is the first of those that most nodes serve."""
    assert (await asked(intake(registry, tmp_path), model_id=name)).model == model


@pytest.mark.parametrize(
    "name", [LONGEST + "m", "x" * 200_000, " " * 257, "a\nb", "\u202ex", "\ud800", 7, [], {}, True]
)
async def test_a_models_name_is_bounded(registry: Registry, tmp_path: Path, name: object) -> None:
    """Text of so many printable characters, or a row that names the field and shows nothing of it."""
    with pytest.raises(InvalidParamsError) as caught:
        await asked(intake(registry, tmp_path), model_id=name)
    (row,) = caught.value.rows
    assert row["loc"] == ["body", "model_id"]
    assert row["msg"].startswith("expected")
    assert len(row["msg"]) < 100


async def test_the_answers_warnings_begin_with_the_request(registry: Registry, tmp_path: Path) -> None:
    """Brackets, and previews that nobody is to see; the job keeps which parameters were named."""
    job = await asked(intake(registry, tmp_path), prompt="a (boat:1.2)", preview_steps=3)
    assert [warning.code for warning in job.warnings] == ["plain_brackets", "no_preview"]
    assert job.given == {"prompt", "preview_steps"}
    assert job.preview_steps == 0
    assert (await asked(intake(registry, tmp_path))).warnings == ()


async def test_an_input_is_kept_without_its_file(registry: Registry, tmp_path: Path) -> None:
    """The copy that the inspector made is the input; nothing is left in the folder."""
    found = await intake(registry, tmp_path)._input("image", b"picture", Handling())
    assert (found.data, found.ref.size) == (b"picture", 7)
    assert found.warnings == (JobWarning("profile_ignored", "Its profile is broken.", "image"),)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["folder", "file", "copy"])
async def test_a_disk_that_takes_no_input_is_the_broadcasters_failure(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """503 with the folder and a time to ask again, whichever write it refuses; never a fault of this program."""

    def full(*_: Any, **__: Any) -> Any:
        raise FULL

    taken = intake(registry, tmp_path, FULL if at == "copy" else None)
    if at == "folder":
        monkeypatch.setattr(tempfile, "mkdtemp", full)
    if at == "file":
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LocalError, match="No space left") as caught:
        await taken._input("image", b"picture", Handling())
    assert (caught.value.http_status, str(tmp_path) in caught.value.message) == (503, True)
    assert caught.value.retry_after_s
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_takes_no_form_is_the_broadcasters_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form's large file goes to the folder for temporary files while it comes."""

    def full(*_: Any) -> Any:
        raise FULL

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    head = b'--b\r\ncontent-disposition: form-data; name="image"; filename="f"\r\n\r\n'

    async def receive() -> Message:
        return {"type": "http.request", "body": head + bytes(2**20 + 1) + b"\r\n--b--\r\n"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}
    with pytest.raises(LocalError, match="TMPDIR") as caught:
        await read_body(Request(scope, receive), 100)
    error: ReelnetError = caught.value
    assert error.http_status == 503


async def test_a_job_is_its_keys(registry: Registry, tmp_path: Path) -> None:
    """It carries the key's id and name, and nothing else of it."""
    key = ApiKey(bytes(range(32)), name="shop")
    job = await asked(intake(registry, tmp_path), key)
    assert (job.key_id, job.key_name) == ("000102030405", "shop")
    without = await asked(intake(registry, tmp_path))
    assert (without.key_id, without.key_name) == ("", "")


@pytest.mark.parametrize(
    ("name", "params", "wishes", "expected"),
    [
        ("image-to-image", {"prompt": "a"}, {}, Handling(most_pixels=2048 * 2048)),
        ("image-to-image", {"prompt": "a"}, {"fit_input": "true"}, Handling(most_pixels=2048 * 2048, fit=True)),
        ("image-to-image", {"prompt": "a"}, {"background": "#ff8000"}, Handling((255, 128, 0), False, 2048 * 2048)),
        ("image-to-video", {}, {"background": "Black"}, Handling((0, 0, 0))),
        ("upscale", {}, {}, Handling(keep_alpha=True, most_pixels=2048 * 2048)),
        ("upscale", {}, {"background": ""}, Handling(keep_alpha=True, most_pixels=2048 * 2048)),
        ("upscale", {"output_format": "jpeg"}, {}, Handling(most_pixels=2048 * 2048)),
        ("upscale", {}, {"background": "grey"}, Handling((128, 128, 128), False, 2048 * 2048)),
    ],
)
def test_what_becomes_of_a_picture(
    name: str, params: dict[str, Any], wishes: dict[str, Any], expected: Handling
) -> None:
    """By the pipeline, its parameters and the request's wishes, which are no parameters."""
    pipeline, fields = PIPELINES[name], {**params, **wishes}
    found = taken_wishes(pipeline, fields)
    assert fields == params
    handling = handling_of(pipeline, pipeline.parse({"seed": 1, **params}), found)
    assert handling == expected


@pytest.mark.parametrize(
    ("name", "wish", "where"),
    [
        ("image-to-image", {"background": "mauve"}, "background"),
        ("image-to-image", {"background": "#12"}, "background"),
        ("upscale", {"fit_input": "perhaps"}, "fit_input"),
        ("image-to-video", {"fit_input": True}, "fit_input"),
        ("text-to-image", {"background": "white"}, "background"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_by_its_name(
    registry: Registry, tmp_path: Path, name: str, wish: dict[str, Any], where: str
) -> None:
    """An unknown colour, and a wish that this pipeline has nothing for; the message lists those that it has."""
    served = (Capability(name, PIPELINES[name].schema, "acme/it", "d" * 64, Rates()),)
    registry._take(registry.nodes()[0], Update(Description(NodeId("n"), "e", 2, 1, 1, served), Load()))
    with pytest.raises(InvalidParamsError) as caught:
        await intake(registry, tmp_path).job(PIPELINES[name], request_of({"prompt": "a", "model_id": "acme/it"} | wish))
    row = next(row for row in caught.value.rows if row["loc"] == ["body", where])
    assert row["msg"] == "expected #rrggbb, white, black or grey" or wish != {"background": "mauve"}


def request_of(fields: dict[str, Any]) -> Request:
    """A request with a JSON body."""
    body = json.dumps(fields).encode()

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}, receive)


async def test_what_is_absent_takes_the_catalogues_default(registry: Registry, tmp_path: Path) -> None:
    """Null and an empty text alike; what is given counts before it, and is known as given."""
    taken = intake(registry, tmp_path)
    entry = CatalogueEntry(defaults={"width": 128, "negative_prompt": "rain", "scheduler": "euler"})
    taken.settings = taken.settings.model_copy(update={"catalogue": {SHORT: entry}})
    for absent in (None, ""):
        job = await asked(taken, model_id=SHORT, width=absent, negative_prompt=absent, scheduler=absent, height=64)
        assert (
            job.params.model_dump().items() >= {"width": 128, "negative_prompt": "rain", "scheduler": "euler"}.items()
        )
        assert job.given == {"prompt", "height"}
    job = await asked(taken, model_id=SHORT, width=64, scheduler="heun")
    assert job.params.model_dump().items() >= {"width": 64, "scheduler": "heun"}.items()


async def test_a_parameter_of_another_family_may_be_absent(registry: Registry, tmp_path: Path) -> None:
    """A client that knows one family sends all of its names, the empty ones too."""
    pipeline = FAMILIES["image-to-image", "pix2pix"]
    for absent in (None, ""):
        assert pipeline.without_absent({"prompt": "x", "strength": absent}) == {"prompt": "x"}
    assert pipeline.without_absent({"prompt": ""}) == {"prompt": ""}, "what is required is empty, not absent"

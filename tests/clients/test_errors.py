"""Each failure reaches a published client's user as that client's own class, with what we said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.drivers import Driver
from tests.clients.failures import check_failure
from tests.clients.pools import Pool, StrictBroadcaster

FORM_TEXT_BYTES = 2**20
BODY_BYTES = 64 * 2**20
"""Default limits: of one text in a form, and of a whole request."""


def test_400(client: Driver, synthetic: Pool, small_picture: Path) -> None:
    """A form that cannot be read."""
    text = "x" * (FORM_TEXT_BYTES + 1)
    answer = client.call(synthetic.url, "image_to_image", picture=small_picture, prompt=text)
    check_failure(answer, 400, "the form cannot be read")


def test_401(client: Driver, strict: StrictBroadcaster, photograph: Path) -> None:
    """A key that is not known, for either kind of body."""
    said = "an API key is needed"
    key = strict.keys[0][:-1]
    check_failure(client.call(strict.url, "text_to_image", key=key, prompt="boat"), 401, said)
    check_failure(client.call(strict.url, "image_to_video", key=key, picture=photograph), 401, said)


def test_404(client: Driver, synthetic: Pool) -> None:
    """A base that is not ours."""
    answer = client.call(f"{synthetic.url}/v2", "text_to_image", prompt="boat")
    check_failure(answer, 404, "there is no /v2/text-to-image")


def test_413(client: Driver, synthetic: Pool, tmp_path: Path) -> None:
    """A request over the limit; its answer is heard although it comes before the body has been sent."""
    picture = tmp_path / "large.png"
    with picture.open("wb") as file:
        file.truncate(BODY_BYTES + 2**20)
    answer = client.call(synthetic.url, "image_to_video", picture=picture)
    check_failure(answer, 413, f"the request is larger than {BODY_BYTES} bytes")


def test_400_for_a_bad_picture(client: Driver, synthetic: Pool, tmp_path: Path) -> None:
    """A file that is no picture is an HTTPError, as with the peer's own server, and no SDKError."""
    (tmp_path / "picture.png").write_text("no picture")
    answer = client.call(synthetic.url, "image_to_video", picture=tmp_path / "picture.png")
    check_failure(answer, 400, "this is no picture: expected PNG, JPEG")


@pytest.mark.parametrize(
    ("params", "field", "said"),
    [
        ({"width": 100}, "width", "multiple of 8"),
        ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1"),
        ({"model_id": "acme/none"}, "model_id", "no node of this pool serves text-to-image with that model"),
        ({"loras": "none"}, "loras", "JSON"),
    ],
)
def test_422(client: Driver, synthetic: Pool, params: dict[str, object], field: str, said: str) -> None:
    """A parameter that is wrong is named."""
    answer = client.call(synthetic.url, "text_to_image", prompt="boat", **params)
    check_failure(answer, 422, said)
    assert answer.error
    assert answer.error["data"]["detail"][0]["loc"][:2] == ["body", field]


def test_422_for_a_key_with_a_policy(client: Driver, strict: StrictBroadcaster) -> None:
    """What nobody can check is not made, and the reason told, although the client knows no such policy."""
    answer = client.call(strict.url, "text_to_image", key=strict.held_key, prompt="boat")
    check_failure(answer, 422, "every job of yours is held to safety=refuse here")


def test_500(client: Driver, synthetic: Pool) -> None:
    """A job that every node fails."""
    answer = client.call(synthetic.url, "text_to_image", prompt="boat !fail node")
    check_failure(answer, 500, "a fault was asked for")


def test_429_and_503(client: Driver, strict: StrictBroadcaster) -> None:
    """A key's own limit is 429, a full broadcaster 503, both with a time to ask again; then there is room."""
    mine, other = strict.keys
    size = {"width": 64, "height": 64, "num_inference_steps": 2}
    with strict.job(mine):
        for key, status, said in (
            (mine, 429, "this key has 1 job(s) under way, as many as it may have at once"),
            (other, 503, "the broadcaster has all the jobs it may have"),
        ):
            answer = client.call(strict.url, "text_to_image", key=key, prompt="boat", **size)
            check_failure(answer, status, said)
            assert answer.error
            assert json.loads(answer.error["body"])["error"]["retry_after_s"] > 0
    assert client.call(strict.url, "text_to_image", key=mine, prompt="boat", **size).images


def test_504(client: Driver, strict: StrictBroadcaster, small_picture: Path) -> None:
    """A job that is not done by its deadline."""
    answer = client.call(strict.url, "upscale", key=strict.keys[0], picture=small_picture, prompt="boat !slow 60")
    check_failure(answer, 504, "the job was not done by its deadline")

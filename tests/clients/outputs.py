"""What a client is given, looked at as an app would: fetched by its link, without a key, and decoded."""

from __future__ import annotations

import io
from typing import Any

import av
import httpx
from PIL import Image

from tests.clients.drivers import Answer
from tests.clients.pools import PATIENCE_S

MAX_RANDOM_SEED = 2**32 - 1


def images(answer: Answer) -> list[dict[str, Any]]:
    """The images of a call that went well at the first request."""
    assert answer.error is None, answer.error
    assert answer.statuses == [200]
    assert answer.images
    for image in answer.images:
        assert set(image) == {"url", "seed", "nsfw"}
        assert 0 <= image["seed"] <= MAX_RANDOM_SEED
        assert image["nsfw"] is False
    return answer.images


def fetch(image: dict[str, Any], base: str, media_type: str) -> bytes:
    """The bytes behind a link, which is absolute, starts at `base` and needs no key."""
    assert image["url"].startswith(f"{base}/media/")
    answer = httpx.get(image["url"], timeout=PATIENCE_S, trust_env=False)
    assert answer.status_code == httpx.codes.OK
    assert answer.headers["content-type"] == media_type
    return answer.content


def check_picture(image: dict[str, Any], base: str, size: tuple[int, int]) -> None:
    """A whole PNG of this size, in which something is to be seen."""
    with Image.open(io.BytesIO(fetch(image, base, "image/png"))) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", size)
        assert len(set(picture.convert("L").resize((16, 16)).tobytes())) > 1


def check_clip(image: dict[str, Any], base: str, size: tuple[int, int]) -> None:
    """A whole clip of this size with the default number of frames, 14, and rate, 6 a second."""
    with av.open(io.BytesIO(fetch(image, base, "video/mp4"))) as clip:
        stream = clip.streams.video[0]
        frames = [frame.to_ndarray(format="gray") for frame in clip.decode(stream)]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", *size)
        assert (len(frames), stream.average_rate) == (14, 6)
        assert (frames[0] != frames[-1]).any()

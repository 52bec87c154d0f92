"""One job's messages, as the product sends them at each hop: made once, then only sent.

`tests/integration/benchmark/test_floor.py` compares them with what the product sends.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from reelnet import codec
from reelnet.codec import Acknowledge, FrameValue, TicketFrame
from reelnet.identity import Identity, Signed
from reelnet.jobs import Accepted, BroadcasterId, Chunk, Done, Event, JobId, NodeId, Output, Started, Ticket
from reelnet.parameters import Params
from reelnet.pipelines import PIPELINES, MediaSpec, Work
from reelnet.pricing import Rates, format_money, price
from reelnet.rpc import CHUNK_BYTES
from reelnet.ticket import sign_receipt, sign_ticket
from reelnet.v1 import types_pb2 as pb

PIPELINE = "text-to-image"
MODEL = "synthetic/bars"
REQUEST: dict[str, Any] = {"prompt": "a rocket", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 7}
"""What an app asks for in the overhead benchmark, where the result is small."""
MEDIA_TYPE = "image/png"
_ID = "019a3b4c5d6" + "0" * 24
_TIMINGS = {"denoise": 4.1e-05, "decode": 1.2e-05, "encode": 3.9e-05, "run": 0.000412}
_ROUNDED = {stage: round(seconds, 4) for stage, seconds in _TIMINGS.items()}
_FACTS = {"class": "Synthetic", "python": platform.python_version(), "runner": version("reelnet")}
_RATES = Rates(mpix_step=4_500)
_QUOTE = price(PIPELINES[PIPELINE].work(PIPELINES[PIPELINE].parse(REQUEST), None), _RATES)
_DIGEST = hashlib.sha256(b"model").hexdigest()
_MEDIA_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"cache-control", b"private, max-age=31536000, immutable"),
    (b"accept-ranges", b"bytes"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, x-request-id",
    ),
]


@dataclass(frozen=True, slots=True)
class Script:
    """What is said of one job whose result is `payload`."""

    payload: bytes
    ticket: pb.Frame
    order: bytes
    """The part `job` of the runner's request."""

    def runner_pieces(self) -> list[bytes]:
        """The runner's stream: a piece is full when it holds a chunk."""
        pieces, lines, size = [], [], 0
        for line in self.runner_lines():
            lines.append(line)
            size += len(line)
            if size >= CHUNK_BYTES:
                pieces.append(b"".join(lines))
                lines, size = [], 0
        return [*pieces, b"".join(lines)] if lines else pieces

    def runner_lines(self) -> Iterator[bytes]:
        """The runner's events; a chunk's bytes follow its line. The digest is computed here, as it is there.

        Of a stage's steps in one moment only the last is said.
        """
        work = _work(len(self.payload))
        yield _line(event="started", pixel_steps=work.pixel_steps, output_pixels=work.output_pixels)
        for stage in ("denoise", "decode", "encode"):
            yield _line(event="progress", stage=stage, step=1, total=1)
        yield _line(event="output", index=0, media_type=MEDIA_TYPE, seed=REQUEST["seed"], nsfw=None)
        for start in range(0, len(self.payload), CHUNK_BYTES):
            data = self.payload[start : start + CHUNK_BYTES]
            yield _line(event="chunk", size=len(data))
            yield data
        digest = hashlib.sha256(self.payload).hexdigest()
        yield _line(event="output_end", index=0, size=len(self.payload), sha256=digest)
        versions = {name: text for name, text in _FACTS.items() if name != "class"}
        done = {"timings_s": _TIMINGS, "model_digest": _DIGEST, "class": _FACTS["class"], "versions": versions}
        yield _line(event="done", **done, warnings=[])


def request(size: int) -> dict[str, Any]:
    """What an app asks for where the result has `size` bytes: the smallest square whose file may have as many."""
    sides = range(REQUEST["width"], 4096, 8)
    side = next(side for side in sides if MediaSpec("image", side, side).most_bytes >= size)
    return {**REQUEST, "width": side, "height": side}


@cache
def _work(size: int) -> Work:
    """The work units of a job whose result has `size` bytes."""
    return PIPELINES[PIPELINE].work(PIPELINES[PIPELINE].parse(request(size)), None)


def payload(size: int) -> bytes:
    """A result of `size` bytes that do not compress, the same each time."""
    return random.Random(size).randbytes(size)  # noqa: S311  (no secret)


def script(result: bytes) -> Script:
    """The messages of a job with that result."""
    identity = Identity.generate()
    params = PIPELINES[PIPELINE].parse(request(len(result)))
    signed = sign_ticket(identity, _ticket(identity.id, params))
    return Script(result, codec.frame_to_message(TicketFrame(signed, batches=True)), _order(params))


def _ticket(name: str, params: Params) -> Ticket:
    return Ticket(
        job_id=JobId(_ID),
        attempt=1,
        broadcaster_id=BroadcasterId(name),
        node_id=NodeId(name),
        node_epoch="0" * 16,
        pipeline=PIPELINE,
        schema=PIPELINES[PIPELINE].schema,
        model=MODEL,
        model_digest=_DIGEST,
        params=params.model_dump_json().encode(),
        inputs=(),
        work=PIPELINES[PIPELINE].work(params, None),
        rates=_RATES,
        ceiling_nano=_QUOTE,
        deadline_ms=1_800_000_000_000,
        expires_ms=1_800_000_000_000,
    )


def _order(params: Params) -> bytes:
    head = {"job_id": _ID, "attempt": 1, "pipeline": PIPELINE, "deadline_s": 599.998}
    return (json.dumps(head)[:-1] + ', "params": ' + params.model_dump_json() + "}").encode()


def accepted() -> Event:
    """The node's first word."""
    return Accepted(0, 0.0, _QUOTE)


def started() -> Event:
    """The runner has begun. Its progress is history when the output comes, and is not told."""
    return Started()


def output(chunks: list[bytes], sha256: str) -> Iterator[Event]:
    """A result, in the runner's chunks, which are as large as a message's."""
    yield Output(0, MEDIA_TYPE, sum(map(len, chunks)), sha256, REQUEST["seed"], None)
    yield from map(Chunk, chunks)


def done(line: Mapping[str, Any]) -> Event:
    """The node's last word, from the runner's."""
    facts = {"class": line["class"], **line["versions"]}
    return Done({"queue": 1.2e-05, **line["timings_s"]}, _QUOTE, line["model_digest"], facts, _receipt())


@cache
def _receipt() -> Signed:
    """As large as a node's; the floor signs nothing for a job."""
    identity = Identity.generate()
    params = PIPELINES[PIPELINE].parse(REQUEST)
    return sign_receipt(identity, _ticket(identity.id, params), ["0" * 64], _QUOTE)


def acknowledge() -> pb.Frame:
    """The broadcaster's last word."""
    return codec.frame_to_message(Acknowledge())


def batches(events: Iterable[Event]) -> Iterator[pb.Frame]:
    """Events in messages as a node packs them: a message is full when it holds a chunk's bytes."""
    batch: list[FrameValue] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event.data) if isinstance(event, Chunk) else 0
        if size >= CHUNK_BYTES:
            yield codec.frames_to_message(batch)
            batch, size = [], 0
    if batch:
        yield codec.frames_to_message(batch)


def answer(base: str, name: str) -> bytes:
    """The app's answer."""
    body = {
        "images": [{"url": f"{base}/media/{name}", "seed": REQUEST["seed"], "nsfw": False, "checked": False}],
        "warnings": [],
        "job": {
            "id": _ID,
            "pipeline": PIPELINE,
            "model": MODEL,
            "model_digest": _DIGEST,
            "node": "n" * 52,
            "attempts": 1,
            "price": format_money(_QUOTE),
            "timings_s": {"queue": 0.0, **_ROUNDED, "node_run": 0.0012},
            "made_with": _FACTS,
        },
    }
    return json.dumps(body, separators=(",", ":")).encode()


def media_headers(name: str) -> list[tuple[bytes, bytes]]:
    """The headers of a result beside its type, its length and its request's id."""
    etag, shown = f'"{name}"'.encode(), f'inline; filename="reelnet-{name}"'.encode()
    return [*_MEDIA_HEADERS, (b"etag", etag), (b"content-disposition", shown)]


def _line(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

"""What is taken of a node's outputs while they arrive."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from broadcaster.attempt import AttemptContext, Delivery
from broadcaster.media import MediaStore
from broadcaster.settings import Limits
from reelnet.errors import NodeError
from reelnet.identity import Identity
from reelnet.jobs import BroadcasterId, Done, JobId, NodeId, Output, Ticket
from reelnet.pipelines import MediaSpec, Work
from reelnet.pricing import Rates
from reelnet.ticket import sign_receipt

SILENT = MediaSpec("video", 64, 64, frames=2, fps=8)
SOUNDING = MediaSpec("video", 64, 64, frames=2, fps=8, sound="ab" * 32)
INPUTS_BYTES = 1000 + 24


def delivery(folder: Path, spec: MediaSpec, **limits: Any) -> Delivery:
    """Of a job with two inputs and one output."""
    inputs = [SimpleNamespace(ref=SimpleNamespace(size=size)) for size in (1000, 24)]
    request: Any = SimpleNamespace(id="j", promises=[spec], inputs=inputs)
    nobody: Any = None
    return Delivery(AttemptContext(nobody, MediaStore(folder), nobody, Limits(**limits)), request)


@pytest.mark.parametrize(
    ("spec", "limits", "most"),
    [
        (SILENT, {}, SILENT.most_bytes),
        (SOUNDING, {}, SOUNDING.most_bytes + INPUTS_BYTES),
        (SOUNDING, {"output_bytes": 5000}, 5000),
        (SOUNDING, {"output_bytes": SOUNDING.most_bytes + 1}, SOUNDING.most_bytes + 1),
    ],
)
async def test_an_output_has_room_for_its_pixels_and_for_a_sound_that_is_copied(
    tmp_path: Path, spec: MediaSpec, limits: dict[str, Any], most: int
) -> None:
    """As many bytes as the inputs have, where one has a sound; never more than the configured bound of an output."""

    def claimed(size: int) -> Output:
        return Output(0, "video/mp4", size, "", 1, None)

    delivery(tmp_path, spec, **limits).begin(claimed(most))
    with pytest.raises(NodeError, match=f"has at most {most}") as caught:
        delivery(tmp_path, spec, **limits).begin(claimed(most + 1))
    assert caught.value.code == "bytes"


TICKET = Ticket(
    job_id=JobId("j"), attempt=1, broadcaster_id=BroadcasterId("b"), node_id=NodeId("n"), node_epoch="e",
    pipeline="text-to-image", schema="text-to-image/sd@3", model="m", model_digest="d1" * 32, params=b"{}", inputs=(),
    work=Work(1, 1), rates=Rates(), ceiling_nano=0, deadline_ms=60_000, expires_ms=60_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "marks"),
    [
        ({}, None),
        ({"constant": True}, {"constant": True, "still": False, "repeated": False}),
        ({"still": True}, {"constant": False, "still": True, "repeated": False}),
        ({"fingerprint": "input"}, {"constant": False, "still": False, "repeated": True}),
    ],
)
async def test_what_looks_wrong_is_marked_for_an_audit(
    tmp_path: Path, facts: dict[str, Any], marks: dict[str, bool] | None
) -> None:
    """One colour, frames that do not move, and the input once more: each is a line in the log with job and node."""
    found = {"constant": False, "still": False, "fingerprint": "own", **facts}

    class Found:
        async def output(self, *_: Any) -> Any:
            return SimpleNamespace(**found)

    sees: Any = Found()
    nobody: Any = None
    request: Any = SimpleNamespace(
        id="j",
        promises=[MediaSpec("image", 64, 64)],
        inputs=[SimpleNamespace(ref=SimpleNamespace(size=9), facts=SimpleNamespace(fingerprint="input"))],
        params=SimpleNamespace(safety=""),
        pipeline=SimpleNamespace(keeps_look=False),
    )
    data = b"a picture"
    digest = hashlib.sha256(data).hexdigest()
    signer = Identity.generate()
    ticket: Any = replace(TICKET, node_id=NodeId(signer.id))
    async with Delivery(AttemptContext(nobody, MediaStore(tmp_path), sees, Limits()), request) as taken:
        taken.begin(Output(0, "image/png", len(data), digest, 1, None))
        await taken.write(data)
        taken.done(Done({}, 0, ticket.model_digest, receipt=sign_receipt(signer, ticket, [digest], 0)))
        with capture_logs() as lines:
            await taken.check(ticket)
    told = [line for line in lines if line["event"] == "audit"]
    assert [{name: line[name] for name in ("constant", "still", "repeated")} for line in told] == (
        [marks] if marks else []
    )
    assert all((line["job"], line["output"]) == ("j", 0) for line in told)

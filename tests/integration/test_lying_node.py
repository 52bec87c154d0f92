"""Nothing a node sends is trusted: what is not what was asked is the node's failure, and the job is done elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broadcaster import gateway, registry
from broadcaster.app import RunningBroadcaster
from reelnet.codec import Failed
from reelnet.errors import BusyError, PoisonError
from reelnet.jobs import Accepted, Chunk, Done, Queued, Started, Ticket
from reelnet.warnings import JobWarning
from tests.fakes.lying_node import LyingNode, Script, capability, delivery, png, running, whole
from tests.fakes.media import Clip
from tests.fakes.pool import PATIENCE_S, broadcaster_settings, ready, running_broadcaster, until

SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
BIG_CLAIM = 2**40
MOST = 4 * 64 * 64 + 64 * 64 // 8 + 65_536


def honest(ticket: Ticket) -> list[Any]:
    return whole(ticket, *delivery(png()))


LIES: list[Any] = [
    pytest.param(lambda t: whole(t, *delivery(b"<html><script>alert(1)</script>")), "media_type", id="html"),
    pytest.param(lambda t: whole(t, *delivery(png()[:-60])), "damaged", id="truncated"),
    pytest.param(lambda t: whole(t, *delivery(png(64, 72))), "size", id="another-size"),
    pytest.param(lambda t: whole(t, *delivery(png(), media_type="video/mp4")), "media_type", id="another-type"),
    pytest.param(lambda t: whole(t, *delivery(png(), media_type="text/html")), "media_type", id="unknown-type"),
    pytest.param(lambda t: whole(t, *delivery(png(), sha256="0" * 64)), "digest", id="wrong-sha256"),
    pytest.param(lambda t: whole(t, *delivery(png(), size=10)), "bytes", id="longer-than-claimed"),
    pytest.param(lambda t: whole(t, *delivery(png(), size=10**4)), "digest", id="shorter-than-claimed"),
    pytest.param(lambda t: whole(t, *delivery(png(), size=MOST + 1)), "bytes", id="claims-more-than-pixels-need"),
    pytest.param(lambda t: whole(t, *delivery(png(), size=BIG_CLAIM)), "bytes", id="claims-a-tebibyte"),
    pytest.param(lambda t: whole(t), "count", id="nothing"),
    pytest.param(lambda t: whole(t, *delivery(png()), *delivery(png(), index=1)), "count", id="too-many"),
    pytest.param(lambda t: whole(t, *delivery(png(), index=5)), "count", id="wrong-index"),
    pytest.param(lambda t: whole(t, *delivery(png()), digest="f" * 64), "digest", id="other-weights"),
    pytest.param(lambda t: whole(t, Chunk(b"x")), "protocol", id="bytes-of-nothing"),
    pytest.param(lambda t: [Started(), *delivery(png())], "protocol", id="started-unaccepted"),
    pytest.param(lambda t: [Accepted(0, 0, 0), Done({}, 0, t.model_digest)], "protocol", id="done-unstarted"),
    pytest.param(lambda t: [Accepted(0, 0, 0), Started(), Accepted(0, 0, 0)], "protocol", id="accepted-twice"),
    pytest.param(lambda t: [Accepted(0, 0, 0), Queued(1, float("nan"))], "silent", id="says-nothing-more"),
    pytest.param(lambda t: [Queued(1, 5.0)] * 3, "protocol", id="queued-unaccepted"),
    pytest.param(lambda t: [], "silent", id="says-nothing-at-all"),
]


@contextlib.asynccontextmanager
async def pool(
    home: Path, *scripts: Script, pipeline: str = "text-to-image"
) -> AsyncIterator[tuple[RunningBroadcaster, httpx.AsyncClient, Any]]:
    """Nodes with those scripts behind a broadcaster."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [LyingNode(script, capability(pipeline=pipeline)) for script in scripts]
        addresses = [await stack.enter_async_context(running(node)) for node in nodes]
        settings = broadcaster_settings(home, addresses, limits={"silence_s": 1.0})
        broadcaster = await stack.enter_async_context(running_broadcaster(settings))
        await ready(broadcaster, len(nodes))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S))
        yield broadcaster, http, nodes


@pytest.mark.parametrize(("lie", "code"), LIES)
async def test_a_lie_is_the_nodes_failure_and_costs_nothing(tmp_path: Path, lie: Script, code: str) -> None:
    """The job fails as `node` with the reason, the node is blamed, nothing is charged, and no file is kept."""
    async with pool(tmp_path, lie) as (broadcaster, http, nodes):
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 500, answer.text
        assert (answer.json()["error"]["class"], answer.json()["error"]["code"]) == ("node", code)
        assert broadcaster.scores.reputation(nodes[0].identity.id) < 1
        assert [p for p in (tmp_path / "broadcaster/default/media").rglob("*") if p.is_file()] == []
        await until(lambda: broadcaster.journal.backlog == 0, "the journal is written")


@pytest.mark.parametrize(("asked", "encoder"), [("h264", "libvpx-vp9"), ("av1", "libx264"), ("vp9", "libsvtav1")])
async def test_another_codec_than_asked_is_a_lie(tmp_path: Path, asked: str, encoder: str) -> None:
    """A node that codes a clip as it likes is caught, whichever codec was asked."""
    data = Clip(64, 64, frames=2, codec=encoder).encode()
    ask = {"width": 64, "height": 64, "num_frames": 2, "video_codec": asked}

    def coded_otherwise(ticket: Ticket) -> list[Any]:
        return whole(ticket, *delivery(data, "video/mp4"))

    async with pool(tmp_path, coded_otherwise, pipeline="image-to-video") as (_, http, _nodes):
        answer = await http.post("/image-to-video", data=ask, files={"image": ("boat.png", png())})
    assert answer.status_code == 500, answer.text
    assert (answer.json()["error"]["class"], answer.json()["error"]["code"]) == ("node", "media_type")
    assert f"{asked} was asked" in answer.text


async def test_the_job_is_done_by_an_honest_node(tmp_path: Path) -> None:
    """One liar among the nodes costs time and nothing else: every job ends well, and it is asked less and less."""
    liar = LIES[0].values[0]
    async with pool(tmp_path, liar, honest) as (_, http, nodes):
        for _ in range(8):
            answer = await http.post("/text-to-image", json=SMALL)
            assert answer.status_code == 200, answer.text
            assert answer.json()["job"]["node"] == nodes[1].identity.id
        assert nodes[0].asked <= 2, "a liar that was caught is not asked first again"
        assert nodes[1].asked == 8


async def test_a_node_that_always_says_busy_is_not_always_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever load it reports: it loses no reputation, and goes behind the others for a while."""
    monkeypatch.setattr(registry, "BUSY_S", 1000.0)
    full = Failed(BusyError("no place", code="queue_full", retry_after_s=1))
    async with pool(tmp_path, lambda _: [full], honest) as (broadcaster, http, nodes):
        for _ in range(8):
            answer = await http.post("/text-to-image", json=SMALL)
            assert answer.status_code == 200, answer.text
        assert nodes[0].asked <= 1
        assert broadcaster.scores.reputation(nodes[0].identity.id) == 1


async def test_a_job_whose_runner_died_waits_for_the_only_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again at once, and when it is full, as often as it says that it expects a place."""
    monkeypatch.setattr(gateway, "SHORTEST_PAUSE_S", 0.01)
    full = Failed(BusyError("no place", code="queue_full", retry_after_s=0.01))
    died = [Accepted(0, 0, 0), Started(), Failed(PoisonError("the runner ended"))]
    words = [died, [full], [full]]
    async with pool(tmp_path, lambda ticket: words.pop(0) if words else honest(ticket)) as (broadcaster, http, nodes):
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"]["attempts"] == 4
        assert broadcaster.scores.reputation(nodes[0].identity.id) == 1


async def test_a_job_does_not_wait_for_a_place_that_comes_too_late(tmp_path: Path) -> None:
    """The app is told when to ask again."""
    full = Failed(BusyError("no place", code="queue_full", retry_after_s=10_000))
    words = [[Failed(PoisonError("the runner ended"))], [full]]
    async with pool(tmp_path, lambda ticket: words.pop(0)) as (_, http, _nodes):
        answer = await http.post("/text-to-image", json=SMALL)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full"), answer.text
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_nodes_words_reach_the_app_clean(tmp_path: Path) -> None:
    """Control characters in what a node says of itself do not reach a terminal or an answer."""

    def tricky(ticket: Ticket) -> list[Any]:
        frames = whole(ticket, *delivery(png()))
        facts = {"class": "\x1b]0;owned\x07"}
        warnings = (JobWarning("prompt_cut", "cut\x1b[2J", "prompt"), JobWarning("your_money", "send it"))
        return [*frames[:-1], Done({"run\x1b[2J": 1.0}, 0, ticket.model_digest, facts, warnings=warnings)]

    async with pool(tmp_path, tricky) as (_, http, _nodes):
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200
        assert "\\u001b" not in answer.text
        assert "\x1b" not in answer.text
        (warning,) = answer.json()["warnings"]
        assert warning == {"code": "prompt_cut", "message": "cut [2J", "parameter": "prompt"}

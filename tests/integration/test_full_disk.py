"""A full disk refuses jobs before any GPU works, blames nobody, and is noticed when it has room again."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from broadcaster import disk, media
from reelnet import home
from tests.fakes.pool import InProcessEngine, PoolPlan, running_pool, until

JOB = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
AT_ONCE = {"unwritten_bytes": 0}


async def test_results_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job that meets it ends with 503, the next is refused before a node hears of it, and then one succeeds."""
    monkeypatch.setattr(media, "RETRY_S", 0.01)
    private = media._private

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = PoolPlan(tmp_path, [InProcessEngine(), InProcessEngine()], broadcaster={"media": AT_ONCE})
    async with running_pool(plan) as pool:
        monkeypatch.setattr(media, "_private", full)
        met = await pool.http.post("/text-to-image", json=JOB)
        assert (met.status_code, met.json()["error"]["code"]) == (503, "media"), met.text
        folder = str(tmp_path / "broadcaster/default/media")
        assert folder in met.text
        assert "No space left" in met.text
        refused = await pool.http.post("/text-to-image", json=JOB)
        assert (refused.status_code, refused.json()["error"]["class"]) == (503, "busy"), refused.text
        assert folder in refused.text
        assert refused.headers["retry-after"]
        assert sum(len(node.node._closed) + len(node.node.attempts()) for node in pool.nodes) == 1
        assert [pool.broadcaster.scores.reputation(node.node.id) for node in pool.nodes] == [1.0, 1.0]
        assert folder in (pool.broadcaster.gateway.not_ready() or "")
        monkeypatch.setattr(media, "_private", private)
        await until(lambda: pool.broadcaster.gateway.not_ready() is None, "the disk takes files again")
        done = await pool.http.post("/text-to-image", json=JOB)
        assert done.status_code == 200, done.text


async def test_a_disk_with_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free bytes below the limit refuse a job although no write has failed yet."""
    plan = PoolPlan(tmp_path, [InProcessEngine()], broadcaster={"limits": {"free_bytes": 2**20}})
    monkeypatch.setattr(disk, "LOOK_S", 0.0)
    async with running_pool(plan) as pool:
        with monkeypatch.context() as little:
            little.setattr(home.os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
            refused = await pool.http.post("/text-to-image", json=JOB)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "disk_full"), refused.text
        assert str(tmp_path) in refused.text
        assert pool.nodes[0].node._closed == {}
        assert (await pool.http.post("/text-to-image", json=JOB)).status_code == 200


async def test_a_node_without_room_takes_no_job(tmp_path: Path) -> None:
    """Its spool's disk is looked at before a place is given; the answer names the folder, and so does its readiness."""
    plan = PoolPlan(tmp_path, [InProcessEngine()], node={"limits": {"spool_free_bytes": 2**60}})
    async with running_pool(plan) as pool:
        refused = await pool.http.post("/text-to-image", json=JOB)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "disk_full"), refused.text
        assert str(tmp_path / "orchestrator/node-1/spool") in refused.text
        assert "is full" in (pool.nodes[0].node.not_ready() or "")

"""A safety policy through all four hops: of job, key, broadcaster and node the strictest wins."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from broadcaster.app import RunningBroadcaster
from broadcaster.job import JobRequest, new_job_id, now_ms
from broadcaster.journal_schema import JobRow
from reelnet.errors import RefusedError
from reelnet.jobs import Event, Preview, Ticket
from reelnet.parameters import SAFETY_POLICIES
from reelnet.pipelines import pipeline_named
from runner.app import make_backend
from tests.fakes.lying_node import LyingNode, Script, capability, delivery, png, running, whole
from tests.fakes.media import Clip, encoded, pattern
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    Pool,
    PoolPlan,
    broadcaster_settings,
    ready,
    running_broadcaster,
    running_pool,
    sse_events,
)
from tests.fakes.runner import picture
from tests.integration.test_first_job import recorded

ORDER = ("off", "flag", "blur", "refuse")
UNSAFE = {"prompt": "boat !nsfw", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
CLEAN = UNSAFE | {"prompt": "boat"}
PRICE = {"text-to-image": {"price": {"job": "0.000000007"}}}
MODEL: dict[str, Any] = {"model": "synthetic/bars", "backend": {"synthetic": {"unit_s": 0}}, "pipelines": PRICE}


def plan(home: Path, *policies: str, **broadcaster: Any) -> PoolPlan:
    """A node for each policy, all with the same model."""
    engines = [InProcessEngine(runner={"safety": policy}) for policy in policies]
    return PoolPlan(home, list(engines), [MODEL], broadcaster=broadcaster)


def keyed(home: Path) -> Path:
    """A keys file with one key for each policy, called by it."""
    home.mkdir(parents=True, exist_ok=True)
    lines = ["key-plain", *(f"key-{policy} safety={policy}" for policy in SAFETY_POLICIES[1:])]
    (home / "keys").write_text("\n".join(lines))
    return home / "keys"


async def ask(pool: Pool, job: str = "", key: str | None = None, **params: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer key-{key or 'plain'}"} if key is not None else {}
    return await pool.http.post("/text-to-image", json={**UNSAFE, "safety": job, **params}, headers=headers)


def kept(home: Path) -> list[Path]:
    """The files of results."""
    return [path for path in (home / "broadcaster/default/media").rglob("*") if path.is_file()]


@pytest.mark.parametrize("floor", SAFETY_POLICIES)
async def test_the_strictest_word_wins(tmp_path: Path, floor: str) -> None:
    """For every policy of node, key and job at once: as drawn, told, blurred, or withheld; unchecked is never clean."""
    engine = InProcessEngine(lambda spec, settings: make_backend(settings.model_copy(update={"safety": spec.model_id})))
    models = [MODEL | {"model": f"synthetic/{node}", "id": node} for node in ORDER]
    pool_plan = PoolPlan(tmp_path, [engine], models, broadcaster={"keys_file": keyed(tmp_path), "safety": floor})
    async with running_pool(pool_plan) as pool:
        drawn = await _drawn(pool) if floor in ("", "flag") else None
        for node, key, job in itertools.product(ORDER, SAFETY_POLICIES, SAFETY_POLICIES):
            answer = await ask(pool, job, key, model_id=node)
            demanded = max(job, key, floor, key=SAFETY_POLICIES.index)
            strictest = max(node, demanded or "off", key=ORDER.index)
            told = (node, key, job, answer.text)
            if node == "off" and demanded:
                assert (answer.status_code, answer.json()["error"]["code"]) == (422, "safety"), told
            elif strictest == "refuse":
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "nsfw"), told
            else:
                (image,) = answer.json()["images"]
                looked = strictest != "off"
                assert (image["nsfw"], image["checked"]) == (looked, looked), told
                if drawn:
                    assert (await pool.outputs(answer) == drawn) is (strictest != "blur"), told


async def _drawn(pool: Pool) -> list[bytes]:
    """The picture as it is where nobody blurs it."""
    return await pool.outputs(await ask(pool, key="", model_id="flag"))


async def ended(pool: Pool, key: str = "", **params: Any) -> tuple[dict[str, Any], JobRow]:
    """How a job that fails ends, to the app and in the journal."""
    headers = {"authorization": f"Bearer key-{key or 'plain'}", "accept": "text/event-stream"}
    answer = await pool.http.post("/text-to-image", json={**UNSAFE, **params}, headers=headers)
    events = dict(sse_events(answer.text))
    return events["error"]["error"], await recorded(pool, events["job"]["id"])


async def test_what_is_clean_is_delivered_and_said_to_be(tmp_path: Path) -> None:
    """Whoever demands what; a job that no node's checker has seen says so."""
    async with running_pool(plan(tmp_path, "flag")) as pool:
        for job in SAFETY_POLICIES:
            (image,) = (await ask(pool, job, prompt="boat")).json()["images"]
            assert (image["nsfw"], image["checked"]) == (False, True)
        (image,) = (await ask(pool, prompt="boat", safety_check=False)).json()["images"]
        assert (image["nsfw"], image["checked"]) == (False, False)


async def test_what_is_withheld_is_paid_for_and_not_kept(tmp_path: Path) -> None:
    """One node draws it and is owed, the key is charged, no other node is asked, and no byte of it is left."""
    async with running_pool(plan(tmp_path, "flag", "flag", keys_file=keyed(tmp_path))) as pool:
        error, row = await ended(pool, key="refuse", num_images_per_prompt=3)
        assert error.pop("request_id")
        assert error == {
            "job_id": row.id,
            "message": "a safety checker found the result unsafe, and it is withheld; change prompt or seed",
            "class": "refused",
            "code": "nsfw",
        }
        assert kept(tmp_path) == []
        assert [pool.broadcaster.scores.reputation(n.node.id) for n in pool.nodes] == [1, 1]
        assert (row.state, row.failure_class, row.failure_code) == ("failed", "refused", "nsfw")
        assert (row.attempts, row.charged_nano, row.owed_nano) == (1, 7, 7)
        (attempt,) = await pool.broadcaster.journal.attempts(row.id)
        assert (attempt.outcome, attempt.owed_nano) == ("ok", 7)


@pytest.mark.parametrize("nodes", [1, 2, 4])
async def test_two_nodes_that_refuse_are_enough(tmp_path: Path, nodes: int) -> None:
    """Their own refusals owe nothing, and end the job instead of walking through the pool; nobody has to try again."""
    async with running_pool(plan(tmp_path, *["refuse"] * nodes)) as pool:
        error, row = await ended(pool)
        assert (error["class"], error["code"]) == ("refused", "nsfw")
        assert "retry_after_s" not in error
        assert (row.attempts, row.charged_nano, row.owed_nano) == (min(nodes, 2), 0, 0)


async def test_one_nodes_policy_is_not_the_pools(tmp_path: Path) -> None:
    """A node that refuses sends the job on, and is not taken for a liar when another delivers."""
    async with running_pool(plan(tmp_path, "refuse", "flag")) as pool:
        answers = [await ask(pool, seed=seed) for seed in range(8)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["images"][0]["nsfw"] for answer in answers} == {True}
        assert {answer.json()["job"]["node"] for answer in answers} == {pool.nodes[1].node.id}
        assert pool.broadcaster.scores.reputation(pool.nodes[0].node.id) > 0.7


async def test_a_policy_leads_to_the_nodes_that_can_keep_it(tmp_path: Path) -> None:
    """A job that demands a check goes to the one node with a checker, and no other is asked in vain."""
    async with running_pool(plan(tmp_path, "off", "flag", "off", keys_file=keyed(tmp_path))) as pool:
        for key, job in (("flag", ""), ("", "blur")) * 4:
            done = (await ask(pool, job, key)).json()["job"]
            assert (done["node"], done["attempts"]) == (pool.nodes[1].node.id, 1)
        answer = await pool.http.get("/models", headers={"authorization": "Bearer key-plain"})
        offers = {row["pipeline"]: row["features"] for row in answer.json()["offers"]}
        assert offers == {"text-to-image": {"safety": 1}}
        assert [n["serves"][0]["features"] for n in answer.json()["nodes"]] == [[], ["safety"], []]


async def test_what_nobody_can_check_is_not_made(tmp_path: Path) -> None:
    """A floor holds for every pipeline: one without checkers is refused before any node is asked, and told why."""
    pool_plan = plan(tmp_path, "blur", safety="flag")
    pool_plan.models = [{k: v for k, v in MODEL.items() if k != "pipelines"}]
    async with running_pool(pool_plan) as pool:
        clip = Clip(64, 64, frames=3).encode()
        upscaled = await pool.job("upscale", {"num_inference_steps": 1}, picture())
        for answer in (upscaled, await pool.job("upscale-video", {}, clip, "video")):
            assert (answer.status_code, answer.json()["error"]["class"]) == (422, "unsupported")
            assert "every job of yours is held to safety=flag here" in answer.json()["detail"][0]["msg"]
        assert not pool.nodes[0].node.attempts()
        params = {"width": 64, "height": 64, "num_inference_steps": 1, "num_frames": 2}
        (image,) = (await pool.job("image-to-video", params, picture())).json()["images"]
        assert (image["nsfw"], image["checked"]) == (False, True)


@contextlib.asynccontextmanager
async def lying_pool(
    home: Path, *scripts: Script
) -> AsyncIterator[tuple[RunningBroadcaster, httpx.AsyncClient, list[LyingNode]]]:
    """Nodes that say they have a checker."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [LyingNode(script, replace(capability(), features=("safety",))) for script in scripts]
        addresses = [await stack.enter_async_context(running(node)) for node in nodes]
        broadcaster = await stack.enter_async_context(running_broadcaster(broadcaster_settings(home, addresses)))
        await ready(broadcaster, len(nodes))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S))
        yield broadcaster, http, nodes


def unchecked(ticket: Ticket) -> list[Any]:
    return whole(ticket, *delivery(png(), nsfw=None))


async def test_a_checker_that_does_not_look_is_the_nodes_failure(tmp_path: Path) -> None:
    """Who offers one and says nothing of the picture is blamed, and the job done elsewhere or not at all."""

    def honest(ticket: Ticket) -> list[Any]:
        return whole(ticket, *delivery(png(), nsfw=False))

    async with lying_pool(tmp_path / "alone", unchecked) as (broadcaster, http, nodes):
        answer = await http.post("/text-to-image", json=CLEAN | {"safety": "flag"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "unchecked")
        assert broadcaster.scores.reputation(nodes[0].identity.id) < 1
        assert kept(tmp_path / "alone") == []
        assert (await http.post("/text-to-image", json=CLEAN)).status_code == 200, "nobody had asked for it"
    async with lying_pool(tmp_path / "two", unchecked, honest) as (_, http, nodes):
        for _ in range(4):
            (image,) = (await http.post("/text-to-image", json=CLEAN | {"safety": "blur"})).json()["images"]
            assert image["checked"] is True


@pytest.mark.parametrize(("policy", "shown"), [("", True), ("flag", True), ("blur", False), ("refuse", False)])
async def test_previews_are_not_shown_where_the_result_may_not_be(tmp_path: Path, policy: str, shown: bool) -> None:
    """No checker looks at an unfinished picture."""

    def previewing(ticket: Ticket) -> list[Any]:
        accepted, started, *rest = whole(ticket, *delivery(png(), nsfw=True))
        return [accepted, started, Preview(encoded(pattern(64, 48), "JPEG"), 0, 1, 2), *rest]

    async with lying_pool(tmp_path, previewing) as (broadcaster, _, nodes):
        heard: list[Event] = []
        pipeline = pipeline_named("text-to-image")
        params = pipeline.parse(CLEAN | {"safety": policy, "preview_steps": 1})
        request = JobRequest(new_job_id(), pipeline, "synthetic/bars", params, (), now_ms() + 60_000, None)
        with pytest.raises(RefusedError) if policy == "refuse" else contextlib.nullcontext():
            await broadcaster.gateway.run(request, heard.append)
        assert any(isinstance(event, Preview) for event in heard) is shown
        assert nodes[0].asked == 1

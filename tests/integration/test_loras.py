"""LoRAs through all four hops: who gets a job that uses one, and which file is meant."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from reelnet.jobs import Ticket
from runner.models.tiny_lora import write_lora
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running, whole
from tests.fakes.media import encoded, pattern
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    Pool,
    PoolPlan,
    broadcaster_settings,
    ready,
    running_broadcaster,
    running_pool,
)
from tests.integration.test_cancel import SYNTHETIC

SMALL: dict[str, Any] = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
INK, OIL = {"folder": "ink-1", "id": "acme/ink"}, {"folder": "oil", "id": "acme/oil"}
OTHER_INK = {"folder": "ink-2", "id": "acme/ink"}
TINY = "reelnet/tiny-random-sd"


def plan(home: Path, *loras: list[dict[str, str]], **broadcaster: Any) -> PoolPlan:
    """A synthetic node for each list of LoRAs."""
    engines = [InProcessEngine(runner={"loras": names}) for names in loras]
    return PoolPlan(home, list(engines), [SYNTHETIC], broadcaster=broadcaster)


async def ask(pool: Pool, loras: dict[str, float], **more: Any) -> httpx.Response:
    return await pool.job("text-to-image", {**SMALL, "loras": loras, **more})


def digests(pool: Pool, node: int) -> dict[str, str]:
    """The LoRAs that the broadcaster knows of a node, with their digests."""
    capabilities = pool.broadcaster.registry.record(pool.nodes[node].node.id).capabilities
    return dict(capabilities["text-to-image", "synthetic/bars"].loras)


async def test_a_job_goes_to_the_nodes_that_have_its_loras(tmp_path: Path) -> None:
    """All of them: one that has a part is not asked. In JSON, in a form, and for both picture pipelines."""
    async with running_pool(plan(tmp_path, [INK], [INK, OIL], [])) as pool:
        ids = [node.node.id for node in pool.nodes]
        both = {"acme/ink": 0.5, "acme/oil": 1.0}
        for seed in range(6):
            done = [(await ask(pool, loras, seed=seed)).json()["job"] for loras in (both, {"acme/ink": 1.0})]
            assert done[0]["node"] == ids[1]
            assert done[1]["node"] in ids[:2]
            assert [job["attempts"] for job in done] == [1, 1], "a node was asked in vain"
        form = {"prompt": "boat", "num_inference_steps": 1, "loras": json.dumps(both)}
        answer = await pool.job("image-to-image", form, encoded(pattern(64, 64), "PNG"))
        assert answer.json()["job"]["node"] == ids[1], answer.text


async def test_they_change_the_result_and_off_is_off(tmp_path: Path) -> None:
    """By their strength; at strength 0 a LoRA need not be there, on any node."""
    async with running_pool(plan(tmp_path, [INK])) as pool:
        plain = await pool.outputs(await ask(pool, {}))
        assert await pool.outputs(await ask(pool, {"acme/ink": 0.0, "acme/nowhere": 0.0})) == plain
        full, half = [await pool.outputs(await ask(pool, {"acme/ink": strength})) for strength in (1.0, 0.5)]
        assert len({plain[0], full[0], half[0]}) == 3


async def test_an_unknown_one_is_named_before_any_node_is_asked(tmp_path: Path) -> None:
    """With the nearest that the pool has; one of another model's nodes does not count."""
    async with running_pool(plan(tmp_path, [INK], [OIL])) as pool:
        answer = await ask(pool, {"acme/oli": 1.0})
        assert (answer.status_code, answer.json()["error"]["class"]) == (422, "user")
        (row,) = answer.json()["detail"]
        assert (row["loc"], row["type"]) == (["body", "loras"], "unknown_lora")
        assert "did you mean 'acme/oil'? (known: acme/ink, acme/oil)" in row["msg"]
        assert all(not node.node.attempts() for node in pool.nodes)


async def test_loras_that_no_node_has_together(tmp_path: Path) -> None:
    """Each is known, no node has both: nobody can take the job now, and no node is asked in vain."""
    async with running_pool(plan(tmp_path, [INK], [OIL])) as pool:
        answer = await ask(pool, {"acme/ink": 1.0, "acme/oil": 1.0})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node")
        assert all(not node.node.attempts() for node in pool.nodes)


async def test_the_catalogue_says_which_file_an_id_means(tmp_path: Path) -> None:
    """A node with another file of the same id gets none of its jobs; without a digest any file will do."""
    two = tmp_path / "two"
    async with running_pool(plan(two, [INK], [OTHER_INK])) as pool:
        theirs = [digests(pool, node)["acme/ink"] for node in range(2)]
        assert theirs[0] != theirs[1]
        offers = (await pool.http.get("/models")).json()["offers"]
        shown = {row["pipeline"]: row["loras"] for row in offers}
        assert shown["text-to-image"] == {"acme/ink": dict.fromkeys(theirs, 1)}
    pinned = {"acme/ink": {"digests": [theirs[1]]}}
    async with running_pool(plan(tmp_path / "pinned", [INK], [OTHER_INK], catalogue=pinned)) as pool:
        done = [(await ask(pool, {"acme/ink": 1.0}, seed=seed)).json()["job"] for seed in range(6)]
        assert {(job["node"], job["attempts"]) for job in done} == {(pool.nodes[1].node.id, 1)}
    foreign = {"acme/ink": {"digests": ["f" * 64]}}
    async with running_pool(plan(tmp_path / "foreign", [INK], catalogue=foreign)) as pool:
        assert (await ask(pool, {"acme/ink": 1.0})).json()["error"]["code"] == "no_node"
        assert (await ask(pool, {})).status_code == 200


async def test_models_shows_what_every_node_has(tmp_path: Path) -> None:
    """LoRAs with their digests, and features, for each node and for each offer."""
    async with running_pool(plan(tmp_path, [INK, OIL], [])) as pool:
        body = (await pool.http.get("/models")).json()
        (first, *_), (second, *_) = (node["serves"] for node in body["nodes"])
        assert first["loras"] == digests(pool, 0)
        assert set(first["loras"]) == {"acme/ink", "acme/oil"}
        assert (second["loras"], second["features"]) == ({}, [])
        offer = body["offers"][0]
        assert (offer["nodes"], offer["features"]) == (2, {})
        assert offer["loras"] == {name: {digest: 1} for name, digest in first["loras"].items()}


@contextlib.asynccontextmanager
async def noting(home: Path) -> AsyncIterator[tuple[httpx.AsyncClient, list[Ticket]]]:
    """A node that has two LoRAs and notes its tickets, whose signatures are checked."""
    tickets: list[Ticket] = []

    def script(ticket: Ticket) -> list[Any]:
        tickets.append(ticket)
        return whole(ticket, *delivery(png()))

    node = LyingNode(script, replace(capability(), loras={"acme/ink": "a" * 64, "acme/oil": "b" * 64}))
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(running(node))
        broadcaster = await stack.enter_async_context(running_broadcaster(broadcaster_settings(home, [address])))
        await ready(broadcaster, 1)
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S)), tickets


async def test_the_ticket_names_the_files(tmp_path: Path) -> None:
    """Under the broadcaster's signature, those that the job uses and no others."""
    async with noting(tmp_path) as (http, tickets):
        for loras in ({"acme/ink": 0.7, "acme/oil": 0.0}, {}):
            answer = await http.post("/text-to-image", json={**SMALL, "loras": loras})
            assert answer.status_code == 200, answer.text
    assert [dict(ticket.lora_digests) for ticket in tickets] == [{"acme/ink": "a" * 64}, {}]
    assert json.loads(tickets[0].params)["loras"] == {"acme/ink": 0.7, "acme/oil": 0.0}


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
async def test_a_file_that_changed_under_a_node_is_its_failure(tmp_path: Path, tiny_models: Path) -> None:
    """Of two true nodes the one whose file is not what it told is blamed, and the other one draws the picture."""
    folders = [write_lora(tmp_path / f"ink-{node}", seed=1) for node in range(2)]
    engines = [InProcessEngine(runner={"loras": [{"folder": str(path), "id": "acme/ink"}]}) for path in folders]
    node = {"models_home": str(tiny_models)}
    async with running_pool(PoolPlan(tmp_path, list(engines), [{"model": TINY}], node=node)) as pool:
        plain = await pool.outputs(await ask(pool, {}))
        write_lora(folders[0], seed=9)
        ids = [n.node.id for n in pool.nodes]
        with pool.broadcaster.registry.in_flight(pool.broadcaster.registry.record(ids[1])):  # so it is asked second
            answer = await ask(pool, {"acme/ink": 1.0})
        assert (answer.json()["job"]["node"], answer.json()["job"]["attempts"]) == (ids[1], 2)
        assert await pool.outputs(answer) != plain
        reputations = [pool.broadcaster.scores.reputation(node_id) for node_id in ids]
        assert reputations[0] < 1 == reputations[1]


@pytest.mark.diffusers
async def test_a_node_alone_with_a_changed_file_fails_the_job(tmp_path: Path, tiny_models: Path) -> None:
    """As the node's, with the reason; a node that is started again serves once it has told the new digest."""
    folder = write_lora(tmp_path / "ink", seed=1)
    engine = InProcessEngine(runner={"loras": [{"folder": str(folder), "id": "acme/ink"}]})
    pool_plan = PoolPlan(tmp_path, [engine], [{"model": TINY}], node={"models_home": str(tiny_models)})
    async with running_pool(pool_plan) as pool:
        write_lora(folder, seed=9)
        answer = await ask(pool, {"acme/ink": 1.0})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "lora_changed")
    async with running_pool(pool_plan) as pool, asyncio.timeout(PATIENCE_S):
        while (answer := await ask(pool, {"acme/ink": 1.0})).status_code == 503:
            await asyncio.sleep(0.05)  # until the runner is loaded, the node offers what it remembers
        assert answer.status_code == 200

"""One job at a time, and jobs that stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runner.app import build
from runner.worker import State
from tests.fakes.runner import PATIENCE_S, GatedBackend, RunnerClient, collect, events_of, parts, serving, settings

FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 5}


async def _seen_cancel(client: RunnerClient) -> None:
    """Until the worker knows that its job shall stop."""
    canceled = client.app.state.worker.current.canceled
    assert await asyncio.to_thread(canceled.wait, PATIENCE_S)


async def test_health_and_409_while_a_step_is_held(gated: RunnerClient, gate: GatedBackend) -> None:
    """A job that stands in a step blocks neither health nor the answer that the place is taken."""
    async with gated.stream(params=FOX) as response:
        await gate.wait_held()
        health = await gated.health()
        assert (health["state"], health["job"]) == ("BUSY", "job-1")
        assert health["step"] == {"stage": "denoise", "step": 1, "total": 5}
        second = await gated.http.post("/jobs", files=parts(params=FOX, job_id="job-2"))
        assert second.status_code == 409
        assert second.json()["detail"]["class"] == "busy"
        assert (await gated.http.get("/info")).status_code == 200
        gate.open()
        assert (await collect(response)).last["event"] == "done"
    assert (await gated.health())["state"] == "READY"


async def test_the_permit_is_free_when_done_is_told(runner: RunnerClient) -> None:
    """Whoever has read `done` can send the next job at once."""
    for number in range(20):
        answer = await runner.run(params=FOX, job_id=f"job-{number}")
        assert answer.last["event"] == "done"


async def test_a_silent_job_ticks(gated: RunnerClient, gate: GatedBackend) -> None:
    """Ticks say for how long the job has not moved."""
    async with gated.stream(params=FOX) as response:
        idle: list[float] = []
        async for event, _ in events_of(response):
            if event["event"] == "tick":
                idle.append(event["idle_s"])
            if len(idle) == 3:
                gate.open()
        assert idle[0] < idle[1] < idle[2]
        assert event["event"] == "done"


async def test_delete_stops_a_job_within_a_step(gated: RunnerClient, gate: GatedBackend) -> None:
    """The place is free only when the model thread has left the job; the next one is as if nothing had been."""
    async with gated.stream(params=FOX) as response:
        await gate.wait_held()
        assert (await gated.http.delete("/jobs/job-1")).status_code == 202
        health = await gated.health()
        assert (health["state"], health["reason"]) == ("BUSY", "told to stop")
        assert (await gated.http.post("/jobs", files=parts(params=FOX, job_id="job-2"))).status_code == 409
        gate.open()
        answer = await collect(response)
    assert answer.last["class"] == "canceled"
    assert [row["step"] for row in answer.named("progress")] == [1]
    assert (await gated.health())["state"] == "READY"
    after = await gated.run(params=FOX)
    assert after.outputs == (await gated.run(params=FOX)).outputs


async def test_a_closed_connection_stops_a_job_at_once(gated: RunnerClient, gate: GatedBackend) -> None:
    """The runner notices without having anything to send."""
    async with gated.stream(params=FOX):
        await gate.wait_held()
    await _seen_cancel(gated)
    assert (await gated.health())["state"] == "BUSY"
    gate.open()
    await gated.until(State.READY)
    assert 'outcome="canceled"' in (await gated.http.get("/metrics")).text
    assert (await gated.run(params=FOX)).last["event"] == "done"


async def test_a_client_that_leaves_while_it_is_answered_nothing(tmp_path: Path) -> None:
    """The same with no tick in sight: the disconnect itself is what is noticed."""
    gate = GatedBackend()
    async with serving(build(settings(), gate), tmp_path) as client:
        await client.until(State.READY)
        async with client.stream(params=FOX):
            await gate.wait_held()
        await _seen_cancel(client)
        gate.open()
        await client.until(State.READY)


async def test_the_deadline_stops_a_job(gated: RunnerClient, gate: GatedBackend) -> None:
    """A job that is over its time fails at its next step, as `deadline`."""
    async with gated.stream(params=FOX, deadline_s=0.05) as response:
        idle = 0.0
        answer = []
        async for event, _ in events_of(response):
            answer.append(event)
            idle = event.get("idle_s", idle)
            if idle > 0.06:
                gate.open()
        assert answer[-1]["class"] == "deadline"
    assert (await gated.health())["state"] == "READY"


@pytest.mark.parametrize(
    ("word", "failure"), [("!fail user", "user"), ("!fail node", "node"), ("!oom", "oom"), ("!fail node once", "node")]
)
async def test_a_failed_job_leaves_the_runner_ready(runner: RunnerClient, word: str, failure: str) -> None:
    """One error event ends the stream, and the next job succeeds."""
    answer = await runner.run(params=FOX | {"prompt": word})
    assert answer.last["event"] == "error"
    assert answer.last["class"] == failure
    assert (await runner.health())["state"] == "READY"
    assert (await runner.run(params=FOX)).last["event"] == "done"


async def test_once_is_over_at_the_second_attempt(runner: RunnerClient) -> None:
    """`attempt` is part of the order."""
    answer = await runner.run(params=FOX | {"prompt": "!fail node once"}, attempt=2)
    assert answer.last["event"] == "done"


async def test_a_slow_job_can_be_canceled(runner: RunnerClient) -> None:
    """Its pauses end with the cancel, not with their time."""
    async with runner.stream(params=FOX | {"prompt": "!slow 1000"}) as response:
        await runner.until(State.BUSY)
        await runner.http.delete("/jobs/job-1")
        assert (await collect(response)).last["class"] == "canceled"


async def test_a_hung_job_ignores_its_cancel(tmp_path: Path) -> None:
    """It is still BUSY after its client has left, until the runner stops; the stop does not wait for ever."""
    async with serving(build(settings(tick_s=0.02)), tmp_path) as client:
        await client.until(State.READY)
        async with client.stream(params=FOX | {"prompt": "!hang"}) as response:
            async for event, _ in events_of(response):
                if event.get("idle_s", 0) > 0.05:
                    break
        await _seen_cancel(client)
        assert (await client.health())["state"] == "BUSY"
    assert client.app.state.worker.current is None


async def test_stopping_the_runner_ends_its_job(tmp_path: Path) -> None:
    """The stream ends with a class that lets the job go elsewhere."""
    async with serving(build(settings()), tmp_path) as client:
        await client.until(State.READY)
        async with client.stream(params=FOX | {"prompt": "!slow 1000"}) as response:
            await client.until(State.BUSY)
            client.app.state.worker.cancel_all()
            assert (await collect(response)).last["class"] == "transient"

"""What all components' metrics have in common: cheap children, bounded labels, exact sums, one listener."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from reelnet.errors import BusyError, CanceledError, DeadlineError, FailureClass, from_class
from reelnet.metrics import (
    ENDINGS,
    OUTCOMES,
    Bounded,
    Label,
    counter,
    ending,
    gauge,
    metrics_app,
    new_registry,
    seconds,
)

COLOUR = Label("colour", "red or blue")


def shown(registry: CollectorRegistry) -> list[str]:
    """The series of a registry's text, but for the build information."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith(("#", "reelnet_build_info"))]


async def ask(app: Any, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("the listener reads no body")

    await app({"type": "http", "method": method, "path": path}, receive, send)
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(sent[1]["body"])
    return sent[0]["status"], sent[1]["body"].decode()


def test_a_label_of_strangers_has_few_values() -> None:
    """Reserved names always pass, the first others too, and every later one is `other`, for ever."""
    model = Bounded(limit=3, reserved=["mine"])
    assert [model(name) for name in ("a", "b", "c", "a", "d", "mine")] == ["a", "b", "other", "a", "other", "mine"]


def test_a_label_of_strangers_is_printable_and_short() -> None:
    """Control characters and long names do not reach a metric."""
    label = Bounded()("ev\nil\x1b[31m" + "x" * 500)
    assert label.isprintable()
    assert len(label) <= 100


def test_children_are_made_once() -> None:
    """Two uses of the same labels count in the same series."""
    registry = new_registry("boat")
    children = counter("boats_total", "Boats.", COLOUR).counter(registry)
    children[("red",)].inc()
    children[("red",)].inc()
    assert children[("red",)] is children[("red",)]
    assert shown(registry) == ['boats_total{colour="red"} 2.0']


def test_known_values_are_there_from_the_start() -> None:
    """A series that begins at 1 shows no increase: what is known begins at 0."""
    registry = new_registry("boat")
    counter("boats_total", "Boats.", COLOUR).counter(registry, known=("red", "blue"))
    assert shown(registry) == ['boats_total{colour="red"} 0.0', 'boats_total{colour="blue"} 0.0']


def test_sums_of_money_are_exact() -> None:
    """A million payments of 0.1 + a nano-dollar are what the integers say: floats would have drifted."""
    registry = new_registry("boat")
    dollars = counter("paid_dollars_total", "Paid.", COLOUR, unit="dollars").sums(registry, 10**9)
    for _ in range(1_000_000):
        dollars[("red",)] += 100_000_001
    assert shown(registry) == ['paid_dollars_total{colour="red"} 100000.001']


def test_a_reading_is_made_when_it_is_asked_for() -> None:
    """A gauge without a call in the hot path: its value is read at each scrape."""
    registry, depth = new_registry("boat"), {("red",): 1.0}
    gauge("depth", "Depth.", COLOUR).read(registry, lambda: depth)
    assert shown(registry) == ['depth{colour="red"} 1.0']
    depth[("red",)] = 2.0
    assert shown(registry) == ['depth{colour="red"} 2.0']


def test_a_registry_says_what_runs() -> None:
    """Component, version and interpreter; and no series that tells when another one was made."""
    registry = new_registry("runner")
    seconds("wait_seconds", "Waiting.", COLOUR).histogram(registry)[("red",)].observe(0.3)
    text = generate_latest(registry).decode()
    assert re.search(
        r'^reelnet_build_info\{component="runner",python="3[^"]*",version="[^"]+"\} 1\.0$', text, re.MULTILINE
    )
    assert "_created" not in text


@pytest.mark.parametrize("failure", FailureClass)
def test_every_failure_class_has_an_ending(failure: FailureClass) -> None:
    """An error is one outcome and its own class; only a deadline expires, only a cancel cancels."""
    outcome, name = ending(from_class(failure.value, "x"))
    assert name == failure.value
    assert outcome == {"deadline": "expired", "canceled": "canceled"}.get(failure.value, "failed")


def test_a_good_ending_has_no_class() -> None:
    """`ok` and `none`; and there are no other outcomes than four."""
    assert ending(None) == ("ok", "none")
    assert set(OUTCOMES) == {"ok", "failed", "expired", "canceled"}
    assert len(ENDINGS) == len(FailureClass) + 1
    assert {ending(error)[0] for error in (BusyError("x"), DeadlineError("x"), CanceledError("x"))} == {
        "failed",
        "expired",
        "canceled",
    }


async def test_the_listener_refreshes_before_it_answers() -> None:
    """What has to be fetched for `/metrics` is fetched first, and for nothing else."""
    registry, fetched = new_registry("boat"), []
    gauge("fetches", "Fetches.").read(registry, lambda: {(): len(fetched)})

    async def refresh() -> None:
        fetched.append(1)

    app = metrics_app(registry, lambda: None, refresh)
    assert await ask(app, "/livez") == (200, "alive\n")
    assert await ask(app, "/readyz") == (200, "ready\n")
    assert not fetched
    status, body = await ask(app, "/metrics")
    assert status == 200
    assert "fetches 1.0" in body


async def test_the_listener_changes_nothing() -> None:
    """Other methods and paths are refused, and a component that is not ready says why."""
    app = metrics_app(CollectorRegistry(), lambda: "draining")
    assert await ask(app, "/readyz") == (503, "draining\n")
    assert (await ask(app, "/metrics", "POST"))[0] == 405
    assert (await ask(app, "/anything"))[0] == 404

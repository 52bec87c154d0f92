"""What a node counts of itself: attempts, refusals by its own codes, slots and runners as they are."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from orchestrator.node_metrics import REASONS, NodeMetrics, slot_state
from orchestrator.slots import Reservation, Slot, SlotTable
from orchestrator.spool import Spool
from orchestrator.supervisor import End
from orchestrator.watchers import Watchers
from reelnet.errors import BusyError, CanceledError, NodeError, RefusedError
from reelnet.jobs import InputRef
from reelnet.metrics import new_registry
from reelnet.pipelines import Work
from tests.fakes.exposition import Exposition

ROOT = Path(__file__).resolve().parents[3]
REFUSERS = ("orchestrator/admission.py", "orchestrator/slots.py", "orchestrator/node.py", "proto/reelnet/ticket.py")


def ticket(*inputs: str) -> Any:
    """A ticket as far as metrics look at it."""
    refs = tuple(InputRef(name, 1, "00", "image/png") for name in inputs)
    return SimpleNamespace(pipeline="text-to-image", model="acme/model", inputs=refs, work=Work(8192, 4096))


class Bench:
    """A node's metrics, and a node's parts to watch."""

    def __init__(self) -> None:
        self.registry = new_registry("orchestrator")
        self.metrics = NodeMetrics(self.registry)

    @property
    def said(self) -> Exposition:
        """What a scrape would show."""
        return Exposition(generate_latest(self.registry).decode())


def test_an_attempt_is_counted_by_its_end() -> None:
    """Outcome and class; work and quote only when it went well."""
    bench = Bench()
    for error in (None, None, NodeError("x"), CanceledError("x")):
        bench.metrics.finished(ticket(), 19, error)
    said = bench.said
    assert said.sum("reelnet_node_attempts_total", model="acme/model") == 4
    assert said.sum("reelnet_node_attempts_total", outcome="ok", class_="none") == 2
    assert said.sum("reelnet_node_attempts_total", outcome="failed", class_="node") == 1
    assert said.sum("reelnet_node_attempts_total", outcome="canceled") == 1
    assert said.sum("reelnet_node_work_pixel_steps_total") == 2 * 8192
    assert said.sum("reelnet_node_work_output_pixels_total") == 2 * 4096
    assert said.sum("reelnet_node_quoted_dollars_total") == 38e-9


def test_a_refusal_has_this_nodes_own_reason() -> None:
    """A code that is none of ours becomes `other`: a label is no place for strangers' words."""
    bench = Bench()
    bench.metrics.refused(RefusedError("x", code="rates"))
    bench.metrics.refused(BusyError("x"))
    bench.metrics.refused(RefusedError("x", code="whatever a stranger says"))
    said = bench.said
    assert said.sum("reelnet_node_refusals_total", class_="refused", reason="rates") == 1
    assert said.sum("reelnet_node_refusals_total", class_="busy", reason="queue_full") == 1
    assert said.sum("reelnet_node_refusals_total", class_="refused", reason="other") == 1
    assert "stranger" not in said.text


@pytest.mark.parametrize("file", REFUSERS)
def test_every_code_of_a_refusal_is_a_reason(file: str) -> None:
    """A new reason to refuse a ticket has to be named here, or it would be `other`."""
    codes = set(re.findall(r'code="(\w+)"', (ROOT / file).read_text("utf-8")))
    assert codes - {"internal", "receipt", "price"} <= set(REASONS), "a receipt is what a broadcaster refuses"


def test_stages_are_observed_in_seconds() -> None:
    """Input only where there is one; queue, run and delivery of each attempt."""
    bench = Bench()
    bench.metrics.waited(ticket(), 9.0, 1.5)
    bench.metrics.waited(ticket("image"), 2.0, 0.5)
    bench.metrics.ran(ticket(), 7.0)
    bench.metrics.delivered(ticket(), 0.25)
    wanted = {"input": (1, 2.0), "queue": (2, 2.0), "run": (1, 7.0), "delivery": (1, 0.25)}
    for stage, (count, total_s) in wanted.items():
        assert bench.said.sum("reelnet_node_stage_seconds_count", stage=stage) == count
        assert bench.said.sum("reelnet_node_stage_seconds_sum", stage=stage) == total_s


async def test_the_node_is_shown_as_it_is_at_each_scrape(tmp_path: Path) -> None:
    """Queue, slots, runners, restarts and spool, by model; states that nobody is in are 0."""
    slots = [Slot("0-a", "a", "cpu/0", ready=True), Slot("1-a", "a", "cpu/1"), Slot("2-b", "b", "cpu/2", ready=True)]
    table = SlotTable(slots, {"a": 4, "b": 4}, lambda: 10.0)
    states = dict(zip(slots, ("busy", "backoff", "ready"), strict=True))
    supervisors = {slot.name: SimpleNamespace(slot=slot, state=state) for slot, state in states.items()}
    ends = Counter({("a", End.LOAD): 2, ("a", End.KILLED): 1, ("gone", End.STUCK): 4})
    kept = SimpleNamespace(supervisors=supervisors, restarts=ends, cold_starts=Counter(b=7))
    spool, faults = Spool(tmp_path / "spool", 1000), {"a": "", "c": "its folder is missing"}
    node = SimpleNamespace(
        draining=False, attempts=lambda: [1, 2], faults=lambda: faults, watchers=Watchers(lambda: 5_000)
    )
    bench = Bench()
    bench.metrics.watch(table, kept, spool, node)  # type: ignore[arg-type]
    place: Reservation = table.reserve("a", 1.0)
    table.input_complete(place)
    table.reserve("a", 1.0)
    spool.take(123)
    with node.watchers.watching("a", 66_000), node.watchers.watching("b", None), node.watchers.watching("c", 3_000):
        said, name = bench.said, "reelnet_node_broadcaster_clock_skew_seconds"
        assert [said.sum(name, side=side) for side in ("ahead", "behind")] == [61, 2]
    node.draining = True
    said = bench.said
    assert (said.sum("reelnet_node_queued_jobs", model="a"), said.sum("reelnet_node_queued_jobs", model="b")) == (1, 0)
    seen = {state: said.sum("reelnet_node_slots", model="a", state=state) for state in ("busy", "ready", "down")}
    assert seen == {"busy": 1, "ready": 0, "down": 1}
    assert said.sum("reelnet_node_slots", model="b", state="ready") == 1
    assert said.sum("reelnet_node_slots") == 3
    assert said.sum("reelnet_node_runners", model="a", state="backoff") == 1
    assert said.sum("reelnet_node_runners") == 3
    assert said.sum("reelnet_node_runner_restarts_total", model="a") == 3
    assert said.sum("reelnet_node_runner_restarts_total", model="a", reason="load") == 2
    assert said.sum("reelnet_node_runner_restarts_total", model="gone") == 4
    assert said.sum("reelnet_node_cold_starts_total", model="b") == 7
    assert said.sum("reelnet_node_spool_bytes") == 123
    assert said.sum("reelnet_node_attempts_in_progress") == 2
    assert said.sum("reelnet_node_draining") == 1
    assert [said.sum("reelnet_node_model_faulty", model=model) for model in "ac"] == [0, 1]


def test_a_slot_with_a_job_is_busy_even_when_its_runner_is_given_up() -> None:
    """One state for each slot, so that the states add up to the slots."""
    slot = Slot("0-a", "a", "cpu/0")
    assert slot_state(slot) == "down"
    slot.holder = object()  # type: ignore[assignment]
    assert slot_state(slot) == "busy"

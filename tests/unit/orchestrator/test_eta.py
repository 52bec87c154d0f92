"""What a node says of time, on a virtual clock: when an accepted job begins, and when a refused one finds a place."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import median

import pytest

from orchestrator.admission import Snapshot, Spooling, admit
from orchestrator.estimates import Estimates
from orchestrator.slots import Reservation, Slot, SlotTable
from reelnet.errors import BusyError
from reelnet.jobs import BroadcasterId, Capability, JobId, NodeId, Ticket
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES
from reelnet.pricing import Rates, price

PIPELINE = PIPELINES["text-to-image"]
RATES = Rates(job=5)
CAPABILITY = Capability(PIPELINE.name, "text-to-image/sd@1", "", "d" * 64, RATES)
STEPS = (10, 20, 30)
OVERLOAD = 2
SEEDS = 20
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Workload:
    """Devices by model, runs in seconds of a job of 20 steps, sigma of their logarithm, how jobs come, what is cold.

    `burst`: all at once; else within the time that they take altogether. `load_s`: by model that no device has yet.
    """

    layout: Mapping[str, tuple[str, ...]]
    run_s: Mapping[str, float]
    sigma: float = 0.0
    burst: bool = True
    load_s: Mapping[str, float] = field(default_factory=dict)
    queue: int = 8

    @property
    def devices(self) -> int:
        """How many there are."""
        return len({device for devices in self.layout.values() for device in devices})


WORKLOADS = {
    "one device": Workload({"m": ("a",)}, {"m": 5}, 0.5),
    "four devices": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}, 0.5),
    "four devices, equal runs": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}),
    "jobs come one by one": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}, 0.5, burst=False),
    "a deep queue": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}, 0.5, queue=64),
    "no queue": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}, 0.5, queue=0),
    "two models share a device": Workload({"m": ("a",), "n": ("a",)}, {"m": 2, "n": 8}, 0.5),
    "some devices are shared": Workload({"m": ("a", "b"), "n": ("b", "c", "d")}, {"m": 3, "n": 12}, 0.5),
    "a cold model": Workload({"m": ("a", "b")}, {"m": 4}, 0.5, load_s={"m": 40}),
    "a cold model beside a warm one": Workload({"m": ("a",), "n": ("a",)}, {"m": 4, "n": 4}, 0.5, load_s={"n": 40}),
    "wild run times": Workload({"m": ("a", "b", "c", "d")}, {"m": 5}, 1.0),
}


@dataclass(frozen=True)
class Job:
    """What a client wants, and how long it will take, which nobody knows."""

    ticket: Ticket
    run_s: float


@dataclass
class Outcome:
    """Promised and true seconds in the queue of the accepted; of each return at the time told: whether it got in."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    returns: list[bool] = field(default_factory=list)

    @property
    def median_factor(self) -> float:
        """How far off the estimate is for the median job that waited, as a factor of 1 or more."""
        waits = [(max(0.01, told), true) for told, true in self.waits if true > 0]
        return median(max(told / true, true / told) for told, true in waits) if waits else 1.0

    @property
    def let_in(self) -> float:
        """Share of returns that found a place."""
        return sum(self.returns) / len(self.returns) if self.returns else 1.0


class VirtualNode:
    """A node's table, admission and estimates, with runners and clients on a clock of their own."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.now = 1000.0
        self.outcome = Outcome()
        self._workload = workload
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, tuple[object, ...]]] = []
        self._order = count()
        self._waiting: dict[Reservation, tuple[Job, float]] = {}
        self._estimates = Estimates()
        self._cold = dict.fromkeys(workload.load_s, 0.0)
        slots = [
            Slot(f"{model}-{device}", model, device, ready=model not in workload.load_s)
            for model, devices in workload.layout.items()
            for device in devices
        ]
        self.table = SlotTable(
            slots, dict.fromkeys(workload.layout, workload.queue), lambda: self.now, self._load_left_s
        )

    def run(self) -> Outcome:
        """Ten jobs for each slot, after a few that the node learns from; to the end of them all."""
        for model in self._workload.layout:
            for job in self._jobs(model, 20):
                self._estimates.observe(PIPELINE.name, model, job.ticket.work, job.run_s)
        self._send()
        while self._events:
            self.now, _, (what, *about) = heapq.heappop(self._events)
            getattr(self, f"_{what}")(*about)
            self._begin_granted()
        assert not self._waiting
        return self.outcome

    def _send(self) -> None:
        jobs = [job for model, devices in self._workload.layout.items() for job in self._jobs(model, 10 * len(devices))]
        within_s = 0.0 if self._workload.burst else sum(job.run_s for job in jobs) / self._workload.devices / OVERLOAD
        for job in sorted(jobs, key=lambda _: self._rng.random()):
            self._at(self.now + self._rng.random() * within_s, "ask", job, False)
        for model, load_s in self._workload.load_s.items():
            self._cold[model] = self.now + load_s
            self._at(self.now + load_s, "loaded", model)

    def _jobs(self, model: str, number: int) -> Iterator[Job]:
        for _ in range(number):
            steps = self._rng.choice(STEPS)
            run_s = self._workload.run_s[model] * steps / 20 * self._rng.lognormvariate(0, self._workload.sigma)
            yield Job(self._ticket(model, steps), run_s)

    def _ticket(self, model: str, steps: int) -> Ticket:
        params = TextToImage(prompt="a fox", width=512, height=512, num_inference_steps=steps, seed=1)
        work = PIPELINE.work(params)
        return Ticket(
            JobId("job"), 1, BroadcasterId("b"), NodeId("node"), "epoch", PIPELINE.name, CAPABILITY.schema, model,
            CAPABILITY.model_digest, params.model_dump_json().encode(), (), work, RATES, price(work, RATES),
            deadline_ms=DAY_MS, expires_ms=2_000_000,
        )  # fmt: skip

    def _at(self, when: float, *event: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _load_left_s(self, model: str) -> float:
        return max(0.0, self._cold[model] - self.now)

    def _ask(self, job: Job, again: bool) -> None:
        """A client asks; if it is refused, it comes back after exactly the time that it is told."""
        try:
            reservation = self._open(job)
        except BusyError as refusal:
            self._at(self.now + (refusal.retry_after_s or 0.0), "ask", job, True)
            reservation = None
        if again:
            self.outcome.returns.append(reservation is not None)

    def _open(self, job: Job) -> Reservation:
        """As a node opens an attempt."""
        ticket = job.ticket
        expected_s = self._estimates.expected_s(ticket.pipeline, ticket.model, ticket.work)
        wait_s = self.table.wait_s(ticket.model)
        capability = replace(CAPABILITY, model=ticket.model)
        now_ms = int(self.now * 1000)
        admit(
            ticket,
            Snapshot("node", "epoch", now_ms, False, None, capability, wait_s, expected_s, 0, Spooling("", 0, 0)),
        )
        reservation = self.table.reserve(ticket.model, expected_s)
        assert reservation.wait_s == wait_s
        self._waiting[reservation] = job, self.now
        self.table.input_complete(reservation)
        return reservation

    def _begin_granted(self) -> None:
        for reservation in [r for r in self._waiting if r.granted.done()]:
            job, asked_at = self._waiting.pop(reservation)
            self.outcome.waits.append((reservation.wait_s, self.now - asked_at))
            self._at(self.now + job.run_s, "end", reservation, job)

    def _end(self, reservation: Reservation, job: Job) -> None:
        self._estimates.observe(PIPELINE.name, job.ticket.model, job.ticket.work, job.run_s)
        self.table.withdraw(reservation)

    def _loaded(self, model: str) -> None:
        for slot in self.table.of(model):
            self.table.set_ready(slot, True)


@pytest.mark.parametrize("name", WORKLOADS)
async def test_what_a_node_says_of_time_is_mostly_true(name: str) -> None:
    """Over twenty seeds an accepted job begins within a factor of two at the median; most that come back get in."""
    outcomes = [VirtualNode(WORKLOADS[name], seed).run() for seed in range(SEEDS)]
    together = Outcome([w for o in outcomes for w in o.waits], [r for o in outcomes for r in o.returns])
    assert together.median_factor < 2
    assert together.let_in > 0.5


async def test_the_workloads_are_crowds() -> None:
    """Jobs wait and jobs are refused, or nothing would have been shown."""
    outcome = VirtualNode(WORKLOADS["four devices"], 0).run()
    assert len(outcome.waits) == 40
    assert sum(true > 0 for _, true in outcome.waits) > 30
    assert len(outcome.returns) >= 40 - 12

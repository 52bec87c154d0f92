"""What a node says of time, on a virtual clock: when an accepted job begins, and when a refused one finds a place."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from statistics import median

import pytest

from orchestrator.admission import Snapshot, admit
from orchestrator.slots import LEAST, MIN_RETRY_AFTER_S, Reservation, Slot, SlotTable
from reelnet.errors import BusyError
from reelnet.estimates import Estimates
from reelnet.jobs import BroadcasterId, Capability, JobId, NodeId, Ticket
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES, Work
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
    """Promised and true seconds in the queue of the accepted; of each return at the time told: whether it got in.

    `told`: the moments that refused jobs were told, seconds from now.
    """

    waits: list[tuple[float, float]] = field(default_factory=list)
    returns: list[bool] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

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
        self._estimates: Estimates[tuple[str, str]] = Estimates()
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
            self.learn(self._jobs(model, 20))
        self._send()
        return self._play()

    def learn(self, jobs: Iterable[Job]) -> None:
        """Jobs that it did before."""
        for job in jobs:
            self._estimates.observe((PIPELINE.name, job.ticket.model), job.ticket.work.pixel_steps, job.run_s)

    def crowd(self, jobs: Iterable[Job]) -> Outcome:
        """These at once, to the end of them all."""
        for job in jobs:
            self._at(self.now, "ask", job, False)
        return self._play()

    def _play(self) -> Outcome:
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
            yield Job(ticket(model, 512, steps), run_s)

    def _at(self, when: float, *event: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _load_left_s(self, model: str) -> float:
        return max(0.0, self._cold[model] - self.now)

    def _ask(self, job: Job, again: bool) -> None:
        """A client asks; if it is refused, it comes back after exactly the time that it is told."""
        try:
            reservation = self.open(job)
        except BusyError as refusal:
            self.outcome.told.append(refusal.retry_after_s or 0.0)
            self._at(self.now + self.outcome.told[-1], "ask", job, True)
            reservation = None
        if again:
            self.outcome.returns.append(reservation is not None)

    def open(self, job: Job) -> Reservation:
        """As a node opens an attempt. Raises BusyError."""
        ticket = job.ticket
        estimate = partial(self._estimates.estimate, (ticket.pipeline, ticket.model), ticket.work.pixel_steps)
        expected, wait_s = estimate(), self.table.wait_s(ticket.model)
        capability = replace(CAPABILITY, model=ticket.model)
        least_s = self.table.wait_s(ticket.model, LEAST) + expected.least_s
        assert least_s <= wait_s + expected.seconds + 1e-6
        now_ms, idle = int(self.now * 1000), self.table.idle(ticket.model)
        admit(ticket, Snapshot("node", "epoch", now_ms, False, None, capability, 0, idle, wait_s, least_s, 0.0, 60.0))
        reservation = self.table.reserve(ticket.model, expected.seconds, expected.least_s, estimate)
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
        self.learn([job])
        self.table.revise(job.ticket.model)
        self.table.withdraw(reservation)

    def _loaded(self, model: str) -> None:
        for slot in self.table.of(model):
            self.table.set_ready(slot, True)


def ticket(model: str, side: int, steps: int, deadline_ms: int = DAY_MS) -> Ticket:
    """For a square picture."""
    params = TextToImage(prompt="a fox", width=side, height=side, num_inference_steps=steps, seed=1)
    work = PIPELINE.work(params)
    return Ticket(
        JobId("job"), 1, BroadcasterId("b"), NodeId("node"), "epoch", PIPELINE.name, CAPABILITY.schema, model,
        CAPABILITY.model_digest, params.model_dump_json().encode(), (), work, RATES, price(work, RATES),
        deadline_ms=deadline_ms, expires_ms=2_000_000,
    )  # fmt: skip


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


TINY = Job(ticket("m", 64, 1), 0.05)
USUAL = Job(ticket("m", 512, 20), 0.2)
LARGE = Job(ticket("m", 2048, 200), 10.0)
IN_TEN_MINUTES_MS = 1_000_000 + 600_000


def one_device() -> VirtualNode:
    """A node of one device that knows nothing."""
    return VirtualNode(Workload({"m": ("a",)}, {"m": 0.2}), 0)


CROWDS = {
    "of usual jobs": [USUAL] * 50,
    "of tiny jobs": [TINY] * 50,
    "of tiny and large jobs": [TINY] * 45 + [LARGE] * 5,
    "of all sizes": [TINY] * 20 + [USUAL] * 20 + [LARGE] * 10,
}
TAUGHT = {
    "nothing": [],
    "a tiny job": [TINY],
    "forty tiny jobs": [TINY] * 40,
    "a large job": [LARGE],
    "a usual job that took minutes": [*[USUAL] * 5, replace(USUAL, run_s=300.0), *[USUAL] * 4],
}


@pytest.mark.parametrize("taught", TAUGHT)
@pytest.mark.parametrize("name", CROWDS)
async def test_a_crowd_is_told_sane_times(name: str, taught: str) -> None:
    """Fifty clients on one slot, after whatever the node saw before: nobody is told thrice what all of them take."""
    for seed in range(SEEDS):
        node, jobs = one_device(), list(CROWDS[name])
        random.Random(seed).shuffle(jobs)
        node.learn(TAUGHT[taught])
        all_s = sum(job.run_s for job in jobs)
        outcome = node.crowd(jobs)
        assert max(outcome.told) <= max(MIN_RETRY_AFTER_S, 3 * all_s)
        assert max(told for told, _ in outcome.waits) <= max(MIN_RETRY_AFTER_S, 3 * all_s)
        assert node.now - 1000.0 <= 4 * all_s + 2 * MIN_RETRY_AFTER_S


@pytest.mark.parametrize("tiny_jobs", [1, 40])
@pytest.mark.parametrize("wanted", [(512, 20), (2048, 200)])
async def test_tiny_jobs_close_a_node_for_no_large_one(tiny_jobs: int, wanted: tuple[int, int]) -> None:
    """With ten minutes for it: neither while the node is idle nor beside a job that runs and one that waits."""
    node = one_device()
    node.learn([TINY] * tiny_jobs)
    job = Job(ticket("m", *wanted, IN_TEN_MINUTES_MS), 2.5)
    assert [node.open(job).position for _ in range(3)] == [0, 0, 1]


async def test_a_lie_closes_a_node_for_nobody() -> None:
    """A job that stated one unit of work and took ten seconds: an honest one of ten minutes is taken beside others."""
    node = one_device()
    node.learn([replace(USUAL, ticket=replace(USUAL.ticket, work=Work(1, 1)), run_s=10.0)])
    honest = Job(ticket("m", 512, 20, IN_TEN_MINUTES_MS), 0.2)
    assert [node.open(honest).position for _ in range(3)] == [0, 0, 1]


async def test_what_cannot_be_done_in_time_is_refused() -> None:
    """Thirty-one jobs of ten seconds are before it: ten minutes are enough for it, and five are not."""
    node = VirtualNode(Workload({"m": ("a",)}, {"m": 10.0}, queue=64), 0)
    node.learn([LARGE] * 5)
    for _ in range(31):
        node.open(LARGE)
    node.open(Job(ticket("m", 2048, 200, IN_TEN_MINUTES_MS), 10.0))
    with pytest.raises(BusyError, match="deadline"):
        node.open(Job(ticket("m", 2048, 200, IN_TEN_MINUTES_MS - 300_000), 10.0))

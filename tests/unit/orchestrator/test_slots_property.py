"""Places, the queue before them, and the lease: whatever happens in whatever order."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.slots import Reservation, Slot, SlotTable
from reelnet.errors import BusyError

MODELS = ("m", "n")
DEVICES = ("a", "b", "c")
layouts = st.lists(st.tuples(st.sampled_from(MODELS), st.sampled_from(DEVICES)), min_size=1, max_size=6)


class Node(RuleBasedStateMachine):
    """Jobs come, get their input, are canceled and end, while runners come and go."""

    @initialize(layout=layouts, limits=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def start(self, layout: list[tuple[str, str]], limits: tuple[int, int]) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        slots = [Slot(f"{i}", model, device, ready=True) for i, (model, device) in enumerate(layout)]
        self.limits = dict(zip(MODELS, limits, strict=True))
        self.now = 1000.0
        self.table = SlotTable(slots, dict(self.limits), lambda: self.now)
        self.jobs: list[Reservation] = []
        self.served: set[int] = set()

    def teardown(self) -> None:
        """When all jobs have ended, every place is free again, and a job of each model that is there gets one."""
        if not hasattr(self, "loop"):
            return
        for slot in self.table.slots:
            self.table.set_ready(slot, True)
        for job in list(self.jobs):
            self.table.withdraw(job)
        for model in {slot.model for slot in self.table.slots}:
            job = self._reserve(model)
            assert job is not None
            self.table.input_complete(job)
            assert job.granted.done()
            self.table.withdraw(job)
        self.loop.close()
        asyncio.set_event_loop(None)

    @rule(model=st.sampled_from(MODELS), now=st.booleans())
    def arrives(self, model: str, now: bool) -> None:
        places = len(self.table.of(model)) + self.limits[model]
        inside = sum(job.model == model for job in self.jobs)
        job = self._reserve(model)
        assert (job is not None) is (inside < places)
        if job:
            self.jobs.append(job)
            if now:
                self.table.input_complete(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def gets_its_input(self, data: st.DataObject) -> None:
        self.table.input_complete(data.draw(st.sampled_from(self.jobs)))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), abandoned=st.booleans())
    def ends(self, data: st.DataObject, abandoned: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if abandoned:
            job.granted.cancel()  # as a canceled task does to what it awaits
        self.table.withdraw(job)
        self.jobs.remove(job)

    @rule(data=st.data(), ready=st.booleans())
    def runner_comes_or_goes(self, data: st.DataObject, ready: bool) -> None:
        self.table.set_ready(data.draw(st.sampled_from(self.table.slots)), ready)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def one_holder_a_device(self) -> None:
        held = [slot for slot in self.table.slots if slot.holder]
        assert len({slot.device for slot in held}) == len(held)
        assert len({id(slot.holder) for slot in held}) == len(held)
        assert all(slot.holder.model == slot.model and slot.holder.complete for slot in held if slot.holder)

    @invariant()
    def nobody_is_lost(self) -> None:
        holders = [slot.holder for slot in self.table.slots if slot.holder]
        waiting = [job for model in MODELS for job in self.table.waiting(model)]
        assert {id(job) for job in self.jobs} == {id(job) for job in holders} | {id(job) for job in waiting}
        assert len(holders) + len(waiting) == len(self.jobs)
        assert all(job.granted.done() and job.granted.result().holder is job for job in holders)
        assert not any(job.granted.done() for job in waiting)

    @invariant()
    def no_more_than_there_are_places(self) -> None:
        for model in MODELS:
            inside = len(self.table.waiting(model)) + len(self.table.running(model))
            assert inside <= len(self.table.of(model)) + self.limits[model]

    @invariant()
    def no_slot_idles_while_a_job_could_run(self) -> None:
        for model in MODELS:
            if self.table.free(model):
                assert not any(job.complete for job in self.table.waiting(model))

    @invariant()
    def first_come_first_served(self) -> None:
        """A job that has just been given a slot passed no earlier one of its model that could have had it."""
        granted = [job for job in self.jobs if job.granted.done()]
        for job in granted:
            if id(job) not in self.served:
                earlier = self.jobs[: self.jobs.index(job)]
                assert not [e for e in earlier if e.model == job.model and e.complete and not e.granted.done()]
        self.served = {id(job) for job in granted}

    @invariant()
    def positions_are_the_order(self) -> None:
        for model in MODELS:
            waiting = self.table.waiting(model)
            assert [job.position for job in waiting] == list(range(len(waiting)))
            assert [job.reserved_at for job in waiting] == sorted(job.reserved_at for job in waiting)

    @invariant()
    def estimates_are_sane(self) -> None:
        for model in MODELS:
            assert 0 <= self.table.wait_s(model) < 10 * (len(self.jobs) + 1)
            assert self.table.oldest_wait_s(model) >= 0

    def _reserve(self, model: str) -> Reservation | None:
        async def reserve() -> Reservation | None:
            try:
                return self.table.reserve(model, 10.0)
            except BusyError:
                return None

        return self.loop.run_until_complete(reserve())


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

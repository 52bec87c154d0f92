"""Places, the queue before them, and the lease: by example."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.slots import LEAST, OVERDUE, RETRY_MARGIN, Reservation, Slot, SlotTable, slot_name
from reelnet.errors import BusyError, TransientError
from reelnet.estimates import Estimate


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(*slots: tuple[str, str], queue: int = 8, clock: Clock | None = None) -> SlotTable:
    """A table of ready slots, each (model, device)."""
    made = [Slot(f"slot-{i}", model, device, ready=True) for i, (model, device) in enumerate(slots)]
    return SlotTable(made, {model: queue for model, _ in slots}, clock or Clock())


def complete(table: SlotTable, model: str = "m", expected_s: float = 10.0) -> Reservation:
    """A job whose input is there."""
    reservation = table.reserve(model, expected_s)
    table.input_complete(reservation)
    return reservation


def slot_of(reservation: Reservation) -> Slot | None:
    """The slot that a job was given."""
    return reservation.granted.result() if reservation.granted.done() else None


async def test_jobs_get_slots_in_their_order() -> None:
    """First come, first served."""
    t = table(("m", "a"))
    jobs = [complete(t) for _ in range(4)]
    for index, job in enumerate(jobs):
        assert [slot_of(j) is not None for j in jobs] == [i <= index for i in range(4)]
        t.withdraw(job)
    assert t.free("m") == 1


async def test_a_full_queue_says_so() -> None:
    """Slots and queue are the bound; the refusal says when a job should have ended, a second at least."""
    t = table(("m", "a"), ("m", "b"), queue=1)
    for _ in range(3):
        complete(t, expected_s=20)
    with pytest.raises(BusyError) as caught:
        t.reserve("m", 5)
    assert caught.value.retry_after_s == 20 * RETRY_MARGIN
    idle = table(("m", "a"), queue=0)
    complete(idle, expected_s=0.1)
    with pytest.raises(BusyError) as caught:
        idle.reserve("m", 5)
    assert caught.value.retry_after_s == 1.0


async def test_no_queue_is_no_waiting() -> None:
    """A queue of 0 takes as many jobs as there are slots, and a place is free again when one ends."""
    t = table(("m", "a"), queue=0)
    job = t.reserve("m", 1)
    with pytest.raises(BusyError):
        t.reserve("m", 1)
    t.withdraw(job)
    t.reserve("m", 1)


async def test_an_incomplete_input_holds_nobody_up() -> None:
    """A job whose input is still on its way keeps its place, and others pass."""
    t = table(("m", "a"))
    slow, fast, later = t.reserve("m", 10), complete(t), complete(t)
    assert (slot_of(slow), slot_of(later)) == (None, None)
    assert slot_of(fast) is not None
    t.input_complete(slow)
    t.withdraw(fast)
    assert slot_of(slow) is not None, "its place was before the later job's"
    assert slot_of(later) is None


async def test_one_job_a_device() -> None:
    """Two models on one device take turns; a free second device is used."""
    t = table(("m", "a"), ("n", "a"), ("n", "b"))
    first, second, third = complete(t, "m"), complete(t, "n"), complete(t, "n")
    assert slot_of(first) is t.slots[0]
    assert slot_of(second) is t.slots[2]
    assert slot_of(third) is None
    assert (t.free("m"), t.free("n")) == (0, 0)
    t.withdraw(first)
    assert slot_of(third) is t.slots[1]


async def test_one_freed_device_goes_to_one_model() -> None:
    """Jobs of two models wait for it, each with a ready runner there: the first one gets it, and computes alone."""
    t = table(("m", "a"), ("n", "a"))
    running = complete(t, "m")
    first, second = complete(t, "n"), complete(t, "m")
    t.withdraw(running)
    assert (slot_of(first) is not None, slot_of(second)) == (True, None)
    t.withdraw(first)
    assert slot_of(second) is not None


async def test_a_slot_that_is_not_ready_gets_no_job() -> None:
    """Jobs wait for a runner that loads, and get it when it is ready."""
    t = table(("m", "a"))
    t.set_ready(t.slots[0], False)
    job = complete(t)
    assert (slot_of(job), t.free("m")) == (None, 0)
    t.set_ready(t.slots[0], True)
    assert slot_of(job) is t.slots[0]


async def test_jobs_have_positions() -> None:
    """0 is next; who leaves moves those behind it. Models have queues of their own."""
    t = table(("m", "a"), ("n", "b"))
    running = complete(t)
    complete(t, "n")
    first, second, third = complete(t), complete(t), complete(t)
    other = complete(t, "n")
    assert [job.position for job in (first, second, third, other)] == [0, 1, 2, 0]
    t.withdraw(second)
    assert [job.position for job in (first, third, other)] == [0, 1, 0]
    t.withdraw(running)
    assert (slot_of(first) is not None, third.position, other.position) == (True, 0, 0)
    t.withdraw(first)
    assert slot_of(third) is not None


async def test_a_lease_ends_when_its_place_is_given_back() -> None:
    """Until then nobody else gets the slot, and then the next job does."""
    t = table(("m", "a"))
    first, second = complete(t), complete(t)
    assert t.slots[0].holder is first
    assert slot_of(second) is None
    t.withdraw(first)
    assert t.slots[0].holder is second
    assert slot_of(second) is t.slots[0]


async def test_cancelling_a_wait_leaks_nothing() -> None:
    """A job that is canceled while it waits leaves the queue, and its slot goes to the next one."""
    t = table(("m", "a"))
    running, waiting, last = complete(t), complete(t), complete(t)
    task = asyncio.create_task(_hold(t, waiting))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert t.waiting("m") == [last]
    t.withdraw(running)
    assert slot_of(last) is not None


async def test_a_cancel_that_meets_its_grant_leaks_nothing() -> None:
    """A slot that was granted in the same moment as the cancel is given back."""
    t = table(("m", "a"))
    running, waiting = complete(t), complete(t)
    task = asyncio.create_task(_hold(t, waiting))
    await asyncio.sleep(0)
    t.withdraw(running)
    assert t.slots[0].holder is waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert t.slots[0].holder is None
    assert t.free("m") == 1


async def test_withdrawing_works_everywhere_and_twice() -> None:
    """In the queue, granted, running, and after the end."""
    t = table(("m", "a"))
    held, queued = complete(t), complete(t)
    for job in (queued, queued, held, held):
        t.withdraw(job)
    assert (t.free("m"), t.waiting("m"), t.running("m")) == (1, [], [])


async def test_a_closed_table_fails_what_waits() -> None:
    """Jobs that run go on, jobs that wait are told that the node stops, and no slot is given any more."""
    t = table(("m", "a"))
    running, waiting = complete(t), t.reserve("m", 1)
    t.close("the node is stopping")
    t.input_complete(waiting)
    with pytest.raises(TransientError, match="stopping") as caught:
        await _hold(t, waiting)
    assert caught.value.code == "draining"
    assert t.slots[0].holder is running
    t.withdraw(running)


async def test_the_wait_is_the_work_before_it() -> None:
    """What runs still takes its rest, what waits its whole; models on the same device are in each other's way."""
    clock = Clock()
    t = table(("m", "a"), ("n", "a"), ("o", "b"), clock=clock)
    assert t.wait_s("m") == 0
    complete(t, "m", expected_s=30)
    complete(t, "n", expected_s=10)
    clock.now += 12
    assert t.wait_s("m") == t.wait_s("n") == 30 - 12 + 10
    assert t.wait_s("o") == 0
    clock.now += 100
    assert t.wait_s("m") == 30 * OVERDUE + 10, "a job that takes longer than expected still takes some time"
    assert t.oldest_wait_s("n") == 112
    assert t.oldest_wait_s("m") == 0


async def test_a_job_waits_for_those_before_it_alone() -> None:
    """What it was told when it came does not count itself, and what it is told later goes by its place."""
    clock = Clock()
    t = table(("m", "a"), ("m", "b"), clock=clock)
    jobs = [complete(t, expected_s=10) for _ in range(6)]
    assert [job.wait_s for job in jobs] == [0, 0, 10, 10, 20, 20]
    assert [t.eta_s(job) for job in jobs] == [0, 0, 10, 10, 20, 20]
    clock.now += 4
    assert [t.eta_s(job) for job in jobs] == [0, 0, 6, 6, 16, 16]
    t.withdraw(jobs[0])
    assert [t.eta_s(job) for job in jobs[2:]] == [0, 6, 10, 16]


async def test_refused_jobs_are_told_different_times() -> None:
    """Each the end of another job; a time that has passed is told again, and there is a longest one."""
    clock = Clock()
    t = table(("m", "a"), ("m", "b"), queue=0, clock=clock)
    for _ in range(2):
        complete(t, expected_s=20)
    assert [_told(t) for _ in range(4)] == [20 * RETRY_MARGIN] * 2 + [40 * RETRY_MARGIN] * 2
    clock.now += 20 * RETRY_MARGIN
    assert _told(t) == (20 * OVERDUE + 20) * RETRY_MARGIN, "two of the four still have to come"
    told = [_told(t) for _ in range(100)]
    assert told[-1] == told[-80] == max(told)


async def test_a_load_goes_on_beside_the_jobs_of_others() -> None:
    """A cold model's job waits for its load or for the device, whichever takes longer."""
    t = table(("m", "a"))
    t.slots.append(Slot("cold", "n", "a"))
    t = SlotTable(t.slots, {"m": 8, "n": 8}, Clock(), lambda model: 30.0)
    for _ in range(2):
        complete(t, "m", expected_s=10)
    assert t.wait_s("n") == 30
    for _ in range(2):
        complete(t, "m", expected_s=10)
    assert t.wait_s("n") == 40


async def test_what_is_learned_changes_what_is_expected() -> None:
    """Of the jobs that run and that wait, so that one that came before anything was known has a time as well."""
    t, known = table(("m", "a")), [0.0]
    for _ in range(3):
        t.input_complete(t.reserve("m", 0.0, 0.0, lambda: Estimate(known[0], known[0] / 2)))
    assert (t.wait_s("m"), t.wait_s("m", LEAST)) == (0, 0)
    known[0] = 20.0
    t.revise("m")
    assert (t.wait_s("m"), t.wait_s("m", LEAST)) == (60, 30)


async def test_a_job_beyond_its_least_time_may_end_at_any_moment() -> None:
    """By the least nothing is left of it; by what is expected some is, until it has ended."""
    clock = Clock()
    t = table(("m", "a"), clock=clock)
    t.input_complete(t.reserve("m", 20.0, 10.0))
    clock.now += 15
    assert (t.wait_s("m"), t.wait_s("m", LEAST)) == (20 * OVERDUE, 0)


async def test_a_job_of_unknown_length_is_taken_for_one_of_the_others() -> None:
    """A mean is over the jobs of which something is known."""
    t = table(("m", "a"))
    for expected_s in (10.0, 0.0, 30.0, 0.0):
        complete(t, expected_s=expected_s)
    assert t.wait_s("m") == 10 + 3 * 30


async def test_of_two_replicas_on_a_device_one_computes() -> None:
    """What runs at once and the queue are the bound, not the runners."""
    slots = [Slot(f"slot-{i}", "m", "a", ready=True) for i in range(2)]
    t = SlotTable(slots, {"m": 1}, Clock(), at_once=lambda model: 1)
    complete(t), complete(t)
    with pytest.raises(BusyError):
        t.reserve("m", 1)


async def test_refused_jobs_are_counted_with_what_they_take() -> None:
    """Those that come again are before the next one: large ones in the queue say nothing of a crowd of small ones."""
    t = table(("m", "a"), queue=1)
    complete(t, expected_s=10), complete(t, expected_s=100)
    told = [_told(t, 1.0) for _ in range(8)]
    assert told[0] == 10 * RETRY_MARGIN
    assert told[-1] is not None
    assert told[-1] < (10 + 100 + 8) * RETRY_MARGIN


async def test_changes_are_announced() -> None:
    """Whoever watches the node hears of every reservation, grant and end."""
    t = table(("m", "a"))
    changes: list[int] = []
    t.on_change = lambda: changes.append(len(t.running("m")))
    job = complete(t)
    t.withdraw(job)
    assert changes == [0, 1, 0]


def test_slots_have_names_that_last() -> None:
    """Each of its own, fit for a folder, and the same at each start: its runner is found by it."""
    wanted = [("acme/sdxl", 0), ("acme/sdxl", 1), ("acme-sdxl", 0), ("b/" + "x" * 100, 0), ("c/" + "x" * 100, 0)]
    names = [slot_name(*who) for who in wanted]
    assert len(set(names)) == 5
    assert all(len(name) <= 36 and "/" not in name and "." not in name for name in names)
    assert names == [slot_name(*who) for who in wanted]


async def test_a_slot_that_leaves_gets_no_further_job() -> None:
    """The job that it has goes on; the next one waits for another slot."""
    t = table(("m", "a"))
    running, waiting = complete(t), complete(t)
    t.slots[0].leaving = True
    assert t.warm("m") is False
    t.withdraw(running)
    assert slot_of(waiting) is None
    t.slots[0].leaving = False
    t.set_ready(t.slots[0], True)
    assert slot_of(waiting) is t.slots[0]


async def test_a_model_that_is_not_loaded_has_its_load_to_wait_for() -> None:
    """The estimate of the load comes before that of the queue; with a ready runner there is none."""
    cold = Slot("cold", "m", None)
    t = SlotTable([cold], {"m": 8}, Clock(), lambda model: 30.0)
    assert t.wait_s("m") == 30
    complete(t, expected_s=5)
    assert t.wait_s("m") == 35
    cold.device = "a"
    t.set_ready(cold, True)
    assert t.wait_s("m") == 5


async def test_slots_come_and_go_under_their_jobs() -> None:
    """Other slots and other bounds are taken over; jobs keep their places, and those of a model that left fail."""
    t = table(("m", "a"), ("n", "b"))
    running, waiting = complete(t), complete(t)
    complete(t, "n")
    lost = complete(t, "n")
    t.slots.append(Slot("more", "m", "c", ready=True))
    t.configure({"m": 1})
    t.fail_waiting(TransientError("gone"), "n")
    assert (slot_of(running), slot_of(waiting)) == (t.slots[0], t.slots[2])
    complete(t)
    with pytest.raises(BusyError):
        t.reserve("m", 1)
    with pytest.raises(TransientError):
        await lost.granted


def _told(t: SlotTable, expected_s: float = 20.0) -> float | None:
    with pytest.raises(BusyError) as caught:
        t.reserve("m", expected_s)
    return caught.value.retry_after_s


async def _hold(table: SlotTable, reservation: Reservation) -> None:
    try:
        await reservation.granted
        await asyncio.Event().wait()
    finally:
        table.withdraw(reservation)


async def test_a_job_without_its_input_makes_no_device_busy() -> None:
    """A node is idle while all that waits is on its way: a ticket whose input never comes refuses nobody."""
    t = table(("m", "a"))
    waits = t.reserve("m", 1e6, 1e6)
    assert t.idle("m")
    t.input_complete(waits)
    assert not t.idle("m")

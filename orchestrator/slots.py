"""Slots, the queue before them, and the compute lease: who works on which device next.

Everything here is memory and order, no input or output: a reservation is a place in a bounded queue, taken when a
ticket is accepted; it becomes a lease when its input is complete and a ready slot on a free device is there. Jobs get
slots in the order of their tickets, except that one whose input is still on its way holds nobody up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from orchestrator.estimates import start_s
from reelnet.errors import BusyError, ReelnetError, TransientError
from reelnet.estimates import Estimate

MIN_RETRY_AFTER_S = 1.0
OVERDUE = 0.5
"""A job that takes longer than was expected is taken to need that share of the expectation still."""
RETRY_MARGIN = 1.25
"""A refused job is told to come so much later than a place is expected to be free: too early, it comes in vain."""
TURNS = 8
"""Refused jobs are told different times to ask again, for so many as would take every place so many times."""


@dataclass(eq=False, slots=True)
class Slot:
    """One runner's place: a model on a device, None while no device has it.

    `ready` is the supervisor's word, `holder` the job that has it, `used_at` the time of its last job or placement,
    `loaded_at` that of its runner's last load. A slot that is `leaving` gets no further job.
    """

    name: str
    model: str
    device: str | None
    ready: bool = False
    holder: Reservation | None = None
    leaving: bool = False
    used_at: float = 0.0
    loaded_at: float = 0.0


@dataclass(eq=False, slots=True)
class Reservation:
    """A job's place. `position` counts those before it in the queue.

    `expected_s` is what its own run is expected to take, 0 where that is not known, `least_s` what it takes at the
    least; `estimate` says both anew. `wait_s` is the estimate of its time in the queue when the place was taken.
    `granted` is its lease: the slot, which it holds with its device until the place is given back.
    """

    model: str
    expected_s: float
    reserved_at: float
    least_s: float = 0.0
    estimate: Callable[[], Estimate] | None = None
    complete: bool = False
    granted: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started_at: float | None = None
    position: int = -1
    wait_s: float = 0.0


class _Timed(Protocol):
    """What has a time that is expected, and a least one: a job, or all jobs of a queue."""

    @property
    def expected_s(self) -> float: ...
    @property
    def least_s(self) -> float: ...


_By = Callable[[_Timed], float]
EXPECTED: _By = attrgetter("expected_s")
LEAST: _By = attrgetter("least_s")


@dataclass(slots=True)
class _Queue:
    """How many jobs of a model wait, of how many it is known what they take, and the seconds of those.

    `promised` are the refused jobs: the moment at which each was told to ask again, and what it is expected to take.
    """

    length: int = 0
    known: int = 0
    expected_s: float = 0.0
    least_s: float = 0.0
    promised: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, reservation: Reservation) -> None:
        self.length += 1
        self.known += reservation.expected_s > 0
        self.expected_s += reservation.expected_s
        self.least_s += reservation.least_s

    def count(self, waiting: list[Reservation]) -> None:
        """Counts anew: these wait."""
        self.length, self.known, self.expected_s, self.least_s = 0, 0, 0.0, 0.0
        for reservation in waiting:
            self.add(reservation)

    def remove(self, reservation: Reservation) -> None:
        self.length -= 1
        self.known -= reservation.expected_s > 0
        self.expected_s = self.expected_s - reservation.expected_s if self.known else 0.0
        self.least_s = self.least_s - reservation.least_s if self.known else 0.0

    def mean_s(self, by: _By) -> float:
        """Of the jobs that wait and of which it is known; 0 without one."""
        return by(self) / self.known if self.known else 0.0


class SlotTable:
    """All slots of a node and the queue before them. A change costs a look at the slots, and one at the queue."""

    def __init__(
        self,
        slots: list[Slot],
        queue_limits: dict[str, int],
        clock: Callable[[], float],
        load_s: Callable[[str], float] = lambda model: 0.0,
        at_once: Callable[[str], int] | None = None,
    ) -> None:
        """`load_s` estimates how long it takes from now until a model is loaded that is not.

        `at_once` says how many jobs of a model may run at once; absent: as many as it has slots.
        """
        self.slots = slots
        self._clock = clock
        self._load_s = load_s
        self._at_once = at_once or (lambda model: len(self._of[model]))
        self._waiting: list[Reservation] = []
        self._queues: dict[str, _Queue] = {}
        self._of: dict[str, list[Slot]] = {}
        self._closed: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.configure(queue_limits)

    def configure(self, queue_limits: dict[str, int]) -> None:
        """Takes over what `slots` holds now, and the bound of each model's queue. Jobs that are here stay."""
        self._queue_limits = queue_limits
        known = {*queue_limits, *(slot.model for slot in self.slots)}
        self._queues |= {model: _Queue() for model in known - self._queues.keys()}
        self._of = {model: [s for s in self.slots if s.model == model] for model in {*known, *self._queues}}
        self._dispatch()

    def reserve(
        self, model: str, expected_s: float, least_s: float = 0.0, estimate: Callable[[], Estimate] | None = None
    ) -> Reservation:
        """A place in the queue of `model`. Raises BusyError, with a time to ask again, when there is none.

        `estimate` says later on, when something has been learned, what is expected of the job then.
        """
        waiting = self._queues[model].length
        if waiting + len(self.running(model)) >= self._places(model):
            raise BusyError("every place for this model is taken", retry_after_s=self._retry_after_s(model, expected_s))
        now, wait_s = self._clock(), self.wait_s(model)
        reservation = Reservation(model, expected_s, now, least_s, estimate, position=waiting, wait_s=wait_s)
        self._waiting.append(reservation)
        self._queues[model].add(reservation)
        self.on_change()
        return reservation

    def revise(self, model: str) -> None:
        """Something has been learned of a model: what its jobs that are here are expected to take is asked anew."""
        waiting = self.waiting(model)
        for job in (*waiting, *(slot.holder for slot in self.running(model))):
            if job and job.estimate:
                expected = job.estimate()
                job.expected_s, job.least_s = expected.seconds, expected.least_s
        self._queues[model].count(waiting)

    def input_complete(self, reservation: Reservation) -> None:
        """The job may now be given a slot."""
        if not reservation.complete:
            reservation.complete = True
            self._dispatch()

    def withdraw(self, reservation: Reservation) -> None:
        """Gives the place back, wherever the job is: in the queue, granted, or running. Safe to repeat."""
        held = [slot for slot in self._of[reservation.model] if slot.holder is reservation]
        for slot in held:
            slot.holder = None
            slot.used_at = self._clock()
        if held or self._leave_queue(reservation):
            self._dispatch()

    def set_ready(self, slot: Slot, ready: bool) -> None:
        """The supervisor's word on whether a slot's runner can take a job."""
        slot.ready = ready
        self._dispatch()

    def close(self, reason: str) -> None:
        """Fails every job that still waits for a slot: the node stops."""
        self._closed = reason
        self.fail_waiting(TransientError(reason, code="draining"))

    def fail_waiting(self, error: ReelnetError, model: str | None = None) -> None:
        """Fails the jobs that wait for a slot, of one model or of all: none will come."""
        for reservation in self._waiting:
            if model in (None, reservation.model) and not reservation.granted.done():
                reservation.granted.set_exception(error)
                reservation.granted.exception()  # its job may not wait for it yet

    def of(self, model: str) -> list[Slot]:
        """The slots of a model."""
        return self._of[model]

    def waiting(self, model: str) -> list[Reservation]:
        """The queue of a model, next job first."""
        return [r for r in self._waiting if r.model == model]

    def running(self, model: str) -> list[Slot]:
        """The slots of a model that a job holds."""
        return [slot for slot in self._of[model] if slot.holder]

    def warm(self, model: str) -> bool:
        """Whether a runner of the model could take a job without loading it."""
        return any(slot.ready and not slot.leaving for slot in self._of[model])

    def free(self, model: str) -> int:
        """How many jobs of a model could start at this moment."""
        return len({slot.device for slot in self._open() if slot.model == model})

    def idle(self, model: str) -> bool:
        """Whether a new job of a model could begin at this moment: one whose input is on its way holds nobody up."""
        return self.free(model) > 0 and not any(job.complete for job in self.waiting(model))

    def wait_s(self, model: str, by: _By = EXPECTED) -> float:
        """Estimated queue time of a new job: when a device of this model is done with the work before it.

        Where the model is not loaded, the time of its load comes first. By LEAST: if all goes as fast as it may.
        """
        return 0.0 if self.idle(model) else self._start_s(model, self._queues[model].length, by=by)

    def eta_s(self, reservation: Reservation) -> float:
        """Estimated time until a job that waits is given a slot, from its place in the queue."""
        if reservation.started_at is not None or (reservation.position == 0 and self.free(reservation.model) > 0):
            return 0.0
        return self._start_s(reservation.model, reservation.position)

    def oldest_wait_s(self, model: str) -> float:
        """Age of the oldest job that waits for this model, seconds; 0 when none does."""
        return max((self._clock() - r.reserved_at for r in self.waiting(model)), default=0.0)

    def _places(self, model: str) -> int:
        """How many jobs of a model may be here: what runs at once, and the queue."""
        return self._at_once(model) + self._queue_limits.get(model, 0)

    def _start_s(self, model: str, position: int, mean_s: float | None = None, by: _By = EXPECTED) -> float:
        """Estimated time until a job of a model begins that has `position` jobs of it before it, of `mean_s` each.

        Other models' jobs on the same devices take turns with them: of a queue that has other devices too, a part. A
        load goes on beside them, and only the jobs of the model itself wait for it.
        """
        devices, part = self._devices(model), (position + 1) / (self._queues[model].length + 1)
        mean_s = self._mean_s(model, by) if mean_s is None else mean_s
        jobs, expected_s = float(position), position * mean_s
        for rival in {slot.model for slot in self.slots if slot.device in devices} - {model}:
            theirs, queue = self._devices(rival), self._queues[rival]
            share = part * len(devices & theirs) / max(1, len(theirs))
            theirs_s = queue.length * self._mean_s(rival, by)
            jobs, expected_s = jobs + queue.length * share, expected_s + theirs_s * share
        until_free_s = self._until_free_s(devices, by)
        shared_s = start_s(until_free_s, round(jobs), expected_s / jobs if jobs else 0.0)
        if self.warm(model):
            return shared_s
        return max(shared_s, self._load_s(model) + start_s([0.0] * len(until_free_s), position, mean_s))

    def _retry_after_s(self, model: str, expected_s: float) -> float:
        """When a refused job should find a place: each is told the moment of another job's end."""
        now, queue = self._clock(), self._queues[model]
        while queue.promised and queue.promised[0][0] <= now:
            queue.promised.popleft()
        held = [self._remaining_s(slot.holder, EXPECTED) for slot in self.running(model) if slot.holder]
        mean_s, next_s = self._crowds_mean_s(model), self._start_s(model, 0)
        first_s = min(held) if held else next_s + mean_s
        place_s = first_s + self._start_s(model, len(queue.promised), mean_s) - next_s
        after_s = max(MIN_RETRY_AFTER_S, RETRY_MARGIN * place_s)
        if len(queue.promised) < TURNS * self._places(model):
            queue.promised.append((now + after_s, expected_s))
        return after_s

    def _crowds_mean_s(self, model: str) -> float:
        """What a job of a model is expected to take: the mean of those that wait and of those that come again."""
        queue = self._queues[model]
        promised = [expected_s for _, expected_s in queue.promised if expected_s > 0]
        if not promised:
            return self._mean_s(model, EXPECTED)
        return (queue.expected_s + sum(promised)) / (queue.known + len(promised))

    def _mean_s(self, model: str, by: _By) -> float:
        """What a job of a model takes: the mean of those that wait, else of those that run, where it is known."""
        if self._queues[model].known:
            return self._queues[model].mean_s(by)
        held = [by(slot.holder) for slot in self.running(model) if slot.holder and slot.holder.expected_s > 0]
        return sum(held) / len(held) if held else 0.0

    def _devices(self, model: str) -> set[str]:
        """Where jobs of a model run: the devices of its runners that take jobs, else of those that may soon."""
        slots = [slot for slot in self._of[model] if slot.device and not slot.leaving]
        return {slot.device for slot in slots if slot.device and slot.ready} or {s.device for s in slots if s.device}

    def _until_free_s(self, devices: set[str], by: _By) -> list[float]:
        """When each of the devices is done with the job that it has; one of none is free."""
        held = {s.device: self._remaining_s(s.holder, by) for s in self.slots if s.holder and s.device in devices}
        return [held.get(device, 0.0) for device in devices] or [0.0]

    def _remaining_s(self, holder: Reservation, by: _By) -> float:
        """What a job needs still: of what is expected some in any case, of the least nothing when that has passed."""
        elapsed_s = self._clock() - (holder.started_at or self._clock())
        return max(by(holder) - elapsed_s, holder.expected_s * OVERDUE if by is EXPECTED else 0.0)

    def _open(self) -> list[Slot]:
        """The slots that could take a job now, each by itself."""
        busy = {slot.device for slot in self.slots if slot.holder}
        return [s for s in self.slots if s.ready and not s.leaving and not s.holder and s.device not in busy]

    def _dispatch(self) -> None:
        if self._closed is None and self._waiting and (opened := self._open()):
            self._grant(opened)
        self.on_change()

    def _grant(self, opened: list[Slot]) -> None:
        """Gives open slots to the jobs that may have them, in their order."""
        for reservation in [r for r in self._waiting if r.complete and not r.granted.done()]:
            slot = next((slot for slot in opened if slot.model == reservation.model), None)
            if slot is None:
                continue
            slot.holder = reservation
            reservation.started_at = self._clock()
            reservation.granted.set_result(slot)
            self._leave_queue(reservation)
            opened = [other for other in opened if other.device != slot.device]
            if not opened:
                return

    def _leave_queue(self, reservation: Reservation) -> bool:
        """Takes a job out of the queue, which moves those behind it; whether it was there."""
        if reservation not in self._waiting:
            return False
        index = self._waiting.index(reservation)
        del self._waiting[index]
        self._queues[reservation.model].remove(reservation)
        for behind in self._waiting[index:]:
            if behind.model == reservation.model:
                behind.position -= 1
        return True


def slot_name(model: str, replica: int) -> str:
    """A slot's name, and that of its folder: the same at each start, so that its runner is found again."""
    digest = hashlib.sha256(model.encode()).hexdigest()[:6]
    return f"{_folder_name(model)}-{digest}-{replica}"


def _folder_name(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model)[-24:].strip("-")

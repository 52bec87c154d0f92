"""Slots, the queue before them, and the compute lease: who works on which device next.

Everything here is memory and order, no input or output: a reservation is a place in a bounded queue, taken when a
ticket is accepted; it becomes a lease when its input is complete and a ready slot on a free device is there. Jobs get
slots in the order of their tickets, except that one whose input is still on its way holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from reelnet.errors import BusyError, TransientError


@dataclass(eq=False, slots=True)
class Slot:
    """One runner's place: a model on a device. `ready` is the supervisor's word, `holder` the job that has it."""

    name: str
    model: str
    device: str
    ready: bool = False
    holder: Reservation | None = None


@dataclass(eq=False, slots=True)
class Reservation:
    """A job's place. `expected_s` is the estimate of its own run, `position` counts those before it in the queue.

    `granted` is its lease: the slot, which it holds with its device until the place is given back.
    """

    model: str
    expected_s: float
    reserved_at: float
    complete: bool = False
    granted: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started_at: float | None = None
    position: int = -1


@dataclass(slots=True)
class _Queue:
    """How many jobs of a model wait, and the estimated seconds of their runs."""

    length: int = 0
    expected_s: float = 0.0

    def add(self, reservation: Reservation) -> None:
        self.length += 1
        self.expected_s += reservation.expected_s

    def remove(self, reservation: Reservation) -> None:
        self.length -= 1
        self.expected_s = self.expected_s - reservation.expected_s if self.length else 0.0


class SlotTable:
    """All slots of a node and the queue before them. A change costs a look at the slots, and one at the queue."""

    def __init__(self, slots: list[Slot], queue_limits: dict[str, int], clock: Callable[[], float]) -> None:
        self.slots = slots
        self._queue_limits = queue_limits
        self._clock = clock
        self._waiting: list[Reservation] = []
        self._queues = {model: _Queue() for model in queue_limits}
        self._of: dict[str, list[Slot]] = {model: [s for s in slots if s.model == model] for model in queue_limits}
        self._closed: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    def reserve(self, model: str, expected_s: float) -> Reservation:
        """A place in the queue of `model`. Raises BusyError, with a time to ask again, when there is none."""
        waiting = self._queues[model].length
        if waiting + len(self.running(model)) >= len(self._of[model]) + self._queue_limits[model]:
            raise BusyError("every place for this model is taken", retry_after_s=max(1.0, self.wait_s(model)))
        reservation = Reservation(model, expected_s, self._clock(), position=waiting)
        self._waiting.append(reservation)
        self._queues[model].add(reservation)
        self.on_change()
        return reservation

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
        if held or self._leave_queue(reservation):
            self._dispatch()

    def set_ready(self, slot: Slot, ready: bool) -> None:
        """The supervisor's word on whether a slot's runner can take a job."""
        slot.ready = ready
        self._dispatch()

    def close(self, reason: str) -> None:
        """Fails every job that still waits for a slot: the node stops."""
        self._closed = reason
        for reservation in self._waiting:
            if not reservation.granted.done():
                reservation.granted.set_exception(TransientError(reason, code="draining"))
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

    def free(self, model: str) -> int:
        """How many jobs of a model could start at this moment."""
        return len({slot.device for slot in self._open() if slot.model == model})

    def wait_s(self, model: str) -> float:
        """Estimated queue time of a new job: the work before it on this model's devices, shared among them."""
        if not self._queues[model].length and self.free(model) > 0:
            return 0.0
        devices = {slot.device for slot in self._of[model]}
        rivals = {slot.model for slot in self.slots if slot.device in devices}
        ahead = sum(self._queues[rival].expected_s for rival in rivals)
        ahead += sum(self._remaining_s(s.holder) for s in self.slots if s.device in devices and s.holder)
        return ahead / max(1, len(devices))

    def oldest_wait_s(self, model: str) -> float:
        """Age of the oldest job that waits for this model, seconds; 0 when none does."""
        return max((self._clock() - r.reserved_at for r in self.waiting(model)), default=0.0)

    def _remaining_s(self, holder: Reservation) -> float:
        elapsed = self._clock() - (holder.started_at or self._clock())
        return max(0.0, holder.expected_s - elapsed)

    def _open(self) -> list[Slot]:
        """The slots that could take a job now, each by itself."""
        busy = {slot.device for slot in self.slots if slot.holder}
        return [slot for slot in self.slots if slot.ready and not slot.holder and slot.device not in busy]

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


def place(models: list[tuple[str, int]], devices: tuple[str, ...]) -> list[Slot]:
    """A slot for each replica of each (model, replicas), spread over the devices in turn."""
    slots: list[Slot] = []
    for model, replicas in models:
        for replica in range(replicas):
            device = devices[len(slots) % len(devices)]
            slots.append(Slot(f"{len(slots)}-{_folder_name(model)}-{replica}", model, device))
    return slots


def _folder_name(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model)[-24:].strip("-")

"""Slots, the queue before them, and the compute lease: who works on which device next.

Everything here is memory and order, no input or output: a reservation is a place in a bounded queue, taken when a
ticket is accepted; it becomes a lease when its input is complete and a ready slot on a free device is there. Jobs get
slots in the order of their tickets, except that one whose input is still on its way holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    """A job's place. `expected_s` is the estimate of its own run, `on_move` hears its position in the queue."""

    model: str
    expected_s: float
    reserved_at: float
    on_move: Callable[[int], None] = field(default=lambda position: None)
    complete: bool = False
    granted: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started_at: float | None = None
    position: int = -1


class SlotTable:
    """All slots of a node and the queue before them."""

    def __init__(self, slots: list[Slot], queue_limits: dict[str, int], clock: Callable[[], float]) -> None:
        self.slots = slots
        self._queue_limits = queue_limits
        self._clock = clock
        self._waiting: list[Reservation] = []
        self._closed: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    def reserve(self, model: str, expected_s: float) -> Reservation:
        """A place in the queue of `model`. Raises BusyError, with a time to ask again, when there is none."""
        in_system = len(self.waiting(model)) + len(self.running(model))
        if in_system >= len(self.of(model)) + self._queue_limits[model]:
            wait_s = self.wait_s(model)
            raise BusyError("every place for this model is taken", retry_after_s=max(1.0, wait_s))
        reservation = Reservation(model, expected_s, self._clock())
        self._waiting.append(reservation)
        self._dispatch()
        return reservation

    def input_complete(self, reservation: Reservation) -> None:
        """The job may now be given a slot."""
        reservation.complete = True
        self._dispatch()

    @asynccontextmanager
    async def lease(self, reservation: Reservation) -> AsyncIterator[Slot]:
        """Waits for a slot and holds it, and its device, for the length of the block."""
        try:
            slot = await reservation.granted
            yield slot
        finally:
            self.withdraw(reservation)

    def withdraw(self, reservation: Reservation) -> None:
        """Gives the place back, wherever the job is: in the queue, granted, or running. Safe to repeat."""
        if reservation in self._waiting:
            self._waiting.remove(reservation)
        for slot in self.slots:
            if slot.holder is reservation:
                slot.holder = None
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
        return [slot for slot in self.slots if slot.model == model]

    def waiting(self, model: str) -> list[Reservation]:
        """The queue of a model, next job first."""
        return [r for r in self._waiting if r.model == model]

    def running(self, model: str) -> list[Slot]:
        """The slots of a model that a job holds."""
        return [slot for slot in self.of(model) if slot.holder]

    def free(self, model: str) -> int:
        """How many jobs of a model could start at this moment."""
        busy = self._busy_devices()
        return len({s.device for s in self.of(model) if s.ready and not s.holder and s.device not in busy})

    def wait_s(self, model: str) -> float:
        """Estimated queue time of a new job: the work before it on this model's devices, shared among them."""
        devices = {slot.device for slot in self.of(model)}
        if self.free(model) > 0 and not self.waiting(model):
            return 0.0
        rivals = {slot.model for slot in self.slots if slot.device in devices}
        ahead = sum(r.expected_s for r in self._waiting if r.model in rivals)
        ahead += sum(self._remaining_s(s.holder) for s in self.slots if s.device in devices and s.holder)
        return ahead / max(1, len(devices))

    def oldest_wait_s(self, model: str) -> float:
        """Age of the oldest job that waits for this model, seconds; 0 when none does."""
        return max((self._clock() - r.reserved_at for r in self.waiting(model)), default=0.0)

    def _remaining_s(self, holder: Reservation) -> float:
        elapsed = self._clock() - (holder.started_at or self._clock())
        return max(0.0, holder.expected_s - elapsed)

    def _busy_devices(self) -> set[str]:
        return {slot.device for slot in self.slots if slot.holder}

    def _dispatch(self) -> None:
        if self._closed is None:
            for reservation in [r for r in self._waiting if r.complete]:
                self._try_grant(reservation)
        self._tell_positions()
        self.on_change()

    def _try_grant(self, reservation: Reservation) -> None:
        busy = self._busy_devices()
        for slot in self.of(reservation.model):
            if slot.ready and not slot.holder and slot.device not in busy and not reservation.granted.done():
                slot.holder = reservation
                reservation.started_at = self._clock()
                reservation.granted.set_result(slot)
                self._waiting.remove(reservation)
                return

    def _tell_positions(self) -> None:
        counts: dict[str, int] = {}
        for reservation in self._waiting:
            position = counts[reservation.model] = counts.get(reservation.model, -1) + 1
            if position != reservation.position:
                reservation.position = position
                reservation.on_move(position)


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

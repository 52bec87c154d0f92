"""Where models go: which device a runner is put on, and which idle model makes room for it. Pure decisions.

A device's memory is the first lease: a runner holds what its model needs for as long as it is loaded, whether a job
runs or not. The second one, the device's time, belongs to `slots.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Room:
    """A device that may hold runners, with its memory in bytes; None: unknown, taken for enough."""

    device: str
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Resident:
    """A runner that holds memory of a device.

    `leaving`: it is being ended, its memory will be free. `warm`: never evicted. `stayed_s`: since it was put there;
    `idle_s`: since its last job, 0 while it has one; `oldest_wait_s`: age of the oldest job that waits for its model.
    """

    slot: str
    model: str
    device: str
    need_bytes: int
    warm: bool
    leaving: bool = False
    stayed_s: float = 0.0
    min_stay_s: float = 0.0
    idle_s: float = 0.0
    oldest_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Homeless:
    """A runner that wants a device. `oldest_wait_s` is the age of the job that it is wanted for, 0 without one."""

    slot: str
    model: str
    need_bytes: int
    warm: bool
    pin: str | None = None
    oldest_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: put runners on devices, end others for them; and why the rest has to wait, by slot."""

    put: tuple[tuple[str, str], ...] = ()
    evict: tuple[str, ...] = ()
    waiting: dict[str, str] = field(default_factory=dict)


def plan(rooms: Sequence[Room], residents: Sequence[Resident], homeless: Sequence[Homeless]) -> Plan:
    """One round of placement. Warm models come first, the largest of them first; then who has waited longest.

    A runner that is given an eviction keeps its claim: nobody else gets that memory in this round or a later one, as
    long as the order stays what it is.
    """
    floor = _Floor(rooms, residents)
    for wanted in sorted(homeless, key=_turn):
        floor.settle(wanted)
    return Plan(tuple(floor.put), tuple(floor.evicted), floor.waiting)


def _turn(wanted: Homeless) -> tuple[bool, float, int, str]:
    """Warm before on demand; who has waited longest; the largest, which is the hardest to place."""
    return not wanted.warm, -wanted.oldest_wait_s, -wanted.need_bytes, wanted.slot


class _Floor:
    """The devices during one round: what is held, what will be free, what is claimed."""

    def __init__(self, rooms: Sequence[Room], residents: Sequence[Resident]) -> None:
        self.put: list[tuple[str, str]] = []
        self.evicted: list[str] = []
        self.waiting: dict[str, str] = {}
        self._rooms = list(rooms)
        self._residents = list(residents)
        self._models = {room.device: [r.model for r in residents if r.device == room.device] for room in rooms}
        self._claimed = {room.device: 0 for room in rooms}

    def settle(self, wanted: Homeless) -> None:
        """Puts a runner on the best device, or makes room on one, or says what it waits for."""
        rooms = [room for room in self._rooms if wanted.pin in (None, room.device)]
        if not rooms:
            self.waiting[wanted.slot] = f"no device {wanted.pin or ''} is fit for work".replace("  ", " ")
            return
        able = [room for room in rooms if room.memory_bytes is None or wanted.need_bytes <= room.memory_bytes]
        if not able:
            self.waiting[wanted.slot] = f"needs {_gib(wanted.need_bytes)}, more than any device has"
            return
        if fitting := [room for room in able if self._left(room, wanted) >= 0]:
            self._place(wanted, min(fitting, key=lambda room: self._preference(room, wanted)))
        else:
            self._wait(wanted, able)

    def _place(self, wanted: Homeless, room: Room) -> None:
        self.put.append((wanted.slot, room.device))
        self._claim(wanted, room)

    def _claim(self, wanted: Homeless, room: Room) -> None:
        self._claimed[room.device] += wanted.need_bytes
        self._models[room.device].append(wanted.model)

    def _wait(self, wanted: Homeless, able: Sequence[Room]) -> None:
        """Memory that is being freed will do, or idle models on demand give theirs: on the device that costs least."""
        soon = [room for room in able if self._left(room, wanted, gone=self._leaving(room)) >= 0]
        if soon:
            room = min(soon, key=lambda room: self._preference(room, wanted))
            self.waiting[wanted.slot] = f"waits for memory of {room.device} that is being freed"
            self._claim(wanted, room)
            return
        offers = [(room, victims) for room in able if (victims := self._victims(room, wanted)) is not None]
        if not offers:
            self.waiting[wanted.slot] = f"waits for {_gib(wanted.need_bytes)} of a device's memory"
            return
        room, victims = min(offers, key=lambda offer: (len(offer[1]), -min(v.idle_s for v in offer[1])))
        self.evicted += [victim.slot for victim in victims]
        self.waiting[wanted.slot] = f"waits for {', '.join(v.model for v in victims)} to leave {room.device}"
        self._claim(wanted, room)

    def _victims(self, room: Room, wanted: Homeless) -> list[Resident] | None:
        """The models that would have to leave a device, longest idle first; None when even all would not do."""
        freed, victims = self._leaving(room), []
        for resident in sorted(self._evictable(room, wanted), key=lambda r: (r.idle_s == 0, -r.idle_s)):
            freed += resident.need_bytes
            victims.append(resident)
            if self._left(room, wanted, freed) >= 0:
                break
        else:
            return None
        for victim in list(victims):  # who was taken before a larger one may not be needed after it
            if self._left(room, wanted, freed - victim.need_bytes) >= 0:
                freed -= victim.need_bytes
                victims.remove(victim)
        return victims

    def _evictable(self, room: Room, wanted: Homeless) -> list[Resident]:
        """Who may be ended: on demand, after its minimum stay, and nobody waits for it longer than for `wanted`.

        A model that nothing asks for evicts nobody.
        """
        if not wanted.warm and wanted.oldest_wait_s <= 0:
            return []
        return [
            r
            for r in self._residents
            if r.device == room.device
            and not (r.warm or r.leaving or r.slot in self.evicted)
            and r.stayed_s >= r.min_stay_s
            and (wanted.warm or r.oldest_wait_s < wanted.oldest_wait_s)
        ]

    def _leaving(self, room: Room) -> int:
        return sum(
            r.need_bytes for r in self._residents if r.device == room.device and (r.leaving or r.slot in self.evicted)
        )

    def _left(self, room: Room, wanted: Homeless, gone: int = 0) -> int:
        """Bytes that would be left on a device; 0 where its memory is unknown."""
        if room.memory_bytes is None:
            return 0
        held = sum(r.need_bytes for r in self._residents if r.device == room.device)
        return room.memory_bytes - held - self._claimed[room.device] + gone - wanted.need_bytes

    def _preference(self, room: Room, wanted: Homeless) -> tuple[int, int, int]:
        """Apart from its own replicas, then from other models (they share the device's time), then best fit."""
        models = self._models[room.device]
        return models.count(wanted.model), len(models), self._left(room, wanted)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"

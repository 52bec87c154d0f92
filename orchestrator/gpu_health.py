"""Which GPUs may work: from readings and XID errors, which faults are new and which cards are back. Pure, no driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.gpus import FaultKind, GpuFault, GpuReading, XidEvent
from orchestrator.xids import NOTE, RESET, gravest, xid

WELL_POLLS = 2
"""So many readings in a row have to say that nothing is asked for, before a fault of a card that answered is over."""
RESETS = frozenset({"reset", "reboot", "drain_and_reset", "bus_reset", "system_reboot"})
LOST = GpuFault(
    FaultKind.LOST, 0, "the driver no longer reaches the GPU: see `nvidia-smi` and `dmesg | grep NVRM`, reset it or "
    "restart the host", fatal=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A GPU has a new fault; without one, a GPU that had a fatal fault is well again."""

    uuid: str
    fault: GpuFault | None


class GpuHealth:
    """The state of these GPUs. `problems`: the fatal fault of each that may not work; `xids`: how many by (uuid, code).

    A fatal fault is told once, and holds until the driver asks for nothing in two readings, or until the card was gone
    (as in a reset) and answers again. Meanwhile nothing else is told of it: nothing runs there.
    """

    def __init__(self, uuids: Iterable[str]) -> None:
        self.uuids = tuple(uuids)
        self.problems: dict[str, GpuFault] = {}
        self.xids: Counter[tuple[str, int]] = Counter()
        self._gone: set[str] = set()
        self._well: Counter[str] = Counter()
        self._ecc: dict[str, int] = {}

    def reported(self, events: Iterable[XidEvent]) -> list[Change]:
        """XID errors that came together, as one fault of each GPU: the gravest."""
        codes: dict[str, list[int]] = {}
        for event in events:
            for uuid in event.uuids:
                if uuid in self.uuids:
                    self.xids[uuid, event.code] += 1
                    codes.setdefault(uuid, []).append(event.code)
        return [change for uuid, those in codes.items() for change in self._judged(uuid, gravest(those))]

    def read(self, readings: Mapping[str, GpuReading]) -> list[Change]:
        """The newest readings; a GPU without one is gone."""
        changes: list[Change] = []
        for uuid in self.uuids:
            reading = readings.get(uuid)
            changes += self._missed(uuid) if reading is None else self._seen(reading)
        return changes

    def _judged(self, uuid: str, code: int) -> list[Change]:
        text, action = xid(code)
        if action is NOTE:
            return []
        advice = "reset the GPU (nvidia-smi --gpu-reset) or restart the host" if action is RESET else ""
        said = f"XID {code}: {text}{'; ' if advice else ''}{advice}"
        return self._faulty(uuid, GpuFault(FaultKind.XID, code, said, fatal=action is RESET))

    def _missed(self, uuid: str) -> list[Change]:
        self._gone.add(uuid)
        self._ecc.pop(uuid, None)
        return self._faulty(uuid, LOST)

    def _seen(self, reading: GpuReading) -> list[Change]:
        uuid, returned = reading.uuid, reading.uuid in self._gone
        self._gone.discard(uuid)
        if reading.recovery in RESETS:
            self._well[uuid] = 0
            said = f"the driver asks for a recovery of the GPU: {str(reading.recovery).replace('_', ' ')}"
            return self._faulty(uuid, GpuFault(FaultKind.XID, 154, said, fatal=True))
        if uuid in self.problems:
            self._well[uuid] += reading.recovery == "none"
            return self._recovered(uuid) if returned or self._well[uuid] >= WELL_POLLS else []
        return self._counted(reading)

    def _recovered(self, uuid: str) -> list[Change]:
        del self.problems[uuid]
        self._ecc.pop(uuid, None)
        return [Change(uuid, None)]

    def _counted(self, reading: GpuReading) -> list[Change]:
        """Memory errors that are new since the reading before; those from before the first one are no news."""
        if reading.ecc_errors is None:
            return []
        before, self._ecc[reading.uuid] = self._ecc.get(reading.uuid), reading.ecc_errors
        new = 0 if before is None else reading.ecc_errors - before
        if new <= 0:
            return []
        said = f"{new} new memory error{'s' * (new > 1)} that could not be corrected: what was computed may be wrong"
        return self._faulty(reading.uuid, GpuFault(FaultKind.ECC, new, said, fatal=False))

    def _faulty(self, uuid: str, fault: GpuFault) -> list[Change]:
        if uuid in self.problems:
            return []
        if fault.fatal:
            self.problems[uuid] = fault
            self._well[uuid] = 0
        return [Change(uuid, fault)]

"""What a job needs of a device's memory beside what is held already, and whether it is there. Pure arithmetic.

A model's nets are traced once, at a few sizes (`runner.models.tracing`). Every tensor of a net is a constant or grows
with the pixels, the frames or their product, and the need is the largest sum of those that live at one moment. A
largest of such sums is convex along each axis, so that a straight line between two traced sizes is never below it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from reelnet.errors import OutOfMemoryError

GIB = 2**30
Offload = Literal["none", "model", "sequential"]
"""Which weights are on the device: all, those of the net that works, or those of one layer."""
LEAST_RATIO, MOST_RATIO = 0.8, 1.6
"""Bounds of a correction. A ratio outside is a mistake of the estimate, or somebody else's memory."""
LEARNS_FROM_BYTES = 256 * 2**20
"""Smaller needs teach nothing: what a library keeps for its kernels is not in proportion to a job."""
FORGETS = 1 / 8
"""How far a ratio goes towards a smaller one at a time."""


@dataclass(frozen=True, slots=True)
class Table:
    """Bytes at the points of an axis, in rising order; a row may be a table over further axes.

    An axis without a second point is a constant. Below the first point its value holds, beyond the last one the slope
    before it goes on.
    """

    points: tuple[int, ...]
    rows: tuple[int | Table, ...]

    @classmethod
    def constant(cls, size: int) -> Table:
        """The same for all sizes."""
        return cls((0,), (size,))

    def at(self, *sizes: int) -> int:
        """Bytes at these sizes, one for each axis; a constant takes none."""
        size, rest = (sizes[0], sizes[1:]) if sizes else (0, ())
        right = min(max(bisect.bisect_left(self.points, size), 1), len(self.points) - 1)
        if right == 0 or size <= self.points[0]:
            return self._row(0, rest)
        low, high = self._row(right - 1, rest), self._row(right, rest)
        share = (size - self.points[right - 1]) / (self.points[right] - self.points[right - 1])
        return round(low + (high - low) * share)

    def _row(self, index: int, rest: tuple[int, ...]) -> int:
        row = self.rows[index]
        return row.at(*rest) if isinstance(row, Table) else row


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a net's weights, and of the one layer that has most of them."""

    total_bytes: int
    layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a job in which one net works.

    doing: as an infinitive, for people. part: of the profile. sizes: one for each axis of the part's table. held_bytes:
    what lies on the device beside it. smaller: what of the job would make it need less. flexible: it may take more, and
    makes do with this where memory is short.
    """

    doing: str
    part: str
    sizes: tuple[int, ...] = ()
    held_bytes: int = 0
    smaller: str = "fewer pixels"
    flexible: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """The most that a job takes beside what the model holds between jobs, and the phase that takes it."""

    size_bytes: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class TracedPart:
    """What one call of a net takes beside its weights."""

    net: str
    table: Table


@dataclass(frozen=True, slots=True)
class Profile:
    """A model as far as its memory goes: its nets' weights by name, and its traced parts by name."""

    weights: Mapping[str, Weights]
    parts: Mapping[str, TracedPart]
    offload: Offload = "none"

    @property
    def held_bytes(self) -> int:
        """What the weights take of the device between jobs."""
        return sum(each.total_bytes for each in self.weights.values()) if self.offload == "none" else 0

    def need(self, phases: Iterable[Phase]) -> Need:
        """What a job of these phases needs at most."""
        return max((Need(self.phase_bytes(phase), phase) for phase in phases), key=lambda need: need.size_bytes)

    def phase_bytes(self, phase: Phase) -> int:
        """What a phase takes beside `held_bytes`: tensors, and weights that are moved in for it."""
        part = self.parts[phase.part]
        weights = self.weights[part.net]
        moved = {"none": 0, "model": weights.total_bytes, "sequential": weights.layer_bytes}[self.offload]
        return part.table.at(*phase.sizes) + phase.held_bytes + moved


@dataclass(frozen=True, slots=True)
class Room:
    """Memory at one moment. free_bytes: what anybody may take of the device; None: nobody knows.

    limit_bytes: what the operator gives to the model and its jobs, of which `held_bytes` are taken.
    """

    free_bytes: int | None
    held_bytes: int = 0
    limit_bytes: int | None = None
    reserve_bytes: int = 0

    @property
    def left_bytes(self) -> int | None:
        """What a job may take; None: nobody knows, so that nothing is refused for it."""
        given = None if self.limit_bytes is None else self.limit_bytes - self.held_bytes
        known = [size for size in (self.free_bytes, given) if size is not None]
        return max(0, min(known) - self.reserve_bytes) if known else None


def check(need: Need, room: Room) -> None:
    """Raises OutOfMemoryError, code `estimate`, when a job needs more than there is."""
    left = room.left_bytes
    if left is None or need.size_bytes <= left:
        return
    phase = need.phase
    raise OutOfMemoryError(
        f"the job needs about {gib(need.size_bytes)} beside the model (to {phase.doing}), and {gib(left)} may be taken "
        f"here; ask for {phase.smaller}",
        code=OutOfMemoryError.foreseen_code,
    )


@dataclass(slots=True)
class Corrections:
    """Measured by estimated bytes, for each pipeline: what the estimates of its later jobs are multiplied by.

    It rises at once, and falls slowly. 1 until a job has taught otherwise.
    """

    _ratios: dict[str, float] = field(default_factory=dict)

    def ratio(self, pipeline: str) -> float:
        """The pipeline's correction."""
        return self._ratios.get(pipeline, 1.0)

    def applied(self, pipeline: str, need: Need) -> Need:
        """The need as it is thought to be measured."""
        return Need(round(need.size_bytes * self.ratio(pipeline)), need.phase)

    def measured(self, pipeline: str, estimated_bytes: int, measured_bytes: int) -> None:
        """A job has ended that was estimated without a correction."""
        if estimated_bytes >= LEARNS_FROM_BYTES:
            self._move(pipeline, measured_bytes / estimated_bytes)

    def refused(self, pipeline: str) -> None:
        """A job was refused for the correction alone. Were it a mistake, no job could ever say so: it fades."""
        self._move(pipeline, 1.0)

    def _move(self, pipeline: str, ratio: float) -> None:
        old, new = self.ratio(pipeline), min(max(ratio, LEAST_RATIO), MOST_RATIO)
        known = pipeline in self._ratios
        self._ratios[pipeline] = new if new > old or not known else old + (new - old) * FORGETS


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / GIB:.3f} GiB"

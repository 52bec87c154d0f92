"""When a job is hung: silent for far longer than jobs of its kind ever are. Pure: moments and limits are arguments.

A job is not hung because it is long. Each stage ticks (a step, a decoder's call, an encoded frame), and what a stage's
ticks take here is learned: the limit is a multiple of their median, and never less than a floor. What is loaded or
compiled for the first job of a shape on a runner may take as long as loading the model.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from statistics import median
from weakref import WeakKeyDictionary

KEPT_TICKS = 31
"""A median is over so many ticks, the newest."""
KEPT_MEDIANS = 512
KEPT_SHAPES = 256
"""Medians of a node, and shapes of a runner, that are remembered; the ones not used for the longest time go first."""
STAGE_CHARS = 32


@dataclass(frozen=True, slots=True)
class StallLimits:
    """floor_s: a silence that is never a hang. factor: how many medians are one. load_s: what a load may take."""

    floor_s: float
    factor: float
    load_s: float


@dataclass(frozen=True, slots=True)
class JobKind:
    """What a job's ticks depend on.

    shape: what a model is compiled for anew. pixels: of all outputs; jobs of like size share their medians.
    """

    device: str
    model: str
    pipeline: str
    shape: Hashable
    pixels: int
    outputs: int = 1

    bucket: Hashable = field(init=False)
    """What a median is of, beside its stage."""

    def __post_init__(self) -> None:
        size = max(1, self.pixels // max(1, self.outputs)).bit_length()
        object.__setattr__(self, "bucket", (self.device, self.model, self.pipeline, size))


class Stalls:
    """What ticks took on this node, and which shapes each life of a runner has done."""

    def __init__(self) -> None:
        self._ticks: OrderedDict[tuple[Hashable, str], deque[float]] = OrderedDict()
        self._warm: WeakKeyDictionary[object, OrderedDict[Hashable, None]] = WeakKeyDictionary()

    def watch(self, life: object, kind: JobKind, now: float) -> JobTicks:
        """A job begins on a runner. `life` is an object that lives as long as the runner's process does."""
        return JobTicks(self, life, kind, now)

    def is_warm(self, life: object, kind: JobKind) -> bool:
        """Whether this runner has done a whole job of this shape."""
        return (kind.pipeline, kind.shape) in self._warm.get(life, ())

    def warmed(self, life: object, kind: JobKind) -> None:
        """It has."""
        shapes = self._warm.setdefault(life, OrderedDict())
        shapes[kind.pipeline, kind.shape] = None
        shapes.move_to_end((kind.pipeline, kind.shape))
        if len(shapes) > KEPT_SHAPES:
            shapes.popitem(last=False)

    def add(self, kind: JobKind, stage: str, took_s: float) -> None:
        """A stage's tick took that long."""
        key = kind.bucket, stage
        if (ticks := self._ticks.get(key)) is None:
            ticks = self._ticks[key] = deque(maxlen=KEPT_TICKS)
        ticks.append(took_s)
        self._ticks.move_to_end(key)
        if len(self._ticks) > KEPT_MEDIANS:
            self._ticks.popitem(last=False)

    def median_s(self, kind: JobKind, stage: str) -> float | None:
        """The median of a stage's ticks, seconds; None when none is known."""
        ticks = self._ticks.get((kind.bucket, stage))
        return median(ticks) if ticks else None

    def stages(self, kind: JobKind) -> list[str]:
        """The stages of which something is known."""
        return [stage for bucket, stage in self._ticks if bucket == kind.bucket]


class JobTicks:
    """One job's ticks."""

    def __init__(self, stalls: Stalls, life: object, kind: JobKind, now: float) -> None:
        self._stalls = stalls
        self._life = life
        self._kind = kind
        self._cold = not stalls.is_warm(life, kind)
        self._last = now
        self._fresh = True
        self._at: dict[str, tuple[int, int]] = {}
        self._first: dict[str, float] = {}

    def tick(self, stage: str, step: int, total: int, now: float) -> None:
        """`step` of `total` in a stage is done; totals are of all outputs of the job."""
        stage = stage[:STAGE_CHARS]
        before = self._at.get(stage, (step - 1, total))[0]
        took_s = max(0.0, now - self._last) / max(1, step - before)
        if self._fresh and self._cold:
            self._first.setdefault(stage, took_s)  # it may hold a compilation: no measure of a tick
        else:
            self._stalls.add(self._kind, stage, took_s)
        self._at[stage] = (step, total)
        self._last = now
        self._fresh = step * self._kind.outputs % max(1, total) == 0

    def limit_s(self, limits: StallLimits) -> float:
        """The silence after which the job is hung.

        Within an output's stage the job waits for a tick of a stage that it has begun and not ended: of the slowest of
        them, as an encoder's frames come between a model's steps. At the job's start and between two stages it may be
        any stage's tick, and on a runner to which the shape is new, a first one.
        """
        begun = {stage for stage, (step, total) in self._at.items() if step < total}
        awaited = {*self._stalls.stages(self._kind), *self._at} if self._fresh else begun
        if self._fresh and (self._cold or not awaited):
            return max(limits.floor_s, limits.load_s)
        return max(limits.floor_s, self._slowest_s(awaited, limits))

    def done(self) -> None:
        """The job ended well: nothing of its shape has to be loaded or compiled again."""
        for stage, first_s in self._first.items():
            if self._stalls.median_s(self._kind, stage) is None:
                self._stalls.add(self._kind, stage, first_s)  # all there is of a stage that ticks once a job
        self._stalls.warmed(self._life, self._kind)

    def _slowest_s(self, stages: Iterable[str], limits: StallLimits) -> float:
        known = [(stage, self._stalls.median_s(self._kind, stage)) for stage in stages]
        allowed = [limits.factor * median_s for _, median_s in known if median_s is not None]
        guessed = [self._first.get(stage, limits.load_s) for stage, median_s in known if median_s is None]
        return max([*allowed, *(min(limits.load_s, limits.factor * first_s) for first_s in guessed)], default=0.0)

"""Lanes without a network: nodes that take a drawn time on a clock that only they move."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from benchmark.lane import Delivered, Order
from reelnet.errors import NodeError


@dataclass
class SimulatedClock:
    """Seconds, moved by the lanes. `drift` slows everything by that share a second, as a machine that gets hot."""

    now: float = 0.0
    drift: float = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        """The clock after some work; the seconds that it took."""
        taken = seconds * (1 + self.drift * self.now)
        self.now += taken
        return taken


@dataclass
class SimulatedLane:
    """A node whose jobs take `seconds`, lognormally with `sigma`; jobs with the seeds in `fails` fail."""

    name: str
    clock: SimulatedClock
    seconds: float
    sigma: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    fails: frozenset[int] = frozenset()
    asked: list[int] = field(default_factory=list)
    behind: str = ""
    """The node that did it, where the lane is a broadcaster."""

    async def run(self, order: Order) -> Delivered:
        self.asked.append(order.seed)
        taken = self.clock.spend(self.seconds * math.exp(self.sigma * self.rng.gauss(0, 1)))
        if order.seed in self.fails:
            raise NodeError("it failed", code="fell")
        return Delivered(self.behind or self.name, taken, (), 1000, {"node_run": taken})

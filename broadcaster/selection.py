"""Which node gets a job: pure functions over a snapshot, with chance as an argument.

Expected completion = queue wait + work, divided by reputation; the lowest cost of a small sample is taken. Comparing
a few at random instead of all keeps 50 broadcasters that look at the same two-second-old picture from all choosing
the same node, and makes a pick cost the same for ten nodes as for ten thousand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reelnet.jobs import Capability, ModelLoad
from reelnet.pipelines import Work
from reelnet.pricing import NANO, price

SAMPLE_ROUNDS = 4
COLD_LOAD_S = 30.0
"""The least that a job is taken to wait where the model is not warm; the node's own estimate counts its load."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job needs of a node."""

    work: Work
    schema_family: str
    schema_version: int
    ceiling_nano: int | None = None
    digests: tuple[str, ...] = ()
    min_memory_bytes: int = 0
    features: frozenset[str] = frozenset()
    loras: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """LoRAs that the job uses, each with the digests that its id may mean, none for any."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node's offer for a (pipeline, model) as this broadcaster sees it at the moment of a pick."""

    node_id: str
    capability: Capability
    load: ModelLoad
    own_in_flight: int
    run_s: float
    reputation: float
    busy: bool = False
    """Whether it has refused a job as busy, and has reported no load since."""

    @property
    def full(self) -> bool:
        """Whether the node's last word says that it has no place."""
        c = self.capability
        return self.busy or self.load.in_flight + self.load.queued >= c.slots + c.queue_limit


class NodeIndex:
    """The nodes of one (pipeline, model): constant-time add, remove and random choice."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, node_id: str) -> None:
        """Adds a node that is not there yet."""
        if node_id not in self._places:
            self._places[node_id] = len(self._items)
            self._items.append(node_id)

    def remove(self, node_id: str) -> None:
        """Removes a node, if it is there; the last one takes its place."""
        place = self._places.pop(node_id, None)
        if place is None:
            return
        last = self._items.pop()
        if last != node_id:
            self._items[place] = last
            self._places[last] = place

    def shuffled(self, excluded: frozenset[str], rng: random.Random) -> list[str]:
        """Every node outside `excluded`, in a random order: for the rare pick whose sample does not suit."""
        left = [node_id for node_id in self._items if node_id not in excluded]
        rng.shuffle(left)
        return left

    def sample(self, size: int, excluded: frozenset[str], rng: random.Random) -> list[str]:
        """At most `size` different nodes outside `excluded`; all of them when there are no more than that."""
        if len(self._items) <= size + len(excluded):
            left = [node_id for node_id in self._items if node_id not in excluded]
            return left if len(left) <= 1 else rng.sample(left, min(size, len(left)))
        found: dict[str, None] = {}
        for _ in range(size * SAMPLE_ROUNDS):
            node_id = self._items[rng.randrange(len(self._items))]
            if node_id not in excluded:
                found[node_id] = None
            if len(found) == size:
                break
        if not found:  # most are excluded: the few that are left have to be looked for
            left = [node_id for node_id in self._items if node_id not in excluded]
            return rng.sample(left, min(size, len(left)))
        return list(found)


def suits(candidate: Candidate, wanted: Wanted) -> bool:
    """Whether the node may get the job at all: schema, digest, features, LoRAs, memory, price."""
    c = candidate.capability
    family, _, version = c.schema.rpartition("@")
    if (
        family != wanted.schema_family
        or not (version.isascii() and version.isdigit())
        or int(version) < wanted.schema_version
    ):
        return False
    if wanted.digests and c.model_digest not in wanted.digests:
        return False
    if not (wanted.features.issubset(c.features) and _has_loras(c, wanted)):
        return False
    if c.memory_bytes < wanted.min_memory_bytes:
        return False
    return wanted.ceiling_nano is None or price(wanted.work, c.rates) <= wanted.ceiling_nano


def _has_loras(capability: Capability, wanted: Wanted) -> bool:
    offered = capability.loras
    return all(name in offered and (not digests or offered[name] in digests) for name, digests in wanted.loras)


def cost_s(candidate: Candidate, wanted: Wanted, seconds_per_dollar: float) -> float:
    """Expected seconds until the job would be done there, worse by doubt in the node and by its price."""
    mine_ahead_s = candidate.own_in_flight * candidate.run_s / candidate.capability.slots
    wait_s = max(candidate.load.wait_s, mine_ahead_s, 0.0 if candidate.load.warm else COLD_LOAD_S)
    expected_s = (wait_s + candidate.run_s) / candidate.reputation
    return expected_s + seconds_per_dollar * price(wanted.work, candidate.capability.rates) / NANO


def choose(
    candidates: Sequence[Candidate],
    wanted: Wanted,
    rng: random.Random,
    *,
    exploration: float = 0.0,
    seconds_per_dollar: float = 0.0,
) -> Candidate | None:
    """The candidate of the lowest cost, now and then a chance one; a full one only when all are; None if none suits."""
    suitable = [c for c in candidates if suits(c, wanted)]
    open_ones = [c for c in suitable if not c.full] or suitable
    if not open_ones:
        return None
    if rng.random() < exploration:
        return rng.choice(open_ones)
    doubt: Callable[[Candidate], tuple[float, float, int, float]] = lambda c: (  # noqa: E731
        cost_s(c, wanted, seconds_per_dollar),
        1 - c.reputation,
        c.own_in_flight + c.load.in_flight,
        rng.random(),
    )
    return min(open_ones, key=doubt)

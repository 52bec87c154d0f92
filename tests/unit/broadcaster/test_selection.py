"""Which node gets a job."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broadcaster.selection import COLD_LOAD_S, Candidate, NodeIndex, Wanted, choose, cost_s, suits
from reelnet.jobs import Capability, ModelLoad
from reelnet.pipelines import Work
from reelnet.pricing import NANO, Rates, price

WORK = Work(10_000_000, 1_000_000)
WANTED = Wanted(WORK, "text-to-image/sd", 1)


def candidate(name: str = "n", **changes: Any) -> Candidate:
    """A free, warm, trusted node that takes ten seconds for the job and nothing for its trouble."""
    c = {"schema": "text-to-image/sd@1", "model_digest": "d" * 64, "rates": Rates(), "slots": 1, "queue_limit": 8}
    c |= {"features": (), "loras": {}}
    load = {"free_slots": 1, "in_flight": 0, "queued": 0, "warm": True, "wait_s": 0.0}
    node = {"own_in_flight": 0, "run_s": 10.0, "reputation": 1.0}
    for part in (c, load, node):
        part |= {key: value for key, value in changes.items() if key in part}
    assert changes.keys() <= c.keys() | load.keys() | node.keys()
    return Candidate(
        node_id=name,
        capability=Capability(pipeline="text-to-image", model="m", **c),  # type: ignore[arg-type]
        load=ModelLoad("text-to-image", "m", **load),  # type: ignore[arg-type]
        **node,  # type: ignore[arg-type]
    )


class Index(RuleBasedStateMachine):
    """The index beside a plain set, which it has to equal."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.model = NodeIndex(), set[str]()
        self.rng = random.Random(7)

    names = st.integers(0, 12).map(str)

    @rule(name=names)
    def add(self, name: str) -> None:
        self.index.add(name)
        self.model.add(name)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.index.remove(name)
        self.model.discard(name)

    @rule(size=st.integers(1, 6), excluded=st.frozensets(names, max_size=4))
    def sample(self, size: int, excluded: frozenset[str]) -> None:
        found = self.index.sample(size, excluded, self.rng)
        assert len(found) == len(set(found)) <= size
        assert set(found) <= self.model - excluded

    @invariant()
    def same(self) -> None:
        assert len(self.index) == len(self.model)
        assert set(self.index.sample(100, frozenset(), self.rng)) == self.model


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_sample_is_fair() -> None:
    """Each node comes up alike, also after others have come and gone."""
    index, rng = NodeIndex(), random.Random(1)
    for i in range(60):
        index.add(str(i))
    for i in range(0, 60, 2):
        index.remove(str(i))
    seen = Counter(name for _ in range(3000) for name in index.sample(4, frozenset(), rng))
    assert set(seen) == {str(i) for i in range(1, 60, 2)}
    assert 320 < min(seen.values()) <= max(seen.values()) < 480  # 400 expected


@pytest.mark.parametrize(("nodes", "excluded"), [(100, 80), (100, 95), (1000, 990)])
def test_a_node_that_is_left_is_found(nodes: int, excluded: int) -> None:
    """A job that has been to most of a full pool still finds the rest: nobody is told that no node is there."""
    index, rng = NodeIndex(), random.Random(1)
    for i in range(nodes):
        index.add(str(i))
    gone = frozenset(str(i) for i in range(excluded))
    assert all(index.sample(4, gone, rng) for _ in range(500))


@pytest.mark.parametrize(
    ("schema", "version", "fits"),
    [("text-to-image/sd@1", 1, True), ("text-to-image/sd@2", 1, True), ("text-to-image/sd@10", 9, True),
     ("text-to-image/sd@1", 2, False), ("text-to-image/flux@1", 1, False), ("text-to-image/sd", 1, False),
     ("text-to-image/sd@", 1, False), ("text-to-image/sd@-1", 1, False), ("text-to-image/sd@1@1", 1, False),
     ("@1", 1, False), ("", 1, False)],
)  # fmt: skip
def test_a_node_speaks_the_jobs_schema(schema: str, version: int, fits: bool) -> None:
    """The same family, at least as new as the parameters that the job uses."""
    wanted = Wanted(WORK, "text-to-image/sd", version)
    assert suits(candidate(schema=schema), wanted) is fits


@pytest.mark.parametrize("version", ["²", "①", "1_0", " 1", "1.5", "x"])
def test_a_strange_version_does_not_suit(version: str) -> None:
    """A node writes its schema itself: no text of it may fail the jobs of others."""
    assert not suits(candidate(schema=f"text-to-image/sd@{version}"), WANTED)


def test_a_node_has_an_allowed_digest() -> None:
    """What the catalogue says of a model id; without a word any."""
    assert suits(candidate(), Wanted(WORK, "text-to-image/sd", 1, digests=("e" * 64, "d" * 64)))
    assert not suits(candidate(), Wanted(WORK, "text-to-image/sd", 1, digests=("e" * 64,)))


def test_a_node_is_within_the_ceiling() -> None:
    """To the nano-dollar."""
    rates = Rates(mpix_step=7, job=3)
    ceiling = price(WORK, rates)
    assert suits(candidate(rates=rates), Wanted(WORK, "text-to-image/sd", 1, ceiling_nano=ceiling))
    assert not suits(candidate(rates=rates), Wanted(WORK, "text-to-image/sd", 1, ceiling_nano=ceiling - 1))
    assert suits(candidate(rates=Rates(job=10**15)), WANTED)


def test_the_cost_of_a_node() -> None:
    """Queue, load, run, doubt and price, as the module says."""
    assert cost_s(candidate(), WANTED, 0) == 10
    assert cost_s(candidate(wait_s=5.0), WANTED, 0) == 15
    assert cost_s(candidate(own_in_flight=3), WANTED, 0) == 40
    assert cost_s(candidate(own_in_flight=3, slots=2), WANTED, 0) == 25
    assert cost_s(candidate(own_in_flight=3, wait_s=5.0), WANTED, 0) == 40, "not counted twice"
    assert cost_s(candidate(warm=False), WANTED, 0) == 10 + COLD_LOAD_S
    assert cost_s(candidate(warm=False, wait_s=5.0), WANTED, 0) == 10 + COLD_LOAD_S, "the node's estimate has the load"
    assert cost_s(candidate(warm=False, wait_s=COLD_LOAD_S + 5), WANTED, 0) == 10 + COLD_LOAD_S + 5
    assert cost_s(candidate(reputation=0.5), WANTED, 0) == 20
    assert cost_s(candidate(rates=Rates(job=2 * NANO)), WANTED, 3) == 16


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0.05, 1)), min_size=1, max_size=5), st.integers()
)
def test_the_lowest_cost_is_chosen(nodes: list[tuple[float, float, float]], seed: int) -> None:
    """Without exploration no other candidate would have been done earlier."""
    all_of = [candidate(str(i), wait_s=w, run_s=r, reputation=q) for i, (w, r, q) in enumerate(nodes)]
    chosen = choose(all_of, WANTED, random.Random(seed))
    assert chosen
    assert cost_s(chosen, WANTED, 0) == min(cost_s(c, WANTED, 0) for c in all_of)


def test_nobody_is_chosen_from_nobody() -> None:
    """None when there is none, or none that suits, however the dice fall."""
    assert choose([], WANTED, random.Random(1), exploration=1) is None
    assert choose([candidate(schema="upscale/x4@1")], WANTED, random.Random(1), exploration=1) is None


def test_a_full_node_is_the_last_resort() -> None:
    """Only when all are full; the report may be old."""
    full = candidate("full", run_s=0.1, in_flight=1, queued=8)
    assert full.full
    assert choose([full, candidate("slow", run_s=500.0)], WANTED, random.Random(1)).node_id == "slow"  # type: ignore[union-attr]
    assert choose([full], WANTED, random.Random(1)) is full
    assert replace(candidate("busy"), busy=True).full, "whatever its report says"
    assert not candidate(in_flight=1, queued=7).full


def test_exploration_is_its_share_of_the_picks() -> None:
    """A slow node gets its chance now and then, so that nodes get known; one that does not suit never does."""
    nodes = [candidate("fast", run_s=1.0), candidate("slow", run_s=50.0), candidate("other", schema="x@1")]
    rng = random.Random(3)
    picks = Counter(c.node_id for _ in range(4000) if (c := choose(nodes, WANTED, rng, exploration=0.1)))
    assert 150 < picks["slow"] < 250  # half of a tenth
    assert picks["other"] == 0


def test_new_nodes_share_the_first_jobs() -> None:
    """Nodes of which nothing is known cost the same: the less used comes first, then chance decides."""
    rng = random.Random(5)
    idle = [candidate(name, run_s=0.0) for name in "abcd"]
    picks = Counter(c.node_id for _ in range(2000) if (c := choose(idle, WANTED, rng)))
    assert all(400 < picks[name] < 600 for name in "abcd")
    used = [
        candidate("a", run_s=0.0, own_in_flight=1),
        candidate("b", run_s=0.0, in_flight=1),
        candidate("c", run_s=0.0),
    ]
    chosen = [choose(used, WANTED, rng) for _ in range(50)]
    assert {c.node_id for c in chosen if c} == {"c"}


def test_faster_nodes_get_more_jobs() -> None:
    """Speeds 1, 1, 2, 4 under steady load: each node's share of the jobs is near its share of the speed."""
    speeds = {"a": 1, "b": 1, "c": 2, "d": 4}
    rng, clock = random.Random(11), 0.0
    ends: dict[str, list[float]] = {name: [] for name in speeds}
    picks: Counter[str] = Counter()
    for _ in range(1600):
        clock += 10 / sum(speeds.values())  # as many jobs as the pool can do
        for name, times in ends.items():
            ends[name] = [t for t in times if t > clock]
        pool = [candidate(n, run_s=10 / s, own_in_flight=len(ends[n]), queue_limit=99) for n, s in speeds.items()]
        chosen = choose(pool, WANTED, rng)
        assert chosen
        picks[chosen.node_id] += 1
        ends[chosen.node_id].append(max([clock, *ends[chosen.node_id]]) + chosen.run_s)
    shares = {name: picks[name] / 1600 * 8 for name in speeds}
    assert all(0.75 * speeds[name] < shares[name] < 1.3 * speeds[name] for name in speeds), shares


def test_broadcasters_with_the_same_picture_do_not_herd() -> None:
    """Fifty broadcasters that choose at the same moment from the same report do not all take the best node."""
    nodes = {str(i): candidate(str(i), run_s=5 + i / 100) for i in range(100)}
    index, picks = NodeIndex(), Counter[str]()
    for name in nodes:
        index.add(name)
    for seed in range(50):
        rng = random.Random(seed)
        chosen = choose([nodes[name] for name in index.sample(4, frozenset(), rng)], WANTED, rng)
        assert chosen
        picks[chosen.node_id] += 1
    assert max(picks.values()) <= 6
    assert len(picks) >= 25


@pytest.mark.parametrize(
    ("offered", "wanted", "suitable"),
    [
        ({}, {"loras": (("ink", ()),)}, False),
        ({"loras": {"ink": "a1"}}, {"loras": (("ink", ()),)}, True),
        ({"loras": {"ink": "a1"}}, {"loras": (("ink", ("a1", "b2")),)}, True),
        ({"loras": {"ink": "a1"}}, {"loras": (("ink", ("b2",)),)}, False),
        ({"loras": {"ink": ""}}, {"loras": (("ink", ("b2",)),)}, False),
        ({"loras": {"ink": "a1"}}, {"loras": (("ink", ()), ("oil", ()))}, False),
        ({"features": ("safety",)}, {"features": frozenset({"safety"})}, True),
        ({"features": ("safety",)}, {"features": frozenset({"safety", "interpolation"})}, False),
    ],
)
def test_a_node_has_what_the_job_uses(offered: dict[str, Any], wanted: dict[str, Any], suitable: bool) -> None:
    """Each LoRA, with a digest that its id may mean, and each feature."""
    assert suits(candidate(**offered), replace(WANTED, **wanted)) is suitable

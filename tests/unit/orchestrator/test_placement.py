"""Which device a runner is put on, and who makes room: by example and by property."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.placement import Homeless, Plan, Resident, Room, plan

GB = 10**9


def room(device: str, gigabytes: float | None = 24) -> Room:
    return Room(device, None if gigabytes is None else int(gigabytes * GB))


def here(slot: str, device: str, gigabytes: float, **more: Any) -> Resident:
    """A model on demand that has been idle for a while, unless told otherwise."""
    idle = {"warm": False, "stayed_s": 100.0, "min_stay_s": 60.0, "idle_s": 50.0}
    return Resident(slot, more.pop("model", slot), device, int(gigabytes * GB), **idle | more)


def wants(slot: str, gigabytes: float, wait_s: float = 1.0, **more: Any) -> Homeless:
    return Homeless(
        slot, more.pop("model", slot), int(gigabytes * GB), more.pop("warm", False), oldest_wait_s=wait_s, **more
    )


def test_best_fit_among_empty_devices() -> None:
    """A small model takes the small card, so that the large one is left for a large model."""
    decided = plan([room("big", 80), room("small", 24)], [], [wants("a", 10)])
    assert decided == Plan(put=(("a", "small"),))


def test_devices_are_shared_last() -> None:
    """Models that share a card share its time: an empty one goes first, and replicas keep apart longest."""
    rooms = [room("x", 80), room("y", 80)]
    decided = plan(rooms, [], [wants("a0", 10, model="a"), wants("a1", 10, model="a"), wants("b", 5), wants("c", 5)])
    by_device = Counter(device for _, device in decided.put)
    assert by_device == {"x": 2, "y": 2}
    where = dict(decided.put)
    assert where["a0"] != where["a1"]


def test_the_largest_warm_model_goes_first() -> None:
    """It is the hardest to place: the small ones fit beside it, not the other way round."""
    small = [wants(name, 8, warm=True, wait_s=0) for name in ("a", "b", "c")]
    decided = plan([room("x", 24), room("y", 24)], [], [*small, wants("big", 20, warm=True, wait_s=0)])
    assert len(decided.put) == 4
    assert decided.waiting == {}


def test_a_pin_is_kept() -> None:
    """A model that is pinned waits for its device, though another one is free."""
    rooms = [room("x", 24), room("y", 24)]
    assert plan(rooms, [], [wants("a", 10, pin="y")]).put == (("a", "y"),)
    full = plan(rooms, [here("w", "y", 20, warm=True)], [wants("a", 10, pin="y")])
    assert (full.put, full.evict) == ((), ())
    assert "waits for" in full.waiting["a"]
    assert "no device z" in plan(rooms, [], [wants("a", 10, pin="z")]).waiting["a"]


def test_what_fits_nowhere_says_so() -> None:
    """Nothing is evicted for it."""
    decided = plan([room("x", 24)], [here("idle", "x", 20)], [wants("a", 30)])
    assert (decided.put, decided.evict) == ((), ())
    assert "more than any device has" in decided.waiting["a"]


def test_unknown_memory_is_enough() -> None:
    """Where nobody says how much there is, nobody is refused for it."""
    assert plan([room("cpu/0", None)], [here("w", "cpu/0", 500)], [wants("a", 500)]).put == (("a", "cpu/0"),)


def test_the_longest_idle_makes_room() -> None:
    """One is enough; those that are needed for nothing stay."""
    residents = [here("young", "x", 8, idle_s=5), here("old", "x", 8, idle_s=500), here("middle", "x", 8, idle_s=50)]
    decided = plan([room("x", 24)], residents, [wants("a", 8)])
    assert decided.evict == ("old",)
    assert decided.waiting == {"a": "waits for old to leave x"}
    residents[1] = here("old", "x", 4, idle_s=500)
    residents.append(here("more", "x", 4, idle_s=1))
    assert plan([room("x", 24)], residents, [wants("a", 8)]).evict == ("middle",), (
        "old alone is not enough, then in vain"
    )


def test_who_may_not_be_evicted() -> None:
    """Warm models, those that have only just come, and those that somebody waits for longer."""
    for resident in (
        here("w", "x", 20, warm=True),
        here("new", "x", 20, stayed_s=30.0),
        here("asked", "x", 20, oldest_wait_s=10.0),
    ):
        assert plan([room("x", 24)], [resident], [wants("a", 10, wait_s=5)]).evict == ()
    assert plan([room("x", 24)], [here("asked", "x", 20, oldest_wait_s=3.0)], [wants("a", 10, wait_s=5)]).evict == (
        "asked",
    ), "who has waited longest comes first: no model can starve another one"


def test_nobody_is_evicted_for_nobody() -> None:
    """A model that no job asks for takes free memory, and no more."""
    assert plan([room("x", 24)], [here("idle", "x", 20)], [wants("a", 10, wait_s=0)]).evict == ()
    assert plan([room("x", 24)], [here("idle", "x", 20)], [wants("a", 10, wait_s=0, warm=True)]).evict == ("idle",)


def test_memory_that_is_being_freed_is_waited_for() -> None:
    """No second model leaves for a claim that the first one's leaving serves; nobody else gets that memory."""
    residents = [here("gone", "x", 12, leaving=True), here("idle", "x", 12)]
    decided = plan([room("x", 24)], residents, [wants("a", 12, wait_s=9), wants("b", 12, wait_s=3)])
    assert decided.put == ()
    assert decided.evict == ("idle",)
    assert "being freed" in decided.waiting["a"]
    assert "idle to leave" in decided.waiting["b"]


def test_the_cheapest_device_is_cleared() -> None:
    """One eviction rather than two."""
    residents = [here("p", "x", 12), here("q", "x", 12), here("r", "y", 24)]
    assert plan([room("x", 24), room("y", 24)], residents, [wants("a", 20)]).evict == ("r",)


SIZES = st.integers(0, 30)
WAITS = st.sampled_from([0.0, 3.0, 7.0])


@st.composite
def floors(draw: st.DrawFn) -> tuple[list[Room], list[Resident], list[Homeless]]:
    """Devices that hold what they can hold, and runners that want to be there."""
    rooms = [room(f"d{i}", draw(st.integers(8, 40))) for i in range(draw(st.integers(1, 3)))]
    residents: list[Resident] = []
    for i in range(draw(st.integers(0, 6))):
        where = draw(st.sampled_from(rooms))
        held = sum(r.need_bytes for r in residents if r.device == where.device)
        need = draw(SIZES) * GB
        if held + need <= (where.memory_bytes or 0):
            residents.append(
                Resident(
                    f"r{i}", f"m{i % 3}", where.device, need, draw(st.booleans()), draw(st.booleans()),
                    draw(st.sampled_from([0.0, 100.0])), 60.0, draw(st.sampled_from([0.0, 9.0])),
                    draw(st.sampled_from([0.0, 5.0])),
                )
            )  # fmt: skip
    homeless = [
        Homeless(f"h{i}", f"m{i % 4}", draw(SIZES) * GB, draw(st.booleans()), None, draw(WAITS))
        for i in range(draw(st.integers(0, 6)))
    ]  # fmt: skip
    return rooms, residents, homeless


@given(floors())
def test_no_device_is_ever_given_more_than_it_has(floor: tuple[list[Room], list[Resident], list[Homeless]]) -> None:
    """What is put now fits beside everything that is there, also beside what only begins to leave."""
    rooms, residents, homeless = floor
    decided = plan(rooms, residents, homeless)
    needs = {h.slot: h.need_bytes for h in homeless}
    for there in rooms:
        held = sum(r.need_bytes for r in residents if r.device == there.device)
        put = sum(needs[slot] for slot, device in decided.put if device == there.device)
        assert not put or held + put <= (there.memory_bytes or 0)


@given(floors())
def test_everyone_gets_a_place_or_a_reason(floor: tuple[list[Room], list[Resident], list[Homeless]]) -> None:
    """Once; and no one leaves who is warm, leaves already, or has only just come."""
    rooms, residents, homeless = floor
    decided = plan(rooms, residents, homeless)
    assert sorted([*(slot for slot, _ in decided.put), *decided.waiting]) == sorted(h.slot for h in homeless)
    assert len(set(decided.evict)) == len(decided.evict)
    for resident in residents:
        if resident.slot in decided.evict:
            assert not resident.warm
            assert not resident.leaving
            assert resident.stayed_s >= resident.min_stay_s

"""Which faults are told, when, and when a GPU is well again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gpu_health import WELL_POLLS, Change, GpuHealth
from orchestrator.gpus import RECOVERIES, FaultKind, GpuReading, XidEvent
from orchestrator.xids import NOTE, RESET, RESTART, XIDS, gravest, xid

CARD = "GPU-a"


def reading(ecc: int | None = 0, recovery: str | None = "none") -> dict[str, GpuReading]:
    """What the one card reads."""
    return {CARD: GpuReading(CARD, ecc_errors=ecc, recovery=recovery)}


def faults(changes: list[Change]) -> list[tuple[FaultKind, int, bool] | None]:
    """Kind, code and gravity of each; None for a card that is back."""
    return [(c.fault.kind, c.fault.code, c.fault.fatal) if c.fault else None for c in changes]


def health() -> GpuHealth:
    """Of one card, which has been read once."""
    started = GpuHealth([CARD])
    assert not started.read(reading())
    return started


def xids(state: GpuHealth, *codes: int) -> list[tuple[FaultKind, int, bool] | None]:
    """What is made of these errors together."""
    return faults(state.reported([XidEvent((CARD,), code) for code in codes]))


@pytest.mark.parametrize("code", [13, 31, 43, 68, 69, 94])
def test_a_programs_fault_asks_for_another_runner(code: int) -> None:
    """Each time anew: the card itself goes on."""
    state = health()
    assert xids(state, code) == xids(state, code) == [(FaultKind.XID, code, False)]
    assert not state.problems


@pytest.mark.parametrize("code", [48, 64, 74, 79, 95, 119, 120])
def test_a_cards_fault_is_told_once(code: int) -> None:
    """Nothing runs there until it is reset, so nothing more is told."""
    state = health()
    assert xids(state, code) == [(FaultKind.XID, code, True)]
    assert xids(state, code) == xids(state, 13) == []
    assert f"XID {code}" in state.problems[CARD].text
    assert "reset the GPU" in state.problems[CARD].text


@pytest.mark.parametrize("code", [45, 63, 92, 154, 999])
def test_what_asks_for_nothing_is_only_counted(code: int) -> None:
    """45 above all: stopping a runner causes it, and restarting for it would never end."""
    state = health()
    assert xids(state, code) == []
    assert state.xids[CARD, code] == 1


def test_errors_that_come_together_are_one_fault() -> None:
    """The gravest; a kernel's crash comes as 13, 43 and 45, and is one restart."""
    assert xids(health(), 13, 43, 45) == [(FaultKind.XID, 13, False)]
    assert xids(health(), 45, 31, 119) == [(FaultKind.XID, 119, True)]
    assert gravest([45, 63]) == 45


def test_other_peoples_gpus_are_none_of_ours() -> None:
    """A host may have cards that the node does not use."""
    state = health()
    assert not state.reported([XidEvent(("GPU-other",), 79)])
    assert not state.xids


def test_a_lost_card_is_told_once_and_when_it_is_back() -> None:
    """A reset takes a card away and gives it back."""
    state = health()
    assert faults(state.read({})) == [(FaultKind.LOST, 0, True)]
    assert not state.read({})
    assert faults(state.read(reading(recovery=None))) == [None]
    assert not state.read(reading())
    assert not state.problems


def test_a_card_that_was_never_there_is_lost() -> None:
    """The node was configured with it."""
    assert faults(GpuHealth([CARD]).read({})) == [(FaultKind.LOST, 0, True)]


def test_a_fatal_error_is_over_when_the_driver_asks_for_nothing() -> None:
    """In two readings: the first may be older than the error."""
    state = health()
    xids(state, 119)
    for _ in range(WELL_POLLS - 1):
        assert not state.read(reading())
    assert faults(state.read(reading())) == [None]
    assert xids(state, 13) == [(FaultKind.XID, 13, False)]


def test_without_the_drivers_word_only_a_reset_ends_a_fatal_error() -> None:
    """Older drivers do not say: a card that answers is not yet well."""
    state = health()
    xids(state, 119)
    for _ in range(10):
        assert not state.read(reading(recovery=None))
    assert not state.read({})
    assert faults(state.read(reading(recovery=None))) == [None]


@pytest.mark.parametrize("advice", RECOVERIES)
def test_the_drivers_advice_is_taken(advice: str) -> None:
    """Also for what happened before the node started; draining peers or IMEX domains is not about this card's work."""
    state = GpuHealth([CARD])
    told = faults(state.read(reading(recovery=advice)))
    assert told == ([] if advice in ("none", "drain_p2p", "imex") else [(FaultKind.XID, 154, True)])
    assert not state.read(reading(recovery=advice))


def test_a_returned_card_that_still_needs_a_reset_is_not_back() -> None:
    """It answers again, and the driver asks for a reset."""
    state = health()
    state.read({})
    assert not state.read(reading(recovery="reset"))
    assert CARD in state.problems
    assert not state.read(reading())
    assert faults(state.read(reading())) == [None]


def test_new_memory_errors_are_a_fault() -> None:
    """Those from before the first reading are not; neither is a counter that begins anew or is not told."""
    state = GpuHealth([CARD])
    assert not state.read(reading(ecc=5))
    assert faults(state.read(reading(ecc=7))) == [(FaultKind.ECC, 2, False)]
    assert not state.read(reading(ecc=7))
    assert not state.read(reading(ecc=0))
    assert not state.read(reading(ecc=None))
    assert faults(state.read(reading(ecc=1))) == [(FaultKind.ECC, 1, False)]


STEPS = st.one_of(
    st.sampled_from([13, 45, 79, 119]),
    st.sampled_from([None]),
    st.builds(lambda ecc, advice: reading(ecc, advice), st.integers(0, 3), st.sampled_from([None, "none", "reset"])),
)


@given(st.lists(STEPS, max_size=40))
def test_faults_and_returns_alternate(steps: list[int | dict[str, GpuReading] | None]) -> None:
    """No second fatal fault without a return, no return without a fatal fault, nothing in between."""
    state, ill = GpuHealth([CARD]), False
    for step in steps:
        changes = state.reported([XidEvent((CARD,), step)]) if isinstance(step, int) else state.read(step or {})
        for change in changes:
            assert ill == (change.fault is None)
            ill = bool(change.fault and change.fault.fatal)
        assert (CARD in state.problems) == ill


def test_the_table_says_something_of_each() -> None:
    """A sentence without an end, and every kind of action."""
    assert {entry.action for entry in XIDS.values()} == {NOTE, RESTART, RESET}
    assert all(entry.text and not entry.text.endswith(".") for entry in XIDS.values())
    assert xid(12345).action is NOTE

"""CPU times from /proc: what is read, and whose it is."""

from __future__ import annotations

import os

import pytest

from benchmark.overhead_cpu import Reading, busy_ticks, cpu_ticks, read, spent

STAT = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 30 999 999 20 0 3 0 12345 1000 200 18446744073709551615"
MACHINE = "cpu  100 5 50 1000 40 1 2 3 9 9\ncpu0 50 2 25 500 20 0 1 1 0 0\n"


def test_a_processes_ticks_are_its_own() -> None:
    """utime and stime without those of its children; the name may hold brackets and spaces."""
    assert cpu_ticks(STAT) == 280


def test_a_machine_is_busy_but_for_idle_and_waiting() -> None:
    """Stolen time counts as busy; a guest's time is in user time already."""
    assert busy_ticks(MACHINE) == 100 + 5 + 50 + 1 + 2 + 3


def test_this_process_is_read_by_its_role() -> None:
    """CPU time goes on, and a role that has no process left is not missing."""
    before = read({"node": os.getpid()})
    sum(range(1_000_000))
    assert set(before.servers) >= {"node"}
    assert read({"node": os.getpid()}).own >= before.own


def test_others_are_what_neither_servers_nor_load_used() -> None:
    """A share of all cores: 6 of 20 CPU seconds."""
    before = Reading({"node": 1.0, "runner": 2.0}, 0.0, 100.0, 10.0)
    after = Reading({"node": 4.0, "runner": 5.0}, 2.0, 114.0, 20.0)
    found = spent(before, after, cores=2)
    assert found.servers == pytest.approx({"node": 3.0, "runner": 3.0})
    assert found.others == pytest.approx(0.3)


def test_others_are_never_less_than_nothing() -> None:
    """The clocks of /proc count in hundredths of a second, and do not quite agree."""
    before = Reading({"node": 0.0}, 0.0, 0.0, 0.0)
    assert spent(before, Reading({"node": 1.0}, 0.0, 0.98, 1.0), cores=1).others == 0.0

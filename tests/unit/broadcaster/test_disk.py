"""A disk without room is known before a job is let in."""

from __future__ import annotations

from pathlib import Path

from broadcaster.disk import LOOK_S, Disks

MEDIA, STATE = Path("/state/media"), Path("/state")


def test_the_fullest_folder_is_named() -> None:
    """The text says which folder, how much is free and what to do; as much as is to be kept is enough."""
    free = {MEDIA: 2**30, STATE: 2**20}
    disks = Disks((MEDIA, STATE), 2**28, free=free.__getitem__)
    text = "the disk of /state is full (1 MiB free, and 256 are kept): free space, or move `home`"
    assert disks.why_full() == text
    assert Disks((MEDIA, STATE), 2**20, free=free.__getitem__).why_full() is None


def test_a_disk_is_looked_at_once_a_second() -> None:
    """A thousand requests in a second cost one look, and the next second sees that there is room again."""
    now, free, looks = [0.0], [0], []

    def look(folder: Path) -> int:
        looks.append(folder)
        return free[0]

    disks = Disks((STATE,), 1, free=look, clock=lambda: now[0])
    assert [bool(disks.why_full()) for _ in range(5)] == [True] * 5
    free[0], now[0] = 1, LOOK_S / 2
    assert disks.why_full()
    now[0] = LOOK_S
    assert disks.why_full() is None
    assert looks == [STATE, STATE]


def test_a_folder_that_is_gone_takes_no_job() -> None:
    """What cannot be looked at cannot be written to."""
    assert "cannot be read" in (Disks((Path("/no/such/folder"),), 0).why_full() or "")

"""The overhead benchmark on true processes: what it measures, what it profiles, and that nothing of it is left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import overhead_cpu, overhead_profile
from benchmark.overhead_load import Place, WrongAnswerError, drive
from benchmark.overhead_subjects import CONTRACT, PRODUCT, SUBJECTS, UNARY, subjects
from benchmark.processes import alive, family

SIZE = 2_000
ROLES = {PRODUCT: {"broadcaster", "checker", "node", "runner"}, CONTRACT: {"broadcaster", "node", "runner"}}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose sockets fit a path's limit."""
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as name:
        yield Path(name)


async def test_product_and_floors_answer_side_by_side(folder: Path) -> None:
    """Each gives results of the size asked to several clients at once; afterwards no process is left."""
    async with subjects(folder, SIZE) as some:
        assert [subject.name for subject in some] == list(SUBJECTS)
        for subject in some:
            before = overhead_cpu.read(subject.roots)
            sample = await drive(subject.place, 8, 4)
            assert len(sample.latencies_s) == 8
            assert 0 < max(sample.latencies_s) <= sample.wall_s
            assert set(before.servers) == ROLES.get(subject.name, ROLES[CONTRACT])
        everything = family(pid for subject in some for pid in subject.roots.values())
        wrong = Place(some[0].place.url, some[0].place.path, SIZE + 1)
        with pytest.raises(WrongAnswerError, match=f"{SIZE} bytes instead of {SIZE + 1}"):
            await drive(wrong, 1, 1)
        assert {subject.name: subject.place.direct for subject in some}[UNARY] is True
    assert not alive(everything)


async def test_a_profile_has_every_process_and_only_the_load(folder: Path) -> None:
    """Broadcaster, node and runner, each with time in our own code; neither start nor stop is in it."""
    profiles = await overhead_profile.take(folder, jobs=24)
    assert [profile.name for profile in profiles] == ["broadcaster", "node-1", "runner"]
    for profile in profiles:
        assert sum(profile.groups["reelnet"].values()) > 0
        assert [name for name in profile.groups["reelnet"] if name.startswith("cli.")] == []

"""The account of a soak: what clients saw beside what the journal has, and every invariant that does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.soak_journal import Row
from benchmark.soak_load import LEFT, OK, Seen
from benchmark.soak_watch import NodeState, Reading
from reelnet.errors import FailureClass
from reelnet.jobs import TERMINAL, JobState
from reelnet.metrics import NO_CLASS

NAMED = 5
"""Jobs that one line of a violation names."""
WARM_UP_JOBS = 200
JUDGED_JOBS = 500
"""From so many jobs on memory and files are judged: before, a line through them says nothing."""
MAX_MIB_PER_1000, MAX_FILES_PER_1000 = 8.0, 8.0
MAX_HARMED_SHARE, MAX_HARMED = 0.01, 2
"""Jobs without a fault of their own that may fail: a share, or a few, as two faults of others may meet at one job."""
MIB = 2**20
_STATE = {OK: JobState.SUCCEEDED, FailureClass.DEADLINE: JobState.EXPIRED, FailureClass.CANCELED: JobState.CANCELED}


@dataclass(frozen=True, slots=True)
class Trend:
    """A component over the run: memory and files after the warm-up and at the end, and what 1,000 jobs add to them."""

    name: str
    from_mib: float
    to_mib: float
    mib_per_1000: float
    from_files: int
    to_files: int
    files_per_1000: float


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a soak knows at its end.

    `counted` are the broadcaster's jobs by failure class, `none` included, from its metrics; `spooled` are files in
    nodes' spools, `left` processes or containers that outlived the pool.
    """

    jobs: int
    seen: Sequence[Seen]
    rows: Sequence[Row]
    counted: Mapping[str, int]
    nodes: Sequence[NodeState]
    spooled: Sequence[str]
    left: Sequence[str]
    trends: Sequence[Trend]

    @property
    def judged(self) -> bool:
        """Whether there were enough jobs for trends to mean anything."""
        return self.jobs >= JUDGED_JOBS


def violations(facts: Facts) -> list[str]:
    """What does not hold, a line each; none: the soak is good."""
    return [*_of_jobs(facts), *_of_counts(facts), *_of_nodes(facts), *_of_trends(facts)]


def trend(name: str, readings: Sequence[Reading], warm_up_jobs: int) -> Trend | None:
    """A line through a component's readings after the warm-up; None when there are too few of them."""
    kept = [reading for reading in readings if reading.jobs >= warm_up_jobs]
    if len({reading.jobs for reading in kept}) < 3:
        return None
    jobs = [reading.jobs for reading in kept]
    first, last = kept[0], kept[-1]
    return Trend(
        name,
        first.rss_bytes / MIB,
        last.rss_bytes / MIB,
        slope(jobs, [reading.rss_bytes / MIB for reading in kept]) * 1000,
        first.files,
        last.files,
        slope(jobs, [float(reading.files) for reading in kept]) * 1000,
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line through the points; 0 when they stand above each other."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def _of_jobs(facts: Facts) -> Iterable[str]:
    """Each job that a client began has one row, which is terminal and says what the client saw; a refusal has none."""
    rows = {row.job_id: row for row in facts.rows}
    known = [seen for seen in facts.seen if seen.job_id in rows]
    without = [seen for seen in facts.seen if seen.job_id not in rows and seen.end != FailureClass.BUSY]
    yield from _named("ended for the client and not in the journal", _ids(without))
    yield from _named("in the journal and unknown to every client", rows.keys() - {seen.job_id for seen in known})
    yield from _named("not in a terminal state", (r.job_id for r in facts.rows if r.state not in TERMINAL))
    yield from _named(
        "ended otherwise for the client than in the journal",
        (f"{s.job_id} ({s.end}, {rows[s.job_id].state})" for s in known if not _agree(s, rows[s.job_id])),
    )
    yield from _named(
        "not delivered by exactly the attempts that they should have been",
        (f"{r.job_id} ({r.delivered})" for r in facts.rows if r.delivered != (r.state == JobState.SUCCEEDED)),
    )


def _agree(seen: Seen, row: Row) -> bool:
    """A client that left may have been too late to cancel its job."""
    if seen.end == LEFT:
        return row.state in (JobState.CANCELED, JobState.SUCCEEDED)
    state = _STATE.get(seen.end, JobState.FAILED)
    return row.state == state and (seen.end == OK or row.failure == seen.end)


def _refused(facts: Facts) -> list[Seen]:
    """Requests that no node took: they are no jobs."""
    rows = {row.job_id for row in facts.rows}
    return [seen for seen in facts.seen if seen.end == FailureClass.BUSY and seen.job_id not in rows]


def _of_counts(facts: Facts) -> Iterable[str]:
    """Clients, journal and metrics count the same number of jobs, the latter two of each end."""
    refused = len(_refused(facts))
    if not len(facts.seen) == len(facts.rows) + refused == facts.jobs:
        yield (
            f"{facts.jobs} jobs were to be done; clients saw {len(facts.seen)}, {refused} of them refused, "
            f"the journal has {len(facts.rows)}"
        )
    journal = Counter(row.failure or NO_CLASS for row in facts.rows)
    if journal != Counter(facts.counted):
        yield f"jobs by failure class: the journal has {_counts(journal)}, the metrics have {_counts(facts.counted)}"
    unharmed = [seen for seen in facts.seen if seen.fault is None]
    good = sum(seen.end == OK for seen in unharmed)
    if len(unharmed) - good > max(MAX_HARMED, MAX_HARMED_SHARE * len(unharmed)):
        yield f"of {len(unharmed)} jobs without a fault of their own only {good} succeeded"


def _of_nodes(facts: Facts) -> Iterable[str]:
    """Every slot is idle and ready again, nothing waits, nothing is kept, nothing is left."""
    for node in facts.nodes:
        if not node.idle:
            slots = _counts(node.slots)
            yield (
                f"{node.name} is not idle: slots {slots}, {node.queued} queued, {node.attempts} attempts, "
                f"{node.spool_bytes} bytes in the spool"
            )
    yield from _named("files left in a spool", facts.spooled)
    yield from _named("processes or containers left", facts.left)


def _of_trends(facts: Facts) -> Iterable[str]:
    for one in facts.trends if facts.judged else ():
        if one.mib_per_1000 > MAX_MIB_PER_1000:
            yield f"memory of {one.name} grows by {one.mib_per_1000:.1f} MiB for 1,000 jobs"
        if one.files_per_1000 > MAX_FILES_PER_1000:
            yield f"open files of {one.name} grow by {one.files_per_1000:.1f} for 1,000 jobs"


def _ids(seen: Iterable[Seen]) -> list[str]:
    return [one.job_id or f"#{one.number} ({one.end} {one.code})" for one in seen]


def _named(what: str, which: Iterable[str]) -> Iterable[str]:
    """One line for all of them, if there are any."""
    if found := sorted(which):
        more = ", …" if len(found) > NAMED else ""
        yield f"{what}: {len(found)}: {', '.join(found[:NAMED])}{more}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"

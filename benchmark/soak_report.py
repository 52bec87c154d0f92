"""A soak's tables, at most 100 columns wide, and its document."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.overhead_figures import quantile
from benchmark.soak_account import MAX_FILES_PER_1000, MAX_MIB_PER_1000, Facts, violations
from benchmark.soak_faults import Fault
from benchmark.soak_load import LEFT, OK, Seen
from reelnet.jobs import JobState
from reelnet.metrics import NO_CLASS

WIDTH = 100
NO_FAULT = "none of its own"


@dataclasses.dataclass(frozen=True, slots=True)
class Soaked:
    """A soak: its facts, which engine, which seed, seconds of the jobs, and how often each fault that is no job's."""

    facts: Facts
    engine: str
    seed: int
    seconds: float
    struck: Counter[Fault]


def show(soaked: Soaked, console: Console) -> None:
    """Prints jobs by fault and end, ends by client, journal and metrics, nodes, trends, and what does not hold."""
    for table in (_ends(soaked.facts), _counts(soaked.facts), _nodes(soaked.facts), _trends(soaked.facts)):
        console.print(table)
    for note in _notes(soaked):
        console.print(Text(note), soft_wrap=True)


def _ends(facts: Facts) -> Table:
    """Jobs by their own fault and how they ended for their clients."""
    ends = sorted({seen.end for seen in facts.seen}, key=lambda end: (end != OK, end))
    table = _table("job's fault", right=(*ends, "p50 s", "max s"))
    for fault in (None, *Fault):
        jobs = [seen for seen in facts.seen if seen.fault is fault]
        if jobs:
            counts = Counter(seen.end for seen in jobs)
            table.add_row(fault or NO_FAULT, *(str(counts[end] or "") for end in ends), *_seconds(jobs))
    return table


def _seconds(jobs: list[Seen]) -> tuple[str, str]:
    seconds = [seen.seconds for seen in jobs]
    return f"{quantile(seconds, 0.5):.2f}", f"{max(seconds):.2f}"


def _counts(facts: Facts) -> Table:
    """Terminal states as clients, journal and metrics count them."""
    table = _table("state", "class", right=("clients", "journal", "metrics"))
    seen = Counter(one.end for one in facts.seen)
    rows = Counter((row.state, row.failure or NO_CLASS) for row in facts.rows)
    for state, failure in sorted(rows, key=lambda key: (key[0] != JobState.SUCCEEDED, *key)):
        end = {JobState.SUCCEEDED: OK, JobState.CANCELED: LEFT}.get(JobState(state), failure)
        table.add_row(state, failure, str(seen[end]), str(rows[state, failure]), str(facts.counted.get(failure, 0)))
    return table


def _nodes(facts: Facts) -> Table:
    """Nodes at the end, and how often their runners were started again since their own last start."""
    heads = ("slots ready", "not ready", "queued", "attempts", "spool bytes")
    table = _table("at the end", right=heads)
    table.add_column("restarts of runners")
    for node in facts.nodes:
        ready = node.slots.get("ready", 0)
        figures = ready, sum(node.slots.values()) - ready, node.queued, node.attempts, node.spool_bytes
        restarts = ", ".join(f"{count} {reason}" for reason, count in sorted(node.restarts.items()))
        table.add_row(node.name, *map(str, figures), restarts)
    return table


def _trends(facts: Facts) -> Table:
    """Memory and files."""
    heads = ("MiB", "at the end", "for 1,000 jobs", "files", "at the end", "for 1,000 jobs")
    table = _table("after warm-up", right=heads)
    for one in facts.trends:
        memory = f"{one.from_mib:.1f}", f"{one.to_mib:.1f}", f"{one.mib_per_1000:+.2f}"
        table.add_row(one.name, *memory, str(one.from_files), str(one.to_files), f"{one.files_per_1000:+.1f}")
    return table


def _notes(soaked: Soaked) -> list[str]:
    facts = soaked.facts
    struck = ", ".join(f"{count} × {fault}" for fault, count in sorted(soaked.struck.items())) or "none"
    judged = f"at most {MAX_MIB_PER_1000:g} MiB and {MAX_FILES_PER_1000:g} files for 1,000 jobs are allowed"
    return [
        f"{facts.jobs} jobs in {soaked.seconds:.0f} s, engine {soaked.engine}, seed {soaked.seed}; struck: {struck}.",
        f"Trends are least-squares lines; {judged if facts.judged else 'of so few jobs they are not judged'}.",
        *(f"VIOLATED: {line}" for line in violations(facts) or ()),
        f"{len(violations(facts))} invariants violated." if violations(facts) else "Every invariant holds.",
    ]


def document(soaked: Soaked) -> dict[str, Any]:
    """Everything as JSON but the single jobs that went well."""
    facts = soaked.facts
    ends = Counter((seen.fault or NO_FAULT, seen.end) for seen in facts.seen)
    rows = Counter((row.state, row.failure or NO_CLASS) for row in facts.rows)
    return {
        "jobs": facts.jobs,
        "engine": soaked.engine,
        "seed": soaked.seed,
        "seconds": soaked.seconds,
        "struck": {str(fault): count for fault, count in soaked.struck.items()},
        "ends": [{"fault": fault, "end": end, "jobs": count} for (fault, end), count in sorted(ends.items())],
        "journal": [{"state": state, "class": cls, "jobs": count} for (state, cls), count in sorted(rows.items())],
        "metrics": dict(facts.counted),
        "failed": [dataclasses.asdict(seen) for seen in facts.seen if seen.end != OK],
        "nodes": [{**dataclasses.asdict(node), "idle": node.idle} for node in facts.nodes],
        "trends": [dataclasses.asdict(one) for one in facts.trends],
        "violations": violations(facts),
    }


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head in left:
        table.add_column(head, no_wrap=True)
    for head in right:
        table.add_column(head, justify="right")
    return table

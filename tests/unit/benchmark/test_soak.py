"""A soak's account: that every invariant that does not hold is found; its faults, figures and command line."""

from __future__ import annotations

import io
import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmark import soak, soak_engine, soak_journal, soak_report
from benchmark.pool_plan import node_settings
from benchmark.soak_account import Facts, Trend, slope, trend, violations
from benchmark.soak_engine import ContainerRunners, ProcessRunners, SkippedError, containers
from benchmark.soak_faults import OF_JOBS, PROMPTS, Fault, draw
from benchmark.soak_journal import Row
from benchmark.soak_load import LEFT, OK, Seen
from benchmark.soak_report import Soaked
from benchmark.soak_watch import NodeState, Reading, Sample, Watch, node_state, sums
from orchestrator.settings import OrchestratorSettings
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from runner.faults import parse

MIB = 2**20
FLAT = Trend("node-1", 90, 91, 1.0, 30, 31, 0.5)


def good(jobs: int = 600, **changes: Any) -> Facts:
    """An account without a fault: of every hundred jobs one client left, one job failed, one was late."""
    ends = {1: (LEFT, "canceled", "canceled", Fault.LEAVE), 2: ("oom", "failed", "oom", Fault.OOM)}
    seen, rows = list[Seen](), list[Row]()
    for number in range(jobs):
        end, state, failure, fault = ends.get(number % 100, (OK, "succeeded", None, None))
        seen.append(Seen(number, f"job-{number}", end, fault, seconds=0.1))
        rows.append(Row(f"job-{number}", state, failure, int(state == "succeeded")))
    counted = dict(Counter(row.failure or "none" for row in rows))
    nodes = [NodeState("node-1", {"ready": 2}), NodeState("node-2", {"ready": 2}, restarts={"killed": 3})]
    facts = Facts(jobs, seen, rows, counted, nodes, spooled=[], left=[], trends=[FLAT])
    return replace(facts, **changes)


def changed(facts: Facts, number: int, **changes: Any) -> list[Row]:
    """The journal with another row of one job."""
    return [replace(row, **changes) if row.job_id == f"job-{number}" else row for row in facts.rows]


def saw(facts: Facts, number: int, **changes: Any) -> list[Seen]:
    """Clients that saw another end of one job."""
    return [replace(seen, **changes) if seen.number == number else seen for seen in facts.seen]


def test_a_good_soak_has_no_violation() -> None:
    """Failures that were asked for are none, and a client that left too late is none either."""
    facts = good()
    assert violations(facts) == []
    late = changed(facts, 1, state="succeeded", failure=None, delivered=1)
    counted = {**facts.counted, "none": facts.counted["none"] + 1, "canceled": facts.counted["canceled"] - 1}
    assert violations(replace(facts, rows=late, counted=counted)) == []


def test_a_refused_request_is_in_no_journal() -> None:
    """No node took it, so nobody may owe anything for it; it is counted beside the jobs."""
    facts = good()
    seen = [replace(one, end="busy", fault=Fault.OOM) if one.number == 7 else one for one in facts.seen]
    rows = [row for row in facts.rows if row.job_id != "job-7"]
    counted = {**facts.counted, "none": facts.counted["none"] - 1}
    assert violations(replace(facts, seen=seen, rows=rows, counted=counted)) == []


FACTS = good()
BROKEN = {
    "a job without an end": (
        replace(FACTS, rows=changed(FACTS, 7, state="running", delivered=0)),
        "not in a terminal state: 1: job-7",
    ),
    "another end than the client saw": (
        replace(FACTS, seen=saw(FACTS, 7, end="node")),
        "ended otherwise for the client than in the journal: 1: job-7 (node, succeeded)",
    ),
    "another class than the client saw": (
        replace(FACTS, seen=saw(FACTS, 2, end="node")),
        "ended otherwise for the client than in the journal: 1: job-2 (node, failed)",
    ),
    "an answer that was lost": (
        replace(FACTS, seen=saw(FACTS, 7, end="transient")),
        "job-7 (transient, succeeded)",
    ),
    "a left job that failed": (replace(FACTS, rows=changed(FACTS, 1, state="failed")), "job-1 (left, failed)"),
    "a job that the journal lost": (
        replace(FACTS, rows=FACTS.rows[1:]),
        "ended for the client and not in the journal: 1: job-0",
    ),
    "a job that never had an id": (replace(FACTS, seen=saw(FACTS, 7, job_id="", end="transient")), "#7 (transient"),
    "a job that nobody sent": (
        replace(FACTS, rows=[*FACTS.rows, Row("stranger", "succeeded", None, 1)]),
        "in the journal and unknown to every client: 1: stranger",
    ),
    "a client that never came back": (
        replace(FACTS, seen=FACTS.seen[1:]),
        "clients saw 599, 0 of them refused, the journal has 600",
    ),
    "a job delivered twice": (
        replace(FACTS, rows=changed(FACTS, 7, delivered=2)),
        "not delivered by exactly the attempts that they should have been: 1: job-7 (2)",
    ),
    "a failed job that was delivered": (replace(FACTS, rows=changed(FACTS, 2, delivered=1)), "job-2 (1)"),
    "a success that no attempt delivered": (replace(FACTS, rows=changed(FACTS, 7, delivered=0)), "job-7 (0)"),
    "metrics that count otherwise": (
        replace(FACTS, counted={**FACTS.counted, "oom": 7}),
        "the journal has 6 canceled, 588 none, 6 oom, the metrics have 6 canceled, 588 none, 7 oom",
    ),
    "a slot that is held": (
        replace(FACTS, nodes=[NodeState("node-1", {"ready": 1, "busy": 1})]),
        "node-1 is not idle: slots 1 busy, 1 ready",
    ),
    "a slot that is down": (replace(FACTS, nodes=[NodeState("node-1", {"down": 1})]), "slots 1 down"),
    "a job that waits": (replace(FACTS, nodes=[NodeState("node-1", {"ready": 1}, queued=1)]), "1 queued"),
    "an attempt that stays": (replace(FACTS, nodes=[NodeState("node-1", {"ready": 1}, attempts=1)]), "1 attempts"),
    "bytes in a spool": (replace(FACTS, nodes=[NodeState("node-1", {"ready": 1}, spool_bytes=9)]), "9 bytes in the"),
    "a file in a spool": (replace(FACTS, spooled=["/home/x"]), "files left in a spool: 1: /home/x"),
    "a process that stays": (replace(FACTS, left=["4711"]), "processes or containers left: 1: 4711"),
    "memory that grows": (
        replace(FACTS, trends=[replace(FLAT, mib_per_1000=20.0)]),
        "memory of node-1 grows by 20.0 MiB for 1,000 jobs",
    ),
    "files that stay open": (
        replace(FACTS, trends=[replace(FLAT, files_per_1000=50.0)]),
        "open files of node-1 grow by 50.0 for 1,000 jobs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_invariant_is_found(name: str) -> None:
    """And named, with the job or the component that broke it."""
    facts, expected = BROKEN[name]
    assert any(expected in line for line in violations(facts)), violations(facts)


def test_jobs_without_a_fault_have_to_succeed() -> None:
    """One of a hundred may meet two faults of others at once, two of a few; more is a pool to rely on for nothing."""
    for jobs, failed, broken in ((600, 5, False), (600, 6, True), (40, 2, False), (40, 3, True)):
        facts = good(jobs)
        numbers = [number for number in range(jobs) if number % 100 > 2][:failed]
        seen = [replace(s, end="node") if s.number in numbers else s for s in facts.seen]
        found = [line for line in violations(replace(facts, seen=seen)) if "without a fault of their own" in line]
        assert bool(found) is broken


def test_a_short_soak_says_nothing_of_memory() -> None:
    """A line through few jobs would be noise."""
    assert violations(good(100, trends=[replace(FLAT, mib_per_1000=99.0)])) == []


def test_one_line_names_few_jobs() -> None:
    """However many there are."""
    rows = [replace(row, state="running", delivered=0) for row in FACTS.rows]
    line = next(line for line in violations(replace(FACTS, rows=rows)) if "terminal" in line)
    assert line.startswith("not in a terminal state: 600: ")
    assert len(line) < 120


def test_a_trend_is_a_line_after_the_warm_up() -> None:
    """What is loaded once is no leak; a MiB for each hundred jobs is ten for a thousand."""
    warming = [Reading(jobs, jobs * MIB, 100) for jobs in range(0, 200, 10)]
    working = [Reading(jobs, 300 * MIB + jobs * MIB // 100, 30 + jobs // 100) for jobs in range(200, 1001, 100)]
    found = trend("node-1", [*warming, *working], 200)
    assert found is not None
    assert found.mib_per_1000 == pytest.approx(10)
    assert found.files_per_1000 == pytest.approx(10)
    assert (found.from_mib, found.to_mib, found.from_files, found.to_files) == (302, 310, 32, 40)
    assert trend("node-1", warming, 200) is None
    assert slope([1, 1], [2, 9]) == 0


def test_faults_come_from_the_seed() -> None:
    """Every twentieth job, each kind as often as the others, kills of a node few; the same for a seed each time."""
    faults = draw(1000, 20, seed=3)
    assert sorted(faults) == list(range(20, 1000, 20))
    counts = Counter(faults.values())
    assert counts[Fault.NODE] == 3
    assert all(5 <= counts[fault] <= 9 for fault in Fault if fault is not Fault.NODE)
    assert draw(1000, 20, seed=3) == faults != draw(1000, 20, seed=4)
    assert draw(15, 20, seed=3) == {}
    assert Fault.NODE not in draw(100, 20, seed=3).values()
    assert Fault.NODE in draw(200, 20, seed=3).values()


def test_a_job_asks_for_its_fault_as_the_backend_reads_it() -> None:
    """Every prompt is one that the synthetic backend knows."""
    assert all(parse(prompt.removeprefix("!")) for prompt in PROMPTS.values())
    assert set(Fault) - OF_JOBS == {Fault.RUNNER, Fault.NODE}


SAMPLES = [
    Sample("reelnet_node_slots", {"model": "m", "state": "ready"}, 1),
    Sample("reelnet_node_slots", {"state": "ready", "model": "n"}, 2),
    Sample("reelnet_node_slots", {"model": "m", "state": "down"}, 0),
    Sample("reelnet_node_queued_jobs", {"model": "m"}, 3),
    Sample("reelnet_node_spool_bytes", {}, 7),
    Sample("reelnet_node_runner_restarts_total", {"model": "m", "reason": "killed"}, 4),
]


def test_a_nodes_state_is_read_from_its_metrics() -> None:
    """Sums over models; what is 0 is left out."""
    state = node_state("node-1", SAMPLES)
    assert state == NodeState("node-1", {"ready": 3}, 3, 0, 7, {"killed": 4})
    assert not state.idle
    assert NodeState("node-1", {"ready": 3}).idle
    assert sums(SAMPLES, "reelnet_node_slots", "model") == {"m": 1, "n": 2}


def test_a_component_that_is_gone_is_not_read() -> None:
    """A node that is just being killed costs one reading and no more."""
    import os

    watch = Watch(lambda: {"me": os.getpid(), "gone": 2**22 + 1}, lambda: 5)
    watch.look()
    (reading,) = watch.readings["me"][os.getpid()]
    assert reading.jobs == 5
    assert reading.rss_bytes > MIB
    assert reading.files > 2
    assert not watch.readings["gone"]


def test_a_journal_is_read_by_job(tmp_path: Path) -> None:
    """State, class, and how many attempts went well."""
    path = tmp_path / soak_journal.JOURNAL
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as journal, journal:
        journal.execute("CREATE TABLE jobs (id, state, failure_class)")
        journal.execute("CREATE TABLE attempts (job_id, attempt, outcome)")
        journal.execute("INSERT INTO jobs VALUES ('a', 'succeeded', NULL), ('b', 'failed', 'oom')")
        journal.execute("INSERT INTO attempts VALUES ('a', 1, 'node'), ('a', 2, 'ok'), ('b', 1, 'oom')")
    assert soak_journal.read(tmp_path) == [Row("a", "succeeded", None, 1), Row("b", "failed", "oom", 0)]
    with pytest.raises(sqlite3.Error):
        soak_journal.read(tmp_path / "nowhere")


def soaked(facts: Facts) -> Soaked:
    """A finished soak."""
    return Soaked(facts, "process", 1, 30.0, Counter({Fault.RUNNER: 2}))


def test_the_report_shows_what_was_counted_and_what_is_broken() -> None:
    """Ends by fault, states three times, nodes, trends; within its width; as JSON too."""
    out = io.StringIO()
    console = Console(width=soak_report.WIDTH, file=out)
    soak_report.show(soaked(FACTS), console)
    assert "Every invariant holds." in out.getvalue()
    soak_report.show(soaked(replace(FACTS, left=["4711"])), console)
    text = out.getvalue()
    assert "VIOLATED: processes or containers left: 1: 4711" in text
    assert "1 invariants violated." in text
    rows = [line.split() for line in text.splitlines()]
    assert ["succeeded", "none", "588", "588", "588"] in rows
    assert ["failed", "oom", "6", "6", "6"] in rows
    document = json.loads(json.dumps(soak_report.document(soaked(FACTS))))
    assert document["violations"] == []
    assert len(document["failed"]) == 12
    assert document["nodes"][1]["restarts"] == {"killed": 3}


@pytest.mark.parametrize(
    "runners", [ProcessRunners(), ContainerRunners(Path("/run/docker.sock"), "sha256:" + "0" * 64)]
)
def test_the_nodes_settings_are_a_nodes(tmp_path: Path, runners: soak_engine.Runners) -> None:
    """A node takes them as they are, with either engine."""
    settings = OrchestratorSettings(**node_settings(soak.pool_plan(tmp_path, runners), 0))
    assert settings.engine == runners.settings["engine"]
    assert settings.limits.stall_s == soak.LIMITS["stall_s"]
    assert settings.models[0].flags == soak.FLAGS


@pytest.mark.parametrize(
    "words", [["--jobs", "1"], ["--engine", "magic"], ["--fault-every", "0"], ["--json", "/nowhere/at/all.json"]]
)
def test_wrong_usage_starts_nothing(words: list[str]) -> None:
    """It is said before a pool is."""
    assert CliRunner().invoke(soak.cli, words).exit_code == EXIT_USAGE


@pytest.mark.parametrize(("facts", "code"), [(FACTS, EXIT_DONE), (replace(FACTS, left=["4711"]), EXIT_FAILED)])
def test_the_exit_code_says_whether_all_holds(monkeypatch: pytest.MonkeyPatch, facts: Facts, code: int) -> None:
    """1 when one invariant does not."""

    async def run_soak(plan: soak.Plan) -> Soaked:
        return soaked(facts)

    monkeypatch.setattr(soak, "run_soak", run_soak)
    assert CliRunner().invoke(soak.cli, []).exit_code == code


def test_a_machine_without_docker_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a line that says why, and no failure."""
    monkeypatch.setattr(soak_engine.os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(soak.cli, ["--engine", "docker"])
    assert result.exit_code == EXIT_DONE
    assert "skipped: a Docker engine of its own needs root" in result.output


async def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to install."""
    monkeypatch.setattr(soak_engine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(soak_engine.shutil, "which", lambda program: None if program == "runc" else program)
    with pytest.raises(SkippedError, match=r"runc missing; install Docker \(Debian: apt-get install docker.io\)"):
        async with containers(tmp_path, None):
            pass

"""The report: valid by its schema, which is the published one, and readable in a narrow terminal."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.assessment import Assessment, assess
from benchmark.document import FORM, Report, document, schema
from benchmark.drive import Drive, record
from benchmark.machine import Machine
from benchmark.measurement import Measurement
from benchmark.report import show
from benchmark.scenario import Request, plan
from reelnet.operating.console import PIPE_COLUMNS
from reelnet.pipelines import PIPELINES, Size
from tests.fakes.lanes import SimulatedClock, SimulatedLane

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "benchmark-report.schema.json"
MACHINE = Machine("a CPU", 2, 2**30, "Linux x86_64", "3.11", 0.9)
ID = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"


async def assessed(kind: str = "orchestrator", runs: int = 10) -> Assessment:
    """Two nodes, of which one fails twice; noisy, so that there is something to warn of."""
    clock, rng = SimulatedClock(), random.Random(1)
    lanes = [SimulatedLane(ID[i:] + ID[:i], clock, 1.0, 0.4, rng) for i in range(2)]
    lanes[0].fails = frozenset({1, 2})
    given = plan(Request(PIPELINES["text-to-image"], 1, Size(64, 64), runs=runs), "acme/x")
    used = lanes if kind == "orchestrator" else lanes[:1]
    if kind == "broadcaster":
        lanes[0].name, lanes[0].behind = "pool", ID
    tracks = await Drive(given, Path("/nowhere"), clock=clock).run(used)
    recorded = tuple(record(track, given) for track in tracks)
    return assess(Measurement(kind, "127.0.0.1:1", given, recorded, MACHINE))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["orchestrator", "broadcaster", "runner"])
async def test_a_report_is_what_its_schema_says(kind: str) -> None:
    """It reads back as itself, and an unknown or missing field is an error."""
    text = document(await assessed(kind), "1").model_dump_json()
    report = Report.model_validate_json(text)
    assert (report.form, report.target) == (FORM, kind)
    assert len(report.samples) == (22 if kind == "orchestrator" else 11)
    for broken in ({**json.loads(text), "more": 1}, {k: v for k, v in json.loads(text).items() if k != "nodes"}):
        with pytest.raises(ValueError, match=r"more|nodes"):
            Report.model_validate(broken)


async def test_a_report_names_no_host_and_no_prompt() -> None:
    """It can be handed on."""
    report = document(await assessed(), "1")
    assert "prompt" not in report.scenario.params
    assert set(report.machine.model_dump()) == {"cpu", "cores", "memory_bytes", "system", "python", "busy"}


def test_the_published_schema_is_the_codes() -> None:
    """docs/benchmark-report.schema.json is what scripts/benchmark_schema.py writes."""
    assert json.loads(SCHEMA.read_text("utf-8")) == schema(), "run scripts/benchmark_schema.py"


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("kind", ["orchestrator", "broadcaster"])
async def test_tables_fit_the_terminal(kind: str, columns: int) -> None:
    """No line of a table is longer, and nothing is cut off with an ellipsis."""
    out = io.StringIO()
    show(await assessed(kind, runs=120), Console(file=out, width=columns))
    text = out.getvalue()
    assert "…" not in text
    for word in ("images/min", "Mpx·steps/s", "score", "p50", "p90", "p99", "node/fell", "warning:", "reference"):
        assert word in text
    table = [line for line in text.splitlines() if "─" in line or "benchmark " in line]
    assert max(map(len, table)) <= columns


async def test_names_are_whole_in_a_pipe() -> None:
    """On one line each, whatever the tables hold, and the titles too."""
    name, model, found = "n" * 120, "acme/" + "m" * 115, await assessed()
    measured = replace(found.measurement, labels={ID: name}, scenario=replace(found.measurement.scenario, model=model))
    out = io.StringIO()
    show(replace(found, measurement=measured), Console(file=out, width=PIPE_COLUMNS))
    lines = out.getvalue().splitlines()
    assert sum(name in line for line in lines) == 5, "rank, score, failures, stages, first job"
    assert sum(model in line for line in lines) == 1
    assert any("score = 100 × correctness × success × √throughput × ⁴√tail" in line for line in lines)
    assert any(line.startswith("warning: ") and line.endswith(found.warnings[0][-30:]) for line in lines)

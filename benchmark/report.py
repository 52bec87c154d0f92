"""A benchmark's result for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.drive import Run
from benchmark.measure import Spread, Summary
from benchmark.scenario import Scenario
from reelnet.errors import printable
from reelnet.pricing import NANO

FORM = 1
"""Version of the JSON report; fields are only ever added."""
NODE_CHARS = 10
NAME_CHARS = 64


def show(run: Run, console: Console) -> None:
    """Prints the tables: the figures, then a line for each node."""
    summary = run.summary
    console.print(Text(describe(run.scenario), style="bold"), soft_wrap=True)
    console.print(_figures(run.scenario, summary))
    if summary.nodes:
        console.print(_nodes(summary))


def to_json(run: Run) -> str:
    """The whole report: scenario, figures, every sample. Money in nano-dollars, times in seconds."""
    request, summary = run.scenario.request, run.summary
    source = run.scenario.source
    body: dict[str, Any] = {
        "form": FORM,
        "scenario": {
            "pipeline": run.scenario.pipeline.name,
            "model": run.scenario.model,
            "params": run.scenario.params.model_dump(exclude={"seed", "prompt", "negative_prompt"}),
            "input": asdict(source) if source else None,
            "runs": request.runs,
            "warmup": request.warmup,
            "concurrency": request.concurrency,
            "seed": request.seed,
        },
        "summary": {
            **asdict(summary),
            "total_s": summary.total_s and summary.total_s._asdict(),
            "stages_s": {stage: spread._asdict() for stage, spread in summary.stages_s.items()},
            "nodes": {n: {"runs": s.runs, "total_s": s.total_s._asdict()} for n, s in summary.nodes.items()},
        },
        "samples": [asdict(sample) for sample in run.samples],
    }
    return json.dumps(body, indent=1) + "\n"


def describe(scenario: Scenario) -> str:
    """One line: what each run is."""
    (spec, *_) = scenario.promises
    frames = f" × {spec.frames} frames" if spec.frames else ""
    steps = getattr(scenario.params, "num_inference_steps", "?")
    model = printable(scenario.model, NAME_CHARS)
    return f"{scenario.pipeline.name} · {model} · {spec.width}×{spec.height}{frames} · {steps} steps"


def _figures(scenario: Scenario, summary: Summary) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    for _ in Spread._fields:
        table.add_column(justify="right")
    noun = "clips" if scenario.promises[0].kind == "video" else "images"
    _row(table, "runs", f"{summary.good} of {summary.runs} good")
    for reason, count in summary.failures.items():
        _row(table, f"  {printable(reason, NAME_CHARS)}", str(count))
    for mark, count in summary.marks.items():
        _row(table, f"  marked {mark}", str(count))
    _row(table, "throughput", f"{summary.results_per_minute:.2f} {noun}/min")
    _row(table, "", f"{summary.mpix_steps_per_s:.2f} Mpx·steps/s")
    if summary.price_nano is not None:
        _row(table, "price", f"${summary.price_nano / NANO:.9f} each")
    if summary.total_s:
        table.add_section()
        _row(table, "seconds", *Spread._fields)
        _row(table, "total", *_texts(summary.total_s))
    for stage, seconds in summary.stages_s.items():
        _row(table, f"  {printable(stage, NAME_CHARS)}", *_texts(seconds))
    return table


def _nodes(summary: Summary) -> Table:
    table = Table("node, total seconds")
    for heading in ("runs", *Spread._fields):
        table.add_column(heading, justify="right")
    for node, share in summary.nodes.items():
        _row(table, printable(node, NAME_CHARS)[:NODE_CHARS], str(share.runs), *_texts(share.total_s))
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: a stranger's text is no markup."""
    table.add_row(*(Text(cell) for cell in cells))


def _texts(seconds: Spread) -> list[str]:
    return [f"{value:.3f}" for value in seconds]

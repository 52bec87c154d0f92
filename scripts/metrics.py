"""Writes docs/metrics.md from the definitions of the metrics; `--check` fails when the committed file differs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from broadcaster import broadcaster_metrics
from orchestrator import gpu_metrics, node_metrics, runner_metrics
from reelnet.metrics import BUILD, SECONDS, Family, Label

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "metrics.md"


class Chapter(NamedTuple):
    """The metrics of one listener: whose, a word on them, and the definitions."""

    title: str
    text: str
    families: tuple[Family, ...]


CHAPTERS = (
    Chapter("Every component", "", (BUILD,)),
    Chapter(
        "Broadcaster",
        """\
Jobs and attempts add up: a job is counted once in `reelnet_jobs_total` when it ends, each of its attempts once in
`reelnet_attempts_total`, and a request that began no job once in `reelnet_refusals_total` and nowhere else. A job
begins when a node accepts it, or fails it by more than saying that it does not take it: until then it is a request.
""",
        broadcaster_metrics.FAMILIES,
    ),
    Chapter(
        "Orchestrator",
        "A node's own metrics; an attempt here is an attempt of some broadcaster.\n",
        node_metrics.FAMILIES,
    ),
    Chapter(
        "GPUs of a node",
        """\
What NVIDIA's driver says of the node's GPUs and MIG slices, read every `limits.gpu_poll_s` seconds; a node on CPUs has
none of these. A GPU has no series of what it does not tell: a slice has no temperature, its card has.
""",
        gpu_metrics.FAMILIES,
    ),
    Chapter(
        "Runners, passed on by their node",
        """\
Prometheus cannot reach a runner. Whoever reads a node's `/metrics` makes it read those of its runners, all at once and
for at most `limits.metrics_s` seconds; a runner that does not answer keeps its last values and holds nobody up. The
series of all runners of a node are summed by model, and go on when a runner is restarted. A runner's own `/metrics`
shows the same ones without `model`.
""",
        runner_metrics.FAMILIES,
    ),
)
BOUNDS = ", ".join(f"{bound:g}" for bound in SECONDS)
INTRODUCTION = f"""\
# Metrics

This page is generated from the definitions by `make metrics`. Do not edit it by hand.

A broadcaster and a node answer `GET /metrics` on their `metrics` listener (ports 5935 and 7935) in Prometheus' text
format; [`deploy/prometheus.yml`](../deploy/prometheus.yml) reads both. Units are base units. Every label's values come
from a bounded set: a name that a stranger makes up becomes `other` beyond it. No series carries a node's id, an address
or a slot; Prometheus itself adds `instance`. Prompts stand in no metric.

The buckets of every histogram end at {BOUNDS} seconds; what is
faster than {SECONDS[0]:g} s shows in `_sum` alone. Money is summed in whole nano-dollars and shown as a float of
dollars, which is exact up to nine million; accounts are made from the journal.

```
# jobs a second, by how they end
sum by (outcome, class) (rate(reelnet_jobs_total[5m]))
# the time that nine of ten good jobs take at most
histogram_quantile(0.9, sum by (le) (rate(reelnet_job_seconds_bucket{{outcome="ok"}}[5m])))
# seconds of each stage of a runner's work, on average over all nodes
sum by (stage) (rate(reelnet_runner_stage_seconds_sum[5m]))
  / sum by (stage) (rate(reelnet_runner_stage_seconds_count[5m]))
# how much of the pool's slots is in use
sum(reelnet_node_slots{{state="busy"}}) / sum(reelnet_node_slots)
```
"""


def document() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(chapter(part) for part in CHAPTERS)


def chapter(part: Chapter) -> str:
    """The metrics of one listener in a table, and their labels in another."""
    head = [f"\n## {part.title}\n", *([part.text] if part.text else [])]
    rows = [
        (f"`{f.name}`", kind(f), ", ".join(f"`{label.name}`" for label in f.labels), f.meaning) for f in part.families
    ]
    labels = [(f"`{label.name}`", where, label.values) for label, where in places(part.families)]
    metrics = table(("metric", "type, unit", "labels", "meaning"), rows)
    return "\n".join([*head, *metrics, "", *table(("label", "of", "values"), labels), ""])


def kind(family: Family) -> str:
    """A metric's type and unit."""
    return ", ".join(filter(None, (family.kind.value, family.unit)))


def places(families: Iterable[Family]) -> list[tuple[Label, str]]:
    """Each label once, with the metrics that have it, where another one has the same name and other values."""
    found: dict[Label, list[str]] = {}
    for family in families:
        for label in family.labels:
            found.setdefault(label, []).append(f"`{family.name}`")
    names = [label.name for label in found]
    return [
        (label, ", ".join(of) if names.count(label.name) > 1 else "every metric with it") for label, of in found.items()
    ]


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table's lines."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def main() -> int:
    """Writes the page, or compares it; the exit code."""
    text = document()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, "utf-8")
        return 0
    if FILE.exists() and FILE.read_text("utf-8") == text:
        return 0
    print("docs/metrics.md: differs from the definitions of the metrics; run `make metrics`")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""A benchmark's result for people: tables that fit 80 columns and use 100."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.assessment import Assessment, NodeResult, ends
from benchmark.comparison import Pair
from benchmark.intervals import Interval
from benchmark.lane import clock_of
from benchmark.scenario import Scenario
from reelnet.errors import printable
from reelnet.operating.console import NAME_CHARS, REASON_CHARS, headline
from reelnet.pricing import NANO

WIDE_COLUMNS = 100
"""From this width on, the interval of each quantile is shown beside it."""
MISSING = "–"
STAGE_NOTES = f"clock node: the node's own word. {MISSING}: p90 needs 10 good runs, p99 100."
WORDS = frozenset({"node", "stage", "clock", "what"})


def show(assessed: Assessment, console: Console) -> None:
    """Prints what was measured, the ranks, the scores, each node's stages, and the warnings last."""
    measured = assessed.measurement
    console.print(Text(describe(measured.scenario), style="bold"), soft_wrap=True)
    console.print(Text(setting(assessed)), soft_wrap=True)
    console.print(_ranking(assessed))
    console.print(_scores(assessed))
    if (trouble := _trouble(assessed)).row_count:
        console.print(trouble)
    console.print(_stages(assessed, wide=console.width >= WIDE_COLUMNS))
    console.print(Text(STAGE_NOTES, style="dim"), soft_wrap=True)
    console.print(Text(_starts(assessed)), soft_wrap=True)
    for warning in assessed.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), printable(warning, REASON_CHARS)))


def describe(scenario: Scenario) -> str:
    """One line: what each run is."""
    (spec, *_) = scenario.promises
    frames = f" × {spec.frames} frames" if spec.frames else ""
    steps = getattr(scenario.params, "num_inference_steps", "?")
    model = printable(scenario.model, NAME_CHARS)
    return f"{scenario.pipeline.name} · {model} · {spec.width}×{spec.height}{frames} · {steps} steps"


def setting(assessed: Assessment) -> str:
    """How it was measured, from where, and against what."""
    measured, request = assessed.measurement, assessed.measurement.scenario.request
    amount = f"{request.runs} runs" if request.duration_s is None else f"{request.duration_s:g} s"
    each = " a node, side by side in blocks of drawn order" if len(measured.recorded) > 1 else ""
    lines = [
        f"{measured.kind} {printable(measured.where, 200)}",
        f"{amount}{each}, {request.warmup} warm-up, {request.concurrency} at a time, seed {request.seed}",
        f"from {measured.machine.cpu}, {measured.machine.cores} cores, Python {measured.machine.python}",
    ]
    if reference := assessed.reference:
        lines.append(f"reference {reference.mpix_steps_per_s:.4g} Mpx·steps/s: {reference.source}")
    return "\n".join(lines)


def _ranking(assessed: Assessment) -> Table:
    """Throughput and score, best first; intervals stand under their figures."""
    noun = assessed.measurement.scenario.noun
    compared = ("rank", "to the first") if assessed.pairs else ()
    table = _table("throughput, with 95 % intervals", "node", f"{noun}/min", "Mpx·steps/s", "good", "score", *compared)
    for result in _results(assessed):
        f = result.figures
        rates = _figure(f.results_per_minute), _figure(f.mpix_steps_per_s)
        place = (_rank(result, assessed), _to_the_first(result, assessed)) if compared else ()
        _row(table, _name(result, assessed), *rates, f"{f.good}/{f.runs}", f"{result.score.total:.1f}", *place)
    return table


def _scores(assessed: Assessment) -> Table:
    """The parts of each score, and the price."""
    formula = "score = 100 × correctness × success × √throughput × ⁴√tail"
    table = _table(formula, "node", "correctness", "success", "throughput", "tail", "$ each")
    for result in _results(assessed):
        s = result.score
        parts = (f"{s.correctness:.0f}", f"{s.success:.3f}", f"{s.throughput:.3f}", f"{s.tail:.3f} {s.tail_of}")
        _row(table, _name(result, assessed), *parts, _price(result.figures.price_nano))
    return table


def _trouble(assessed: Assessment) -> Table:
    """Failures by class, and why a score is 0; without rows when all is well."""
    table = _table("failures", "node", "what", "times")
    for result in _results(assessed):
        for reason, times in result.figures.failures.items():
            _row(table, _name(result, assessed), printable(reason, NAME_CHARS), str(times))
        if result.score.reason:
            _row(table, _name(result, assessed), f"score 0: {printable(result.score.reason, REASON_CHARS)}", "")
    return table


def _stages(assessed: Assessment, *, wide: bool) -> Table:
    """Quantiles by stage, a section for each node; whose clock it was; intervals beside them, or of the total alone."""
    table = _table("seconds by stage of the good runs", "node", "stage", "clock", "n", "p50", "p90", "p99")
    for result in _results(assessed):
        name = _name(result, assessed)
        for stage, spread in result.figures.stages_s.items():
            clock = clock_of(assessed.measurement.kind, stage)
            cells = [_quantile(interval, wide=wide) for interval in spread.quantiles]
            _row(table, name, printable(stage, NAME_CHARS), clock, str(spread.n), *cells)
            if stage == "total" and not wide and any(under := [_ends(interval) for interval in spread.quantiles]):
                _row(table, "", "  95 %", "", "", *under)
            name = ""
        table.add_section()
    return table


def _starts(assessed: Assessment) -> str:
    """Cold and warm-up figures, which stand apart from the others."""
    measured = assessed.measurement
    lines = [] if measured.start_s is None else [f"cold start: the pool was complete after {measured.start_s:.1f} s"]
    for result in _results(assessed):
        f, parts = result.figures, []
        if f.first_job_s is not None:
            parts.append(f"first job {f.first_job_s:.3f} s ({'it loaded the model' if f.first_cold else 'model warm'})")
        if f.warmup_s:
            parts.append(f"warm-up {sum(f.warmup_s) / len(f.warmup_s):.3f} s (n = {len(f.warmup_s)})")
        if parts:
            lines.append(f"{_name(result, assessed)}: {', '.join(parts)}")
    return "\n".join(lines)


def _results(assessed: Assessment) -> Iterable[NodeResult]:
    """The pool first, where a broadcaster was measured, then its nodes; of one node, the pool says all."""
    if assessed.pool is None:
        return assessed.nodes
    return (assessed.pool, *(assessed.nodes if len(assessed.nodes) > 1 else ()))


def _rank(result: NodeResult, assessed: Assessment) -> str:
    """The rank, with = where it is shared."""
    if result.rank is None:
        return ""
    shared = sum(node.rank == result.rank for node in assessed.nodes) > 1
    return f"{result.rank}{'=' if shared else ''}"


def _to_the_first(result: NodeResult, assessed: Assessment) -> str:
    """The ratio to the first node's throughput, and what it is worth."""
    if not assessed.nodes or result is assessed.nodes[0] or result is assessed.pool:
        return ""
    pair = _pair(result.figures.name, assessed.nodes[0].figures.name, assessed.pairs)
    if pair is None:
        return "not compared"
    verdict = {"faster": "", "slower": "", "equal": " equal", "unclear": " unclear"}[pair.verdict]
    return f"{pair.ratio:.2f}{verdict}\n{ends(pair)}"


def _pair(left: str, right: str, pairs: Iterable[Pair]) -> Pair | None:
    """The comparison of two nodes, whichever stands on the left."""
    for pair in pairs:
        if (pair.left, pair.right) == (left, right):
            return pair
        if (pair.left, pair.right) == (right, left):
            return pair.turned()
    return None


def _figure(interval: Interval) -> str:
    """A figure; its interval under it."""
    if interval.value is None:
        return MISSING
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return _digits(interval.value)
    return f"{_digits(interval.value)}\n{_digits(interval.low)}–{_digits(interval.high)}"


def _digits(value: float) -> str:
    """Four digits that count, without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}" if value >= 0.01 else f"{value:.6f}"


def _price(interval: Interval | None) -> str:
    if interval is None or interval.value is None:
        return MISSING
    dollars = f"{interval.value / NANO:.9f}"
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return dollars
    return f"{dollars}\n{interval.low / NANO:.9f}–\n{interval.high / NANO:.9f}"


def _quantile(interval: Interval, *, wide: bool) -> str:
    if interval.value is None:
        return MISSING
    return f"{interval.value:.3f}{f' ({_ends(interval)})' if wide and _ends(interval) else ''}"


def _ends(interval: Interval) -> str:
    """Both ends; one that the samples cannot give is left out."""
    if interval.value is None or (interval.low is None and interval.high is None):
        return ""
    low, high = ("" if value is None else f"{value:.3f}" for value in (interval.low, interval.high))
    return f"{low}–{high}"


def _name(result: NodeResult, assessed: Assessment) -> str:
    return printable(assessed.measurement.name_of(result.figures.name), NAME_CHARS)


def _table(name: str, *headings: str) -> Table:
    """A table that needs few columns of the terminal; words stand left, figures right."""
    table = Table(title=headline(name), title_justify="left", box=SIMPLE_HEAD)
    table.pad_edge = False
    for heading in headings:
        table.add_column(heading, justify="left" if heading in WORDS else "right", overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: a stranger's text is no markup."""
    table.add_row(*(Text(cell) for cell in cells))

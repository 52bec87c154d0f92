"""The JSON report: its form, published as docs/benchmark-report.schema.json. Fields are only ever added to a form."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmark.assessment import Assessment, NodeResult
from benchmark.comparison import Pair
from benchmark.intervals import Interval
from benchmark.lane import Clock, Kind, clock_of
from benchmark.measure import Recorded, Sample, Stage

FORM: Final = 2
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(Part):
    """A figure with its 95 % interval; an end that the samples cannot give is null, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @classmethod
    def of(cls, interval: Interval) -> Figure:
        return cls(value=interval.value, low=interval.low, high=interval.high, note=interval.note)


class StageFigures(Part):
    """A stage of the good runs, seconds. `clock`: who measured it; a node's own figures are its word."""

    clock: Clock
    n: int
    p50: Figure
    p90: Figure
    p99: Figure
    longest: float


class ScoreParts(Part):
    """100 × correctness × success × throughput^½ × tail^¼; see docs/benchmark.md."""

    total: float = Field(ge=0, le=100)
    throughput: Share
    tail: Share
    tail_of: str
    success: Share
    correctness: Share
    reason: str = Field(description="Why the score is 0; empty otherwise.")


class NodeReport(Part):
    """One node, runner, or the pool behind a broadcaster."""

    name: str
    label: str = Field(description="What a reader knows it by.")
    rank: int | None = Field(description="1 + how many nodes are shown to be faster; null when it was not compared.")
    runs: int
    good: int
    throughput_clock: Clock
    results_per_minute: Figure
    mpix_steps_per_s: Figure
    price_nano: Figure | None = Field(description="Nano-dollars a result; null where nothing is sold.")
    variation: float | None = Field(description="Standard deviation over mean of the good runs' seconds.")
    failures: dict[str, int] = Field(description="Runs that failed, by class/code.")
    wrong: dict[str, int] = Field(description="Outputs that no honest node delivers, by finding; warm-up included.")
    ready_s: float | None = Field(description="Start of a pool of its own to this node's models being served.")
    first_job_s: float | None
    first_cold: bool = Field(description="Whether a model was loaded for the first job.")
    warmup_s: list[float]
    agreement: Share | None = Field(description="Share of its outputs that look like another node's for the same job.")
    score: ScoreParts
    stages: dict[str, StageFigures]


class Comparison(Part):
    """`left`'s throughput over `right`'s, with a 95 % interval over all comparisons together."""

    left: str
    right: str
    ratio: float
    low: float | None
    high: float | None
    blocks: int
    verdict: Literal["faster", "slower", "equal", "unclear"] = Field(description="Of `left`; equal is within 10 %.")


class SampleReport(Part):
    """One run."""

    seed: int
    warmup: bool
    node: str
    place: int = Field(description="Number of the job in the order in which the jobs were made.")
    total_s: float
    timings_s: dict[str, float]
    price_nano: int | None
    cold: bool
    failure: str | None
    code: str
    findings: list[str]


class MachineReport(Part):
    """The machine that the benchmark ran on; a node's may be another. `busy`: share of its CPU just before."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    busy: float | None


class ScenarioReport(Part):
    """What each run was. `params` without seed and prompts, which differ by run."""

    pipeline: str
    model: str
    params: dict[str, Any]
    input_size: tuple[int, int] | None
    results: int
    pixel_steps: int
    runs: int | None
    duration_s: float | None
    warmup: int
    concurrency: int
    seed: int


class ReferenceReport(Part):
    """What counts as a throughput of 1."""

    mpix_steps_per_s: float
    source: str


class Report(Part):
    """A benchmark's whole result. Money in nano-dollars, times in seconds."""

    form: Literal[2] = FORM
    target: Kind
    software: str
    machine: MachineReport
    scenario: ScenarioReport
    reference: ReferenceReport | None
    start_s: float | None = Field(description="Seconds until a pool of its own was complete; null for another target.")
    wall_s: float
    pool: NodeReport | None
    nodes: list[NodeReport]
    comparisons: list[Comparison]
    warnings: list[str]
    samples: list[SampleReport]


def document(assessed: Assessment, software: str) -> Report:
    """The report of an assessment; `software` is this program's version."""
    m, reference = assessed.measurement, assessed.reference
    machine = {name: getattr(m.machine, name) for name in MachineReport.model_fields}
    return Report(
        target=m.kind,
        software=software,
        machine=MachineReport(**machine),
        scenario=_scenario(assessed),
        reference=reference and ReferenceReport(mpix_steps_per_s=reference.mpix_steps_per_s, source=reference.source),
        start_s=m.start_s,
        wall_s=m.wall_s,
        pool=_node(assessed.pool, assessed, pool=True) if assessed.pool else None,
        nodes=[_node(node, assessed) for node in assessed.nodes],
        comparisons=[_comparison(pair) for pair in assessed.pairs],
        warnings=list(assessed.warnings),
        samples=[row for recorded in m.recorded for row in _samples(recorded)],
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return Report.model_json_schema(mode="serialization")


def _scenario(assessed: Assessment) -> ScenarioReport:
    scenario = assessed.measurement.scenario
    request, source = scenario.request, scenario.source
    return ScenarioReport(
        pipeline=scenario.pipeline.name,
        model=scenario.model,
        params=scenario.params.model_dump(exclude={"seed", "prompt", "negative_prompt"}),
        input_size=(source.width, source.height) if source else None,
        results=scenario.results,
        pixel_steps=scenario.work.pixel_steps,
        runs=request.runs if request.duration_s is None else None,
        duration_s=request.duration_s,
        warmup=request.warmup,
        concurrency=request.concurrency,
        seed=request.seed,
    )


def _node(result: NodeResult, assessed: Assessment, *, pool: bool = False) -> NodeReport:
    f, m = result.figures, assessed.measurement
    return NodeReport(
        name=f.name,
        label=m.name_of(f.name),
        rank=result.rank,
        runs=f.runs,
        good=f.good,
        throughput_clock="broadcaster" if m.kind == "broadcaster" and not pool else "benchmark",
        results_per_minute=Figure.of(f.results_per_minute),
        mpix_steps_per_s=Figure.of(f.mpix_steps_per_s),
        price_nano=Figure.of(f.price_nano) if f.price_nano else None,
        variation=f.variation,
        failures=dict(f.failures),
        wrong=dict(f.wrong),
        ready_s=m.ready_s.get(f.name),
        first_job_s=f.first_job_s,
        first_cold=f.first_cold,
        warmup_s=list(f.warmup_s),
        agreement=m.agreement.get(f.name),
        score=ScoreParts(**{name: getattr(result.score, name) for name in ScoreParts.model_fields}),
        stages={name: _stage(m.kind, name, stage) for name, stage in f.stages_s.items()},
    )


def _stage(kind: Kind, name: str, stage: Stage) -> StageFigures:
    p50, p90, p99 = (Figure.of(quantile) for quantile in stage.quantiles)
    return StageFigures(clock=clock_of(kind, name), n=stage.n, p50=p50, p90=p90, p99=p99, longest=stage.longest)


def _comparison(pair: Pair) -> Comparison:
    return Comparison.model_validate({name: getattr(pair, name) for name in Comparison.model_fields})


def _samples(recorded: Recorded) -> list[SampleReport]:
    rows = [(True, sample) for sample in recorded.warmup] + [(False, sample) for sample in recorded.samples]
    return [_sample(sample, warmup) for warmup, sample in rows]


def _sample(sample: Sample, warmup: bool) -> SampleReport:
    values = {name: getattr(sample, name) for name in SampleReport.model_fields if name != "warmup"}
    values |= {"timings_s": dict(sample.timings_s), "findings": list(sample.findings)}
    return SampleReport(warmup=warmup, **values)

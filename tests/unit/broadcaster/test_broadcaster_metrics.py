"""What the broadcaster counts: each job, attempt and refusal once, and money to the nano-dollar."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import Message, Receive, Scope, Send

from broadcaster.broadcaster_metrics import HTTP_REASONS, REASON, STAGE, BroadcasterMetrics, CountedHttp
from broadcaster.job import JobProgress, JobRequest, now_ms
from broadcaster.refusal import Reason
from reelnet.errors import CanceledError, DeadlineError, NodeError, ReelnetError, RefusedError
from reelnet.jobs import JobId
from reelnet.metrics import new_registry
from reelnet.pipelines import PIPELINES
from tests.fakes.exposition import Exposition

STAGES_S = {"queue": 0.5, "run": 2.0, "transfer": 0.2, "check": 0.05}


class Bench:
    """A broadcaster's metrics and jobs to count."""

    def __init__(self, *models: str, keys: tuple[str, ...] = ()) -> None:
        self.registry: CollectorRegistry = new_registry("broadcaster")
        self.nodes: list[Any] = []
        self.metrics = BroadcasterMetrics(self.registry, lambda: self.nodes, models, keys)
        self._jobs = 0

    def begin(self, model: str = "acme/model", key: str = "") -> JobProgress:
        """A job that was let in: 64 × 64 pixels, 2 steps."""
        self._jobs += 1
        pipeline = PIPELINES["text-to-image"]
        params = pipeline.parse({"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1})
        request = JobRequest(
            JobId(f"job-{self._jobs}"), pipeline, model, params, (), now_ms() + 60_000, None, key_name=key
        )
        self.metrics.let_in()
        return JobProgress(request)

    def attempt(self, job: JobProgress) -> JobProgress:
        """The job's next attempt begins."""
        job.begin_attempt("node")
        self.metrics.attempt_began(job)
        return job

    def deliver(self, job: JobProgress, nano: int = 0) -> None:
        """The attempt and the job end well."""
        job.stages_s, job.charged_nano, job.owed_nano = STAGES_S, nano, nano
        self.end(job, None)
        self.metrics.finished(job, None)

    def end(self, job: JobProgress, error: ReelnetError | None) -> None:
        """The attempt ends."""
        self.metrics.attempt_left(job)
        self.metrics.attempt(job, job.ended_attempt(error))

    @property
    def said(self) -> Exposition:
        """What a scrape would show."""
        return Exposition(generate_latest(self.registry).decode())


def test_a_job_is_counted_once_by_its_end() -> None:
    """Each outcome with its class; and while a job runs it is in progress."""
    bench = Bench()
    errors: list[ReelnetError | None] = [None, NodeError("x"), DeadlineError("x"), CanceledError("x"), NodeError("x")]
    jobs = [bench.begin() for _ in errors]
    assert bench.said.sum("reelnet_jobs_in_progress") == 5
    for job, error in zip(jobs, errors, strict=True):
        bench.metrics.finished(job, error)
    said = bench.said
    assert said.sum("reelnet_jobs_in_progress") == 0
    assert said.sum("reelnet_jobs_total") == said.sum("reelnet_job_seconds_count") == 5
    assert said.sum("reelnet_jobs_total", outcome="ok", class_="none", model="acme/model") == 1
    assert said.sum("reelnet_jobs_total", outcome="failed", class_="node") == 2
    assert said.sum("reelnet_jobs_total", outcome="expired", class_="deadline") == 1
    assert said.sum("reelnet_jobs_total", outcome="canceled", class_="canceled") == 1


def test_every_attempt_that_began_ends() -> None:
    """One that its job's end cuts off ends as its job does; a second one of the same job is a fail-over."""
    bench = Bench()
    good = bench.attempt(bench.begin())
    bench.end(good, NodeError("x"))
    bench.deliver(bench.attempt(good))
    cut = bench.attempt(bench.begin())
    assert bench.said.sum("reelnet_attempts_in_progress") == 1
    bench.metrics.finished(cut, CanceledError("the client left"))
    said = bench.said
    assert said.sum("reelnet_attempts_in_progress") == 0
    assert said.sum("reelnet_attempts_total") == good.attempts + cut.attempts == 3
    assert said.sum("reelnet_attempts_total", outcome="ok") == 1
    assert said.sum("reelnet_attempts_total", outcome="failed", class_="node") == 1
    assert said.sum("reelnet_attempts_total", outcome="canceled") == 1
    assert said.sum("reelnet_failovers_total", pipeline="text-to-image") == 1


def test_work_and_money_are_those_of_good_jobs() -> None:
    """Pixel·steps, pixels and nano-dollars of jobs that went well, and nothing of the others."""
    bench = Bench()
    for _ in range(3):
        bench.deliver(bench.attempt(bench.begin()), nano=19)
    bench.metrics.finished(bench.attempt(bench.begin()), NodeError("x"))
    said = bench.said
    assert said.sum("reelnet_work_pixel_steps_total") == 3 * 64 * 64 * 2
    assert said.sum("reelnet_work_output_pixels_total") == 3 * 64 * 64
    assert said.sum("reelnet_charged_dollars_total") == said.sum("reelnet_owed_dollars_total") == 57e-9


def test_what_is_withheld_is_counted_as_paid() -> None:
    """The job failed, its attempt went well, and the node is owed for it: sums have to agree with the journal."""
    bench = Bench()
    job = bench.attempt(bench.begin())
    job.charged_nano = job.owed_nano = 5
    job.withheld = True
    bench.end(job, None)
    bench.metrics.finished(job, RefusedError("x", code="nsfw"))
    said = bench.said
    assert said.sum("reelnet_jobs_total", outcome="failed", class_="refused") == 1
    assert said.sum("reelnet_attempts_total", outcome="ok") == 1
    assert said.sum("reelnet_owed_dollars_total") == said.sum("reelnet_charged_dollars_total") == 5e-9
    assert said.sum("reelnet_work_pixel_steps_total") == 64 * 64 * 2
    assert said.sum("reelnet_job_stage_seconds_count") == 0


def test_stages_of_a_good_job_are_observed() -> None:
    """Each of the stages that the page names, in seconds."""
    bench = Bench()
    bench.deliver(bench.attempt(bench.begin()))
    for stage, seconds in STAGES_S.items():
        assert f"`{stage}`" in STAGE.values
        assert bench.said.sum("reelnet_job_stage_seconds_sum", stage=stage) == seconds
        assert bench.said.sum("reelnet_job_stage_seconds_count", stage=stage) == 1


def test_each_key_has_its_jobs_seconds_and_price() -> None:
    """By its name; what was not delivered costs nothing, and jobs without a key stand together."""
    bench = Bench(keys=("school",))
    for key, run_s in (("school", 1.5), ("school", 2.0), ("", 4.0)):
        job = bench.attempt(bench.begin(key=key))
        job.timings_s = {"node_run": run_s}
        bench.deliver(job, nano=7)
    bench.metrics.finished(bench.begin(key="school"), NodeError("x"))
    said = bench.said
    assert said.sum("reelnet_key_jobs_total", key="school", outcome="ok") == 2
    assert said.sum("reelnet_key_jobs_total", key="school", outcome="failed") == 1
    assert said.sum("reelnet_key_jobs_total", key="none", outcome="ok") == 1
    assert said.sum("reelnet_key_run_seconds_total", key="school") == 3.5
    assert said.sum("reelnet_key_charged_dollars_total", key="school") == 14e-9
    assert said.sum("reelnet_key_charged_dollars_total") == said.sum("reelnet_charged_dollars_total")


def test_keys_are_few_labels() -> None:
    """Those of the file always have theirs; of names that come later some do."""
    names = tuple(f"key-{number}" for number in range(300))
    bench = Bench(keys=names[:250])
    for name in names:
        bench.metrics.finished(bench.begin(key=name), None)
    said = bench.said
    assert said.sum("reelnet_key_jobs_total", key="key-249") == 1
    assert said.sum("reelnet_key_jobs_total", key="other") == 50


def test_models_of_strangers_are_few() -> None:
    """A node that makes up models fills 200 labels at most, and the catalogue's models keep theirs."""
    bench = Bench("mine")
    for number in range(300):
        bench.metrics.finished(bench.begin(f"made-up-{number}"), None)
    bench.metrics.finished(bench.begin("mine"), None)
    said = bench.said
    assert len({s.labels["model"] for s in said.samples if s.name == "reelnet_jobs_total"}) == 201
    assert said.sum("reelnet_jobs_total", model="other") == 101
    assert said.sum("reelnet_jobs_total", model="mine") == 1


def test_nodes_are_counted_not_named() -> None:
    """Up, down and those that refuse, the clocks that are farthest off, and no label that names one."""
    bench = Bench()
    bench.nodes = [
        SimpleNamespace(up=True, refuses=False, skew_s=61.0),
        SimpleNamespace(up=True, refuses=False, skew_s=-2.5),
        SimpleNamespace(up=False, refuses=False, skew_s=None),
        SimpleNamespace(up=False, refuses=True, skew_s=0.1),
    ]
    assert [bench.said.sum("reelnet_nodes", state=state) for state in ("up", "down", "refuses")] == [2, 1, 1]
    skews = [bench.said.sum("reelnet_peer_clock_skew_seconds", side=side) for side in ("ahead", "behind")]
    assert skews == [61.0, 2.5]


def test_the_journal_is_watched() -> None:
    """How far it is behind, and whether it can be written."""
    bench, journal = Bench(), SimpleNamespace(backlog=7, failing=True)
    bench.metrics.watch_journal(journal)  # type: ignore[arg-type]
    assert bench.said.sum("reelnet_journal_backlog_rows") == 7
    assert bench.said.sum("reelnet_journal_failing") == 1


@pytest.mark.parametrize("status", [*HTTP_REASONS, 500, 418])
async def test_a_request_refused_over_http_has_the_reason_of_its_status(status: int) -> None:
    """Each status that the API refuses with is a reason of its own or shares one; any other is `other`."""
    bench = Bench()
    await post(bench, status)
    assert bench.said.sum("reelnet_refusals_total") == 1
    assert bench.said.sum("reelnet_refusals_total", reason=HTTP_REASONS.get(status, "other")) == 1


async def test_a_job_that_began_is_no_refusal() -> None:
    """A failed job's status counts in the jobs alone, and so does one that went well."""
    bench = Bench()
    await post(bench, 500, meanwhile=bench.begin)
    await post(bench, 200, meanwhile=bench.begin)
    assert bench.said.sum("reelnet_refusals_total") == 0


@pytest.mark.parametrize("reason", Reason)
async def test_a_refusal_of_the_gateway_counts_once(reason: Reason) -> None:
    """The gateway names the reason, which the page knows; the answer's 503 does not count it again."""
    bench = Bench()
    assert f"`{reason}`" in REASON.values
    await post(bench, 503, meanwhile=lambda: bench.metrics.refused(reason))
    assert bench.said.sum("reelnet_refusals_total", reason=reason) == bench.said.sum("reelnet_refusals_total") == 1


async def test_a_request_that_no_node_took_is_a_refusal() -> None:
    """It was let in, and is in progress no more; neither jobs nor attempts count it."""
    bench = Bench()

    def turned_away() -> None:
        bench.metrics.attempt_left(bench.attempt(bench.begin()))
        bench.metrics.turned_away(Reason.FULL)

    await post(bench, 503, meanwhile=turned_away)
    said = bench.said
    assert said.sum("reelnet_refusals_total", reason="full") == said.sum("reelnet_refusals_total") == 1
    for name in ("jobs_total", "attempts_total", "failovers_total", "jobs_in_progress", "attempts_in_progress"):
        assert said.sum(f"reelnet_{name}") == 0


async def test_a_request_after_another_is_looked_at_anew() -> None:
    """What one request settled says nothing of the next one of the same connection."""
    bench = Bench()
    await post(bench, 200, meanwhile=bench.begin)
    await post(bench, 401)
    assert bench.said.sum("reelnet_refusals_total", reason="key") == 1


@pytest.mark.parametrize("scope", [{"type": "http", "method": "GET"}, {"type": "lifespan"}])
async def test_what_asks_for_no_job_is_let_through(scope: dict[str, Any]) -> None:
    """Media, health and lifespan events are not counted."""
    bench = Bench()
    await post(bench, 404, scope=scope)
    assert bench.said.sum("reelnet_refusals_total") == 0


async def post(bench: Bench, status: int, meanwhile: Any = lambda: None, scope: dict[str, Any] | None = None) -> None:
    """A request through the counting front, answered with this status."""
    sent: list[Message] = []

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        meanwhile()
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the counting front reads nothing")

    await CountedHttp(api, bench.metrics)(scope or {"type": "http", "method": "POST"}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]

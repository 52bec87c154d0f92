"""The broadcaster's metrics, all of them, defined in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadcaster.inspector import InspectionSettings, Inspector
from broadcaster.job import EndedAttempt, JobProgress
from broadcaster.journal import Journal
from broadcaster.keys import NO_KEY
from broadcaster.previews import EARLY, REFUSED, SHOWN
from broadcaster.refusal import Reason
from broadcaster.registry import NodeRecord
from reelnet.clips import ClipFacts, ClipLimits
from reelnet.clocks import now_ms
from reelnet.errors import ReelnetError
from reelnet.inspection import Handling, InputLimits, OutputFacts, PictureFacts
from reelnet.metrics import CLASS, OTHER, OUTCOME, PIPELINE, Bounded, Label, counter, ending, gauge, seconds
from reelnet.pipelines import PIPELINES, MediaSpec
from reelnet.pricing import NANO

HTTP_REASONS = {
    400: "malformed",
    401: "key",
    403: "origin",
    404: "not_found",
    405: "not_found",
    408: "late",
    413: "too_large",
    415: "media_type",
    422: "invalid",
    429: "key_limit",
    499: "left",
    503: "no_node",
}
_STATUSES = ", ".join(
    f"`{reason}` ({', '.join(str(status) for status, other in HTTP_REASONS.items() if other == reason)})"
    for reason in dict.fromkeys(HTTP_REASONS.values())
)
MODEL = Label("model", "the catalogue's models and the first others, 200 in all, then `other`")
REASON = Label(
    "reason",
    "the broadcaster's own `jobs`, `draining`, `journal_full`, `journal`, `media`, `disk_full`; `no_node` (none that "
    "suits the job is up), `full` (the last node that was asked was busy), `refused` (it refused, or cannot do it); "
    f"by HTTP status {_STATUSES}; `other`",
)
KEY = Label("key", "the names of the keys in `keys_file`, a key's id where it has none; `none` without a key; `other`")
STAGE = Label(
    "stage",
    "`queue` (until a runner began, failed attempts included), `run` (until the last output began to arrive), "
    "`transfer` (until it had arrived), `check` (until all was checked, kept and acknowledged)",
)
JOBS = counter(
    "reelnet_jobs_total", "Jobs that ended; a refused request is none.", PIPELINE, MODEL, OUTCOME, CLASS
)  # fmt: skip
JOBS_IN_PROGRESS = gauge("reelnet_jobs_in_progress", "Requests that were let in, for which a node is sought or works.")
JOB_SECONDS = seconds(
    "reelnet_job_seconds", "From a job's beginning to its end, fail-overs included.", PIPELINE, OUTCOME
)
STAGE_SECONDS = seconds(
    "reelnet_job_stage_seconds", "The stages of jobs that went well, one after the other.", PIPELINE, STAGE
)
ATTEMPTS = counter(
    "reelnet_attempts_total", "Attempts on nodes that ended; one that is cut off ends as its job does.",
    PIPELINE, OUTCOME, CLASS,
)  # fmt: skip
ATTEMPTS_IN_PROGRESS = gauge("reelnet_attempts_in_progress", "Attempts on nodes that are under way.")
FAILOVERS = counter("reelnet_failovers_total", "Attempts after a job's first one that ended.", PIPELINE)
REFUSALS = counter(
    "reelnet_refusals_total", "POST requests that began no job; they have no row and count nowhere else.", REASON
)
PIXEL_STEPS = counter(
    "reelnet_work_pixel_steps_total", "Work done for jobs that nodes delivered: pixels × steps × images or frames.",
    PIPELINE, MODEL, unit="pixels × steps",
)  # fmt: skip
OUTPUT_PIXELS = counter(
    "reelnet_work_output_pixels_total", "Pixels that nodes delivered.", PIPELINE, MODEL, unit="pixels"
)
CHARGED = counter(
    "reelnet_charged_dollars_total", "Charged for jobs that nodes delivered: nano-dollars, divided by 10⁹.",
    PIPELINE, MODEL, unit="dollars",
)  # fmt: skip
OWED = counter(
    "reelnet_owed_dollars_total", "Owed to nodes for jobs that they delivered: nano-dollars, divided by 10⁹.",
    PIPELINE, MODEL, unit="dollars",
)  # fmt: skip
KEY_JOBS = counter("reelnet_key_jobs_total", "Jobs of each API key that ended.", KEY, OUTCOME)
KEY_RUN_SECONDS = counter(
    "reelnet_key_run_seconds_total", "What nodes worked on what they delivered for each key.", KEY, unit="seconds"
)
KEY_CHARGED = counter(
    "reelnet_key_charged_dollars_total", "Charged to each key: nano-dollars, divided by 10⁹.", KEY, unit="dollars"
)
CHECKS = counter(
    "reelnet_checks_total", "Files that were checked in a child process.",
    Label("kind", "`picture`, `clip` (an app's inputs), `output` (a node's)"), OUTCOME, CLASS,
)  # fmt: skip
PREVIEWS = counter(
    "reelnet_previews_total", "Previews that nodes sent.",
    Label(
        "outcome",
        "`shown`, `early` (`limits.preview_s` after the last were not over), `refused` (not asked for, no small JPEG)",
    ),
)  # fmt: skip
NODES = gauge("reelnet_nodes", "Nodes of the configured pool.", Label("state", "`up`, `down`, `refuses`"))
SKEW = gauge(
    "reelnet_peer_clock_skew_seconds", "How far the clocks of nodes differ from this machine's, at most.",
    Label("side", "`ahead`, `behind` of this machine"), unit="seconds",
)  # fmt: skip
JOURNAL_BACKLOG = gauge("reelnet_journal_backlog_rows", "Rows that no commit has taken up yet.", unit="rows")
JOURNAL_FAILING = gauge("reelnet_journal_failing", "1 while the database refuses what is written, else 0.")
MEDIA_BYTES = gauge("reelnet_media_bytes", "Results that are kept, as of the last sweep.", unit="bytes")
FAMILIES = (
    JOBS, JOBS_IN_PROGRESS, JOB_SECONDS, STAGE_SECONDS, ATTEMPTS, ATTEMPTS_IN_PROGRESS, FAILOVERS, REFUSALS,
    PIXEL_STEPS, OUTPUT_PIXELS, CHARGED, OWED, KEY_JOBS, KEY_RUN_SECONDS, KEY_CHARGED,
    CHECKS, PREVIEWS, NODES, SKEW, JOURNAL_BACKLOG, JOURNAL_FAILING, MEDIA_BYTES,
)  # fmt: skip


class _Request:
    """One HTTP request; `settled` once the gateway has taken its job or counted its refusal."""

    settled = False


_request: ContextVar[_Request | None] = ContextVar("request", default=None)


class BroadcasterMetrics:
    """The metrics of one broadcaster. Models of strangers become labels up to a number; those of `models` always do.

    `keys` are the names of the API keys, which have labels of their own too.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        nodes: Callable[[], Sequence[NodeRecord]],
        models: Iterable[str] = (),
        keys: Iterable[str] = (),
    ) -> None:
        self._registry = registry
        self._model = Bounded(reserved=models)
        self._key = Bounded(reserved=(NO_KEY, *keys))
        self._open: set[str] = set()
        self._jobs_open = 0
        self._jobs = JOBS.counter(registry)
        self._seconds = JOB_SECONDS.histogram(registry)
        self._stages = STAGE_SECONDS.histogram(registry)
        self._attempts = ATTEMPTS.counter(registry)
        self._failovers = FAILOVERS.counter(registry, PIPELINES)
        self._refusals = REFUSALS.counter(registry, sorted({*Reason, *HTTP_REASONS.values(), OTHER}))
        self._work = PIXEL_STEPS.sums(registry), OUTPUT_PIXELS.sums(registry)
        self._money = CHARGED.sums(registry, NANO), OWED.sums(registry, NANO)
        self._key_jobs = KEY_JOBS.counter(registry)
        self._key_run_ms = KEY_RUN_SECONDS.sums(registry, 1000)
        self._key_charged = KEY_CHARGED.sums(registry, NANO)
        self._checks = CHECKS.counter(registry)
        self._previews = PREVIEWS.counter(registry, (SHOWN, EARLY, REFUSED))
        self.media_bytes = MEDIA_BYTES.gauge(registry)
        JOBS_IN_PROGRESS.read(registry, lambda: {(): self._jobs_open})
        ATTEMPTS_IN_PROGRESS.read(registry, lambda: {(): len(self._open)})
        NODES.read(registry, lambda: _by_state(nodes()))
        SKEW.read(registry, lambda: _skews(nodes()))

    def reserve(self, models: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
        """These models and names of keys are labels from now on, whoever else has become one."""
        self._model.reserve(models)
        self._key.reserve(keys)

    def watch_journal(self, journal: Journal) -> None:
        """Shows how the journal fares, from now on."""
        JOURNAL_BACKLOG.read(self._registry, lambda: {(): journal.backlog})
        JOURNAL_FAILING.read(self._registry, lambda: {(): journal.failing})

    def refused(self, reason: Reason) -> None:
        """A valid request was not let in."""
        self._refusals[(reason.value,)].inc()
        _settle()

    def turned_away(self, reason: Reason) -> None:
        """A request that was let in began no job: no node took it."""
        self._jobs_open -= 1
        self._refusals[(reason.value,)].inc()

    def refused_over_http(self, status: int) -> None:
        """A request was answered with this status before it came to the gateway."""
        self._refusals[(HTTP_REASONS.get(status, OTHER),)].inc()

    def let_in(self) -> None:
        """A request was let in."""
        self._jobs_open += 1
        _settle()

    def attempt_began(self, job: JobProgress) -> None:
        """The job's next attempt begins."""
        self._open.add(job.request.id)

    def attempt_left(self, job: JobProgress) -> None:
        """The job's attempt is not under way any more."""
        self._open.discard(job.request.id)

    def attempt(self, job: JobProgress, ended: EndedAttempt) -> None:
        """An attempt of a job ended, with a failure or well."""
        pipeline = job.request.pipeline.name
        self._attempts[(pipeline, *ending(ended.error))].inc()
        if ended.number > 1:
            self._failovers[(pipeline,)].inc()

    def finished(self, job: JobProgress, error: ReelnetError | None) -> None:
        """A job reached its terminal state; an attempt that it had under way was cut off."""
        self._jobs_open -= 1
        if job.request.id in self._open:
            self.attempt_left(job)
            self.attempt(job, job.ended_attempt(error))
        pipeline, model = job.request.pipeline.name, self._model(job.request.model)
        outcome, failure = ending(error)
        self._jobs[pipeline, model, outcome, failure].inc()
        self._key_jobs[self._key(job.request.key_name or NO_KEY), outcome].inc()
        self._seconds[pipeline, outcome].observe(max(0, now_ms() - job.created_ms) / 1000)
        if error is None:
            self._timed(pipeline, job)
        if error is None or job.withheld:
            self._paid(pipeline, model, job)

    def checked(self, kind: str, error: ReelnetError | None) -> None:
        """A file was checked, and is what it should be or not."""
        self._checks[(kind, *ending(error))].inc()

    def previewed(self, outcome: str) -> None:
        """A node sent a preview, which an app gets or not: SHOWN, EARLY, REFUSED."""
        self._previews[(outcome,)].inc()

    def _timed(self, pipeline: str, job: JobProgress) -> None:
        for stage, spent_s in job.stages_s.items():
            self._stages[pipeline, stage].observe(spent_s)

    def _paid(self, pipeline: str, model: str, job: JobProgress) -> None:
        work, offer = job.request.work, (pipeline, model)
        amounts = (work.pixel_steps, work.output_pixels, job.charged_nano, job.owed_nano)
        for sums, amount in zip((*self._work, *self._money), amounts, strict=True):
            sums[offer] += amount
        key = self._key(job.request.key_name or NO_KEY)
        self._key_run_ms[(key,)] += round((job.run_s or 0) * 1000)
        self._key_charged[(key,)] += job.charged_nano


class CountedHttp:
    """Stands before the HTTP API and counts the requests for a job that never came to the gateway."""

    def __init__(self, app: ASGIApp, metrics: BroadcasterMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = _Request()
        _request.set(request)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400 and not request.settled:
                self._metrics.refused_over_http(message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class CountedInspector(Inspector):
    """An inspector whose checks are counted by their outcome."""

    def __init__(self, settings: InspectionSettings, metrics: BroadcasterMetrics) -> None:
        super().__init__(settings)
        self._metrics = metrics

    async def picture(
        self,
        path: Path,
        *,
        stripped_to: Path | None = None,
        limits: InputLimits | None = None,
        handling: Handling | None = None,
    ) -> PictureFacts:
        """As the inspector's."""
        bounds, wanted = limits or InputLimits(), handling or Handling()
        try:
            facts = await super().picture(path, stripped_to=stripped_to, limits=bounds, handling=wanted)
        except ReelnetError as error:
            self._metrics.checked("picture", error)
            raise
        self._metrics.checked("picture", None)
        return facts

    async def clip(self, path: Path, *, stripped_to: Path, limits: ClipLimits | None = None) -> ClipFacts:
        """As the inspector's."""
        try:
            facts = await super().clip(path, stripped_to=stripped_to, limits=limits or ClipLimits())
        except ReelnetError as error:
            self._metrics.checked("clip", error)
            raise
        self._metrics.checked("clip", None)
        return facts

    async def output(self, source: Path | bytes, media_type: str, spec: MediaSpec, max_bytes: int) -> OutputFacts:
        """As the inspector's."""
        try:
            facts = await super().output(source, media_type, spec, max_bytes)
        except ReelnetError as error:
            self._metrics.checked("output", error)
            raise
        self._metrics.checked("output", None)
        return facts


def _settle() -> None:
    if request := _request.get():
        request.settled = True


def _by_state(nodes: Sequence[NodeRecord]) -> dict[tuple[str, ...], float]:
    up, refuse = sum(node.up for node in nodes), sum(node.refuses and not node.up for node in nodes)
    return {("up",): up, ("refuses",): refuse, ("down",): len(nodes) - up - refuse}


def _skews(nodes: Sequence[NodeRecord]) -> dict[tuple[str, ...], float]:
    told = [node.skew_s for node in nodes if node.skew_s is not None]
    return {("ahead",): max([*told, 0.0]), ("behind",): -min([*told, 0.0])}

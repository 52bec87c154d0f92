"""The model thread, the media thread, and the one permit between them and the callers."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from reelnet.errors import BusyError, FailureClass, NodeError, OutOfMemoryError, ReelnetError, TransientError
from reelnet.pipelines import MediaSpec
from reelnet.warnings import JobWarning
from runner.activity import Activity, as_failure
from runner.backend import Backend, ModelInfo, Rendered, RunnerJob, SetupError
from runner.encoding import Encoder
from runner.events import Done, Failed, Output, OutputEnd, Progress, chunks
from runner.lane import Call, Lane
from runner.metrics import RunnerMetrics
from runner.previews import Previewer
from runner.provenance import note_of

log = structlog.get_logger()

MEDIA_DEPTH = 2
"""Outputs that may wait to be encoded; the model thread waits with the next one."""
_SUSPECT = frozenset({FailureClass.OOM, FailureClass.NODE})
"""Failures after which the backend has to prove that its device still computes."""


class State(enum.StrEnum):
    """What a runner is fit for. SETUP_FAILED and DEFUNCT end only with the process."""

    STARTING = "STARTING"
    LOADING = "LOADING"
    READY = "READY"
    BUSY = "BUSY"
    SETUP_FAILED = "SETUP_FAILED"
    DEFUNCT = "DEFUNCT"


@dataclass(frozen=True, slots=True)
class Status:
    """State at one moment. `since_s`: seconds since the state began or, while BUSY, since the job last moved."""

    state: State
    reason: str
    job: str | None
    step: Progress | None
    since_s: float


class Worker:
    """Loads the model and runs one job at a time on the model thread; encodes on the media thread what is not yet.

    The permit is taken by `submit` and returned when the model thread has left the job, whether it was delivered,
    failed or canceled: the device never computes for two jobs. Encoding may still go on then.
    `current` is the job that holds the permit. `clock` gives the seconds of jobs and their stages.
    """

    def __init__(
        self,
        backend: Backend,
        encoder: Encoder,
        metrics: RunnerMetrics,
        previewer: Previewer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Activity | None = None
        self.info: ModelInfo | None = None
        self._backend = backend
        self._encoder = encoder
        self._metrics = metrics
        self._model = Lane("model", depth=0)
        self._media = Lane("media", depth=MEDIA_DEPTH)
        self._previewer = previewer or Previewer()
        self._clock = clock
        self._active: dict[str, Activity] = {}
        self._lock = threading.RLock()
        self._state, self._reason, self._changed = State.STARTING, "", time.monotonic()

    # What the event loop calls.

    def start(self) -> None:
        """Starts the threads and begins to load the model."""
        self._model.start()
        self._media.start()
        self._previewer.start()
        self._model.put(self._load)

    async def stop(self, timeout_s: float) -> bool:
        """Cancels what runs, closes the backend and ends the threads. False when one of them does not end in time."""
        self.cancel_all()
        return await asyncio.to_thread(self._close, timeout_s)

    @property
    def ended(self) -> bool:
        """Whether the threads have ended."""
        return not (self._model.alive or self._media.alive or self._previewer.alive)

    @property
    def defunct_s(self) -> float | None:
        """Seconds since the device was found lost; None while it is not."""
        with self._lock:
            return time.monotonic() - self._changed if self._state is State.DEFUNCT else None

    def status(self) -> Status:
        """What `GET /health` says."""
        with self._lock:
            current, state, reason, changed = self.current, self._state, self._reason, self._changed
        if current is None:
            return Status(state, reason, None, None, time.monotonic() - changed)
        stopping = "told to stop" if current.canceled.is_set() else reason
        return Status(state, stopping, current.job.job_id, current.progress, current.idle_s)

    def memory_bytes(self) -> int:
        """The most of its device's memory that the model has taken."""
        return self._backend.memory_bytes()

    def require_loaded(self) -> ModelInfo:
        """The model, whether a job is running or not. Raises 503 while there is no usable one."""
        with self._lock:
            return self._require_loaded()

    def require_ready(self) -> ModelInfo:
        """The loaded model. Raises 409 while a job has the permit, 503 while there is no usable model."""
        with self._lock:
            return self._require_ready()

    def submit(self, job: RunnerJob) -> Activity:
        """Takes the permit and gives the job to the model thread. Raises as `require_ready`; nothing ever waits."""
        loop = asyncio.get_running_loop()
        activity = Activity(job, loop, self._clock, exhibit=self._previewer.offer)
        with self._lock:
            self._require_ready()
            self.current = self._active[job.job_id] = activity
            self._enter(State.BUSY)
        # When the loop has nothing else to do: two threads that both have would take the interpreter from each other.
        loop.call_soon(self._model.put, partial(self._work, activity))
        return activity

    def cancel(self, job_id: str) -> bool:
        """Tells a job to stop. False when no such job is under way."""
        activity = self._active.get(job_id)
        if activity is not None:
            activity.cancel("canceled")
        return activity is not None

    def cancel_all(self) -> None:
        """Tells every job to stop, because the runner does."""
        for activity in list(self._active.values()):
            activity.stop(TransientError("the runner stops", code="stopping"))

    # What the model thread does.

    def _load(self) -> None:
        self._enter(State.LOADING)
        try:
            self.info = self._backend.load()
        except SetupError as error:
            self._fail_setup(str(error))
        except Exception as error:  # noqa: BLE001 - outermost: whatever a model library raises is the reason shown
            self._fail_setup(f"{type(error).__name__}: {error}")
        else:
            self._enter(State.READY)
            log.info("model ready", model=self.info.model, digest=self.info.digest, device=self.info.device)

    def _work(self, activity: Activity) -> None:
        with self._permit():
            failure = self._attempt(activity)
            if failure and _is_suspect(failure):
                self._prove()
        self._after_outputs(activity, partial(self._finish, activity, failure))

    @contextlib.contextmanager
    def _permit(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                self.current = None
                if self._state is State.BUSY:
                    self._enter(State.READY)

    def _render(self, activity: Activity) -> None:
        activity.begin()
        promised = activity.job.promises
        delivered = 0
        for rendered in self._backend.run(activity.job, activity):
            _check_shape(rendered, promised[delivered] if delivered < len(promised) else None)
            delivered += 1
            activity.encodes = activity.encodes or not rendered.encoded
            self._after_outputs(activity, partial(self._encode, activity, rendered, promised))
            activity.resume()
        activity.unseen()
        if delivered != len(promised):
            raise NodeError(f"the model gave {delivered} of {len(promised)} outputs", code="output_count")

    def _after_outputs(self, activity: Activity, call: Call) -> None:
        """Makes a call behind the job's outputs so far: on the media thread once one of them is encoded there."""
        if activity.encodes:
            self._media.put(call)
        else:
            call()

    def _attempt(self, activity: Activity) -> ReelnetError | None:
        """Renders the job; the failure that it returns holds no frame of the model, whose memory is free again."""
        try:
            self._render(activity)
        except Exception as error:  # noqa: BLE001 - outermost: the job fails, the runner goes on
            failure = as_failure(error)
            if _is_suspect(failure):  # never the text, which may hold the prompt
                log.warning("job failed", error=type(error).__name__, at=traceback.format_tb(error.__traceback__)[-3:])
        else:
            return None
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        return failure

    def _prove(self) -> None:
        """Frees what the failed job held and has the device prove itself."""
        try:
            self._backend.recover()
        except Exception as error:  # noqa: BLE001 - outermost: whatever a dead device raises makes the runner defunct
            self._enter(State.DEFUNCT, f"the device does not compute after a failed job: {type(error).__name__}")
            log.error("device lost", error=type(error).__name__)  # noqa: TRY400 - its text may hold the prompt

    # What the media thread does.

    def _encode(self, activity: Activity, rendered: Rendered, promised: tuple[MediaSpec, ...]) -> None:
        if activity.error is not None:
            return
        total = len(promised) * rendered.shape[0]
        before = rendered.index * rendered.shape[0]
        spec, note = promised[rendered.index], note_of(activity.job, rendered.seed)
        began = self._clock()
        try:
            encoded = self._encoder.encode(
                rendered, spec, note, lambda n: activity.advance("encode", before + n, total)
            )
        except Exception as error:  # noqa: BLE001 - outermost: the job fails, the runner goes on
            activity.stop(as_failure(error))
            return
        activity.spend("encode", self._clock() - began)
        activity.emit(Output(rendered.index, encoded.media_type, rendered.seed, rendered.nsfw))
        for chunk in chunks(encoded.data):
            activity.emit(chunk)
        digest = hashlib.sha256(encoded.data).hexdigest()
        activity.emit(OutputEnd(rendered.index, len(encoded.data), digest))

    def _finish(self, activity: Activity, failure: ReelnetError | None) -> None:
        failure = activity.error or failure
        job, timings_s = activity.job, {**activity.timings_s, "run": activity.run_s}
        with self._lock:
            if self._active.get(job.job_id) is activity:
                del self._active[job.job_id]
        outcome = failure.failure.value if failure else "done"
        self._metrics.count(job.pipeline, outcome, timings_s)
        log.info("job ended", job=job.job_id, pipeline=job.pipeline, outcome=outcome, run_s=round(activity.run_s, 3))
        activity.emit(self._last_event(job, failure, timings_s, activity.warnings))

    def _last_event(
        self,
        job: RunnerJob,
        failure: ReelnetError | None,
        timings_s: dict[str, float],
        warnings: tuple[JobWarning, ...],
    ) -> Done | Failed:
        if failure is not None:
            return Failed(failure.failure, failure.code, failure.message)
        assert self.info is not None, "no job runs without a model"
        rounded = {stage: round(seconds, 6) for stage, seconds in timings_s.items()}
        return Done(rounded, self.info.digest, self.info.class_of(job.pipeline) or "", self.info.versions, warnings)

    # State.

    def _enter(self, state: State, reason: str = "") -> None:
        with self._lock:
            self._state, self._reason, self._changed = state, reason, time.monotonic()

    def _fail_setup(self, reason: str) -> None:
        self._enter(State.SETUP_FAILED, reason)
        log.error("model cannot be set up", reason=reason)

    def _require_ready(self) -> ModelInfo:
        if self.current is not None:
            raise BusyError("a job is running", code="no_permit", http_status=409)
        return self._require_loaded()

    def _require_loaded(self) -> ModelInfo:
        if self._state in (State.SETUP_FAILED, State.DEFUNCT):
            raise NodeError(self._reason, code=self._state.lower(), http_status=503)
        if self.info is None:
            raise BusyError("the model is loading", code="not_ready")
        return self.info

    def _close(self, timeout_s: float) -> bool:
        # A load has nothing to save, and cannot be told to stop.
        patience_s = 0.0 if self._state is State.LOADING else timeout_s
        self._backend.close()
        closed = [lane.close(patience_s) for lane in (self._model, self._media, self._previewer)]
        return all(closed)


def _is_suspect(failure: ReelnetError) -> bool:
    """A job that was refused for its estimate has not touched the device."""
    return failure.failure in _SUSPECT and not (isinstance(failure, OutOfMemoryError) and failure.foreseen)


def _check_shape(rendered: Rendered, spec: MediaSpec | None) -> None:
    """Raises NodeError when an output is not what the pipeline promises."""
    if spec is None:
        raise NodeError("the model gave more outputs than asked", code="output_count")
    wanted = (spec.frames or 1, spec.height, spec.width, 3)
    if rendered.shape != wanted or rendered.fps != spec.rate:
        raise NodeError(f"the model gave {rendered.shape} instead of {wanted}", code="output_shape")

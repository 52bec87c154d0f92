"""The composition root: settings in, a runner as ASGI application out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from reelnet.errors import ReelnetError
from reelnet.http_routes import Direct, Heads
from runner.backend import Backend
from runner.diffusion import DiffusersBackend
from runner.encoding import Encoder
from runner.metrics import RunnerMetrics
from runner.previews import PreviewEncoder, Previewer
from runner.routes import answer_error, answer_fault, job_route, make_router
from runner.settings import RunnerSettings
from runner.synthetic import SyntheticBackend
from runner.synthetic_extras import SyntheticExtras
from runner.worker import Worker

log = structlog.get_logger()
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""A runner has no network; what it has to say of its jobs stands in its metrics."""


def build(
    settings: RunnerSettings, backend: Backend | None = None, clock: Callable[[], float] = time.monotonic
) -> FastAPI:
    """A runner. Its model begins to load when the application starts up; `app.state.worker` is its Worker.

    `backend` replaces the one that the settings name; `clock` gives the seconds of its jobs. Raises ConfigError for
    synthetic options that make no sense.
    """
    metrics = RunnerMetrics()
    encoder = Encoder(settings.png_level, settings.jpeg_quality, settings.clip_output)
    previewer = Previewer(PreviewEncoder(settings.preview_side, settings.preview_quality))
    worker = Worker(backend or make_backend(settings), encoder, metrics, previewer, clock)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            if not await worker.stop(settings.stop_timeout_s):
                log.warning("a job does not stop", timeout_s=settings.stop_timeout_s)

    app = FastAPI(
        title="Reelnet runner",
        version=version("reelnet"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "."}],
        lifespan=life,
        telemetry=_NO_TELEMETRY,
    )
    app.state.worker = worker
    app.add_exception_handler(ReelnetError, answer_error)
    start_job = job_route(worker, settings)
    app.include_router(make_router(worker, metrics, start_job))
    jobs = {("POST", "/jobs"): start_job}
    direct = Direct(app.build_middleware_stack(), jobs, on_error=answer_error, on_fault=answer_fault)
    app.middleware_stack = Heads(direct)
    return app


def make_backend(settings: RunnerSettings) -> Backend:
    """The backend that the settings name."""
    if settings.backend == "synthetic":
        named = settings.advertised_id, settings.synthetic, settings.pipelines
        return SyntheticBackend(*named, extras=SyntheticExtras.of(settings))
    return DiffusersBackend(settings)

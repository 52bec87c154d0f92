"""The runner's HTTP API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from reelnet.errors import ReelnetError, UserError
from reelnet.http_routes import Handler
from reelnet.parameters import VIDEO
from runner.event_schema import event_schema
from runner.events import MEDIA_TYPE
from runner.intake import JOB_PART, IntakeLimits, JobOrder, read_job
from runner.metrics import CONTENT_TYPE, RunnerMetrics
from runner.settings import RunnerSettings
from runner.stream import JobStream
from runner.views import HealthView, InfoView, error_body
from runner.worker import Worker

_OPEN: dict[str, Any] = {"security": []}
"""There are no keys: who may open the socket may ask."""
_JOB_BODY: dict[str, Any] = {
    **_OPEN,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": JobOrder.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [JOB_PART],
                    "properties": {
                        JOB_PART: JobOrder.model_json_schema(),
                        "image": {"type": "string", "format": "binary"},
                        VIDEO: {"type": "string", "format": "binary"},
                    },
                },
                "encoding": {JOB_PART: {"contentType": "application/json"}},
            },
        },
    },
}
_JOB_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {MEDIA_TYPE: {"schema": event_schema()}},
        "description": "Events, one JSON object a line, each of this shape; chunks have bytes behind them.",
    },
    400: {"description": "Not a multipart form, or its part `job` is not JSON."},
    409: {"description": "A job is running."},
    413: {"description": "The request, its picture or its clip is too large."},
    415: {"description": "The input is not a whole picture or clip."},
    422: {"description": "A parameter is not acceptable, or the pipeline is not served."},
    503: {"description": "No model is ready."},
}


def make_router(worker: Worker, metrics: RunnerMetrics, start_job: Handler) -> APIRouter:
    """All routes, over one worker."""
    router = APIRouter()
    _add_reports(router, worker, metrics)
    router.add_api_route(
        "/jobs", start_job, methods=["POST"], response_class=Response, openapi_extra=_JOB_BODY, responses=_JOB_ANSWERS
    )
    _add_cancel(router, worker)
    return router


def job_route(worker: Worker, settings: RunnerSettings) -> Handler:
    """What answers POST /jobs."""

    limits = IntakeLimits.of(settings)

    async def start_job(request: Request) -> Response:
        """Runs a job and streams its events."""
        model = worker.require_ready()
        job = await read_job(request, model, limits)
        return JobStream(worker.submit(job), settings.tick_s, settings.send_timeout_s)

    return start_job


async def answer_error(_: Request, error: Exception) -> Response:
    """An error of ours as its HTTP status and body."""
    assert isinstance(error, ReelnetError)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return JSONResponse(error_body(error), error.http_status, headers)


async def answer_fault(_: Request, error: Exception) -> Response:
    """An unknown fault of this program, without its text, which may hold the prompt."""
    return JSONResponse({"detail": {"msg": f"the runner failed by a fault of its own ({type(error).__name__})"}}, 500)


def _add_reports(router: APIRouter, worker: Worker, metrics: RunnerMetrics) -> None:
    @router.get("/health", openapi_extra=_OPEN)
    async def health() -> HealthView:
        """How the runner is; answers in every state."""
        return HealthView.of(worker.status(), worker.memory_bytes())

    @router.get("/info", responses={503: {"description": "No model is ready."}}, openapi_extra=_OPEN)
    async def info() -> InfoView:
        """What the runner serves."""
        return InfoView.of(worker.require_loaded())

    @router.get("/metrics", response_class=Response, openapi_extra=_OPEN)
    async def read_metrics() -> Response:
        """Prometheus metrics."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_cancel(router: APIRouter, worker: Worker) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "No such job is running."}}

    @router.delete("/jobs/{job_id}", status_code=202, responses=missing, openapi_extra=_OPEN)
    async def cancel_job(job_id: str) -> dict[str, str]:
        """Tells a job to stop."""
        if not worker.cancel(job_id):
            raise UserError("no such job is running here", code="unknown_job", http_status=404)
        return {"job": job_id}

"""The HTTP API: one route for each entry of `reelnet.pipelines`, all from one handler; media; what the pool serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from broadcaster.errors_http import error_response
from broadcaster.gateway import Gateway
from broadcaster.http_guard import BodyLimit, KeyGuard, Keys, OriginGuard, Prefix
from broadcaster.intake import Intake
from broadcaster.job import JobProgress
from broadcaster.job_stream import EVENT_STREAM, JobStreamResponse
from broadcaster.media import MediaStore
from broadcaster.openapi import describe_pipeline, error_schemas
from broadcaster.registry import Registry, short
from reelnet.errors import BusyError, CanceledError, NodeError, ReelnetError, UserError
from reelnet.pipelines import PIPELINES, Pipeline, did_you_mean
from reelnet.pricing import format_money

MEDIA_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "private, max-age=31536000, immutable",
}


@dataclass(frozen=True, slots=True)
class HttpParts:
    """What the API is put together from."""

    gateway: Gateway
    intake: Intake
    registry: Registry
    media: MediaStore
    keys: Keys
    body_bytes: int
    cors_origins: tuple[str, ...]
    public_url: str | None
    jobs_per_key: int | None = None


def make_app(parts: HttpParts) -> FastAPI:
    """The ASGI application. A path in `public_url` is served too, as behind a proxy that keeps it."""
    app = FastAPI(title="Reelnet broadcaster", version="1", redoc_url=None, docs_url=None)
    for pipeline in PIPELINES.values():
        app.add_api_route(
            f"/{pipeline.name}",
            _pipeline_route(parts, pipeline),
            methods=["POST"],
            name=pipeline.name,
            summary=pipeline.params.__doc__,
            responses=error_schemas(),
            openapi_extra=describe_pipeline(pipeline),
        )
    app.add_api_route("/media/{name}", _media_route(parts), methods=["GET"], summary="A result's bytes.")
    app.add_api_route("/models", _models_route(parts), methods=["GET"], summary="What the pool serves, and where.")
    app.add_api_route("/healthz", _health_route(parts), methods=["GET"], summary="Whether jobs are taken.")
    app.add_exception_handler(ReelnetError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    app.add_middleware(BodyLimit, limit_bytes=parts.body_bytes)
    app.add_middleware(KeyGuard, keys=parts.keys, jobs_per_key=parts.jobs_per_key)
    app.add_middleware(Prefix, prefix=_prefix(parts.public_url))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(parts.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    app.add_middleware(OriginGuard, origins=parts.cors_origins, own_host=urlsplit(parts.public_url or "").netloc)
    return app


def _pipeline_route(parts: HttpParts, pipeline: Pipeline) -> Callable[[Request], Awaitable[Response]]:
    async def generate(request: Request) -> Response:
        job = await parts.intake.job(pipeline, request)
        if EVENT_STREAM in request.headers.get("accept", ""):
            return JobStreamResponse(parts.gateway, job, lambda done: result_body(done, _base(parts, request)))
        done = await _unless_client_leaves(request, parts.gateway.run(job))
        return JSONResponse(result_body(done, _base(parts, request)))

    return generate


async def _unless_client_leaves(request: Request, work: Any) -> JobProgress:
    """Runs a job for as long as its client waits for it: a client that leaves cancels it, down to the GPU."""
    task: asyncio.Task[JobProgress] = asyncio.ensure_future(work)
    leaves = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaves), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            raise CanceledError("the client left")
        return task.result()
    finally:
        leaves.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def result_body(job: JobProgress, base: str) -> dict[str, Any]:
    """The success body: Livepeer's `images`, and beside it what Reelnet knows of the job."""
    images = [{"url": f"{base}/media/{r.media.name}", "seed": r.seed, "nsfw": r.nsfw} for r in job.results]
    return {
        "images": images,
        "job": {
            "id": job.request.id,
            "pipeline": job.request.pipeline.name,
            "model": job.request.model,
            "model_digest": job.model_digest,
            "node": job.node_id,
            "attempts": job.attempts,
            "price": format_money(job.charged_nano),
            "timings_s": {name: round(seconds, 4) for name, seconds in job.timings_s.items()},
            "made_with": job.facts,
        },
    }


def _media_route(parts: HttpParts) -> Callable[[str], Awaitable[Response]]:
    async def media(name: str) -> Response:
        path, media_type = parts.media.open_path(name)
        return FileResponse(path, media_type=media_type, headers=MEDIA_HEADERS)

    return media


def _models_route(parts: HttpParts) -> Callable[[], Awaitable[Response]]:
    async def models() -> Response:
        nodes = [
            {
                "node": record.node_id,
                "address": record.address.target,
                "up": record.up,
                "reason": record.reason,
                "serves": [
                    {
                        "pipeline": c.pipeline,
                        "model": c.model,
                        "schema": c.schema,
                        "digest": c.model_digest,
                        "licence": {"id": c.licence.id, "commercial": c.licence.commercial},
                        "price": c.rates.texts(),
                        "slots": c.slots,
                    }
                    for c in record.capabilities.values()
                ],
            }
            for record in parts.registry.nodes()
        ]
        offers = [
            {"pipeline": pipeline, "model": model, "nodes": count}
            for (pipeline, model), count in sorted(parts.registry.offers().items())
        ]
        return JSONResponse({"offers": offers, "nodes": nodes})

    return models


def _health_route(parts: HttpParts) -> Callable[[], Awaitable[Response]]:
    async def healthz() -> Response:
        up = [short(record.node_id) for record in parts.registry.nodes() if record.up]
        if parts.gateway.draining:
            raise BusyError("the broadcaster is stopping", code="draining", retry_after_s=30)
        return JSONResponse({"status": "OK", "nodes_up": len(up)})

    return healthz


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReelnetError)
    return error_response(error)


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of this program, in our shape; it is logged by who raised it or by the server."""
    return error_response(NodeError("the broadcaster failed by a fault of its own", code="internal"))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such route or method) in our shape."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is no {request.url.path}{did_you_mean(request.url.path.strip('/'), PIPELINES)}"
    return error_response(UserError(message, code="http", http_status=error.status_code))


def _base(parts: HttpParts, request: Request) -> str:
    """The base of media links: the configured one, else the address that the client called."""
    return (parts.public_url or str(request.base_url)).rstrip("/")


def _prefix(public_url: str | None) -> str:
    return urlsplit(public_url or "").path.rstrip("/")

"""The HTTP API: one route for each entry of `reelnet.pipelines`, all from one handler; media; what the pool serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

from broadcaster.errors_http import error_response
from broadcaster.gateway import Gateway
from broadcaster.http_guard import BodyLimit, KeyGuard, OriginGuard, Prefix
from broadcaster.intake import Intake
from broadcaster.job import JobProgress, Result
from broadcaster.job_stream import EVENT_STREAM, JobStreamResponse
from broadcaster.keys import Keys
from broadcaster.media import MediaStore
from broadcaster.openapi import describe_pipeline, error_schemas
from broadcaster.pool_view import pool_body
from broadcaster.registry import Registry, short
from broadcaster.settings import Limits
from reelnet.errors import BusyError, CanceledError, NodeError, ReelnetError, UserError, printable
from reelnet.http_routes import Answer, Direct, Handler, header
from reelnet.pipelines import MAX_NAME_CHARS, PIPELINES, Pipeline, did_you_mean, families_of
from reelnet.pricing import format_money

MEDIA_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"cache-control", b"private, max-age=31536000, immutable"),
    (b"accept-ranges", b"bytes"),
)
_JSON = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class HttpParts:
    """What the API is put together from."""

    gateway: Gateway
    intake: Intake
    registry: Registry
    media: MediaStore
    keys: Keys
    limits: Limits
    cors_origins: tuple[str, ...]
    public_url: str | None


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands before the API, as far as a reload changes it."""

    body: BodyLimit
    key: KeyGuard

    def apply(self, limits: Limits) -> None:
        """Holds requests to other limits from now on."""
        self.body.bounds, self.body.total_bytes = limits.of_bodies, limits.bodies_bytes
        self.key.jobs_per_key = limits.jobs_per_key


def make_app(parts: HttpParts) -> tuple[ASGIApp, Guards]:
    """The ASGI application, and its guards. A path in `public_url` is served too, as behind a proxy that keeps it.

    The guards stand before everything; a job or a result then goes straight to its function, the rest through FastAPI.
    """
    routes = _routes(parts)
    app: ASGIApp = Direct(make_api(parts, routes), routes, on_error=_on_failure, on_fault=_on_fault)
    body = BodyLimit(app, bounds=parts.limits.of_bodies, total_bytes=parts.limits.bodies_bytes)
    app = key = KeyGuard(body, keys=parts.keys, jobs_per_key=parts.limits.jobs_per_key)
    if prefix := urlsplit(parts.public_url or "").path.rstrip("/"):
        app = Prefix(app, prefix=prefix)
    if parts.cors_origins:
        anything, shown = ["*"], ["Retry-After"]
        origins = list(parts.cors_origins)
        app = CORSMiddleware(app, origins, allow_methods=anything, allow_headers=anything, expose_headers=shown)
    guarded = OriginGuard(app, origins=parts.cors_origins, own_host=urlsplit(parts.public_url or "").netloc)
    return guarded, Guards(body, key)


def make_api(parts: HttpParts, routes: Mapping[tuple[str, str], Handler] | None = None) -> FastAPI:
    """Every route with its documentation, without the guards; `routes` are those of jobs and media."""
    routes = routes or _routes(parts)
    app = FastAPI(title="Reelnet broadcaster", version="1", redoc_url=None, docs_url=None)
    for pipeline in PIPELINES.values():
        app.add_api_route(
            f"/{pipeline.name}",
            routes["POST", f"/{pipeline.name}"],
            methods=["POST"],
            name=pipeline.name,
            summary=" ".join(filter(None, (family.params.__doc__ for family in families_of(pipeline.name)))),
            responses=error_schemas(),
            openapi_extra=describe_pipeline(pipeline),
        )
    app.add_api_route("/media/{name}", routes["GET", "/media/{name}"], methods=["GET"], summary="A result's bytes.")
    app.add_api_route("/models", _models_route(parts), methods=["GET"], summary="What the pool serves, and where.")
    app.add_api_route("/healthz", _health_route(parts), methods=["GET"], summary="Whether jobs are taken.")
    app.add_exception_handler(ReelnetError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    return app


def _routes(parts: HttpParts) -> dict[tuple[str, str], Handler]:
    jobs = {("POST", f"/{pipeline.name}"): _pipeline_route(parts, pipeline) for pipeline in PIPELINES.values()}
    return {**jobs, ("GET", "/media/{name}"): _media_route(parts)}


def _pipeline_route(parts: HttpParts, pipeline: Pipeline) -> Callable[[Request], Awaitable[Response]]:
    async def generate(request: Request) -> Response:
        followed = EVENT_STREAM in header(request.scope, b"accept")
        job = await parts.intake.job(pipeline, request, followed=followed)
        if followed:
            return JobStreamResponse(parts.gateway, job, lambda done: result_body(done, _base(parts, request)))
        done = await _unless_client_leaves(request, parts.gateway.run(job))
        return Answer(to_json(result_body(done, _base(parts, request))), _JSON)

    return generate


async def _unless_client_leaves(request: Request, work: Awaitable[JobProgress]) -> JobProgress:
    """Runs a job for as long as its client waits for it: a client that leaves cancels it, down to the GPU."""
    leaves = asyncio.ensure_future(_left(request))
    try:
        async with asyncio.timeout(None) as patience:
            leaves.add_done_callback(lambda _: _expire(patience))
            return await work
    except TimeoutError:
        raise CanceledError("the client left") from None
    finally:
        leaves.cancel()


def _expire(patience: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the work has ended in the same moment
        patience.reschedule(asyncio.get_running_loop().time())


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def result_body(job: JobProgress, base: str) -> dict[str, Any]:
    """The success body: Livepeer's `images`, and beside it what Reelnet knows of the job."""
    images = [_image(result, base) for result in job.results]
    return {
        "images": images,
        "warnings": [warning.body() for warning in job.warnings],
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


def _image(result: Result, base: str) -> dict[str, Any]:
    """Livepeer's clients know no `nsfw` that is null: `checked` tells a clean result from one that nobody looked at."""
    looked = result.nsfw is not None
    url = f"{base}/media/{result.media.name}"
    return {"url": url, "seed": result.seed, "nsfw": bool(result.nsfw), "checked": looked}


def _media_route(parts: HttpParts) -> Callable[[Request], Awaitable[Response]]:
    async def media(request: Request) -> Response:
        name = request.path_params["name"]
        content, media_type = parts.media.read(name)
        headers = [*MEDIA_HEADERS, (b"content-type", media_type.encode()), (b"etag", f'"{name}"'.encode())]
        if isinstance(content, bytes) and not header(request.scope, b"range"):
            return Answer(content, headers)
        path, _ = await parts.media.file(name)
        return FileResponse(path, headers=Headers(raw=headers))

    return media


def _models_route(parts: HttpParts) -> Callable[[Request], Awaitable[Response]]:
    async def models(request: Request) -> Response:
        return JSONResponse(pool_body(parts.registry))

    return models


def _health_route(parts: HttpParts) -> Callable[[Request], Awaitable[Response]]:
    async def healthz(request: Request) -> Response:
        up = [short(record.node_id) for record in parts.registry.nodes() if record.up]
        if parts.gateway.draining:
            raise BusyError("the broadcaster drains and takes no new job", code="draining", retry_after_s=30)
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
        path = request.url.path
        message = f"there is no {printable(path, MAX_NAME_CHARS)}{did_you_mean(path.strip('/'), PIPELINES)}"
    return error_response(UserError(message, code="http", http_status=error.status_code))


def _base(parts: HttpParts, request: Request) -> str:
    """The base of media links: the configured one, else the address that the client called."""
    if parts.public_url:
        return parts.public_url.rstrip("/")
    scope = request.scope
    host = header(scope, b"host")
    return f"{scope['scheme']}://{host}{scope.get('root_path', '')}" if host else str(request.base_url).rstrip("/")

"""The HTTP API: one route for each entry of `reelnet.pipelines`, all from one handler; media; what the pool serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from broadcaster.errors_http import error_response
from broadcaster.gateway import Gateway
from broadcaster.http_encoding import Unpacked
from broadcaster.http_guard import BodyLimit, KeyGuard, Prefix
from broadcaster.http_names import SHOWN_HEADERS, Forwarded, Network, OpenMedia, OriginGuard
from broadcaster.intake import Intake
from broadcaster.job import JobProgress, Result
from broadcaster.job_stream import JobStreamResponse, unless_client_leaves, wants_events
from broadcaster.keys import Keys
from broadcaster.media import MediaStore
from broadcaster.media_http import media_route
from broadcaster.openapi import document
from broadcaster.pool_view import pool_body
from broadcaster.registry import Registry, short
from broadcaster.request_ids import RequestIds
from broadcaster.settings import Limits
from reelnet.errors import BusyError, NodeError, ReelnetError, UserError, printable
from reelnet.http_headers import header, header_list
from reelnet.http_routes import Answer, Direct, Handler, route_path
from reelnet.pipelines import MAX_NAME_CHARS, PIPELINES, Pipeline, did_you_mean
from reelnet.pricing import format_money

MEDIA = "/media/{name}"
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
    proxies: tuple[Network, ...] = ()


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
    public = urlsplit(parts.public_url or "")
    direct = Direct(make_api(parts, routes), routes, on_error=_on_failure, on_fault=_on_fault)
    body = BodyLimit(direct, bounds=parts.limits.of_bodies, total_bytes=parts.limits.bodies_bytes)
    key = KeyGuard(Unpacked(body), keys=parts.keys, jobs_per_key=parts.limits.jobs_per_key)
    app: ASGIApp = key
    if parts.cors_origins:
        anything = ["*"]
        app = CORSMiddleware(
            app, parts.cors_origins, allow_methods=anything, allow_headers=anything, expose_headers=SHOWN_HEADERS
        )
    app = OriginGuard(app, origins=parts.cors_origins, own_host=public.netloc)
    app = OpenMedia(app, media=key)
    if prefix := public.path.rstrip("/"):
        app = Prefix(app, prefix=prefix)
    return RequestIds(Forwarded(app, parts.proxies)), Guards(body, key)


def make_api(parts: HttpParts, routes: Mapping[tuple[str, str], Handler] | None = None) -> FastAPI:
    """Every route, without the guards; `routes` are those of jobs and media. Starlette answers HEAD as it does GET."""
    routes = routes or _routes(parts)
    app = FastAPI(openapi_url=None)
    reads = {
        MEDIA: routes["GET", MEDIA],
        "/models": _models_route(parts),
        "/healthz": _health_route(parts),
        "/openapi.json": _described,
    }
    for pipeline in PIPELINES:
        app.add_route(f"/{pipeline}", routes["POST", f"/{pipeline}"], methods=["POST"])
    for path, handler in reads.items():
        app.add_route(path, handler, methods=["GET"])
    app.add_exception_handler(ReelnetError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error(app))
    app.add_exception_handler(Exception, _on_fault)
    return app


def _routes(parts: HttpParts) -> dict[tuple[str, str], Handler]:
    jobs = {("POST", f"/{pipeline.name}"): _pipeline_route(parts, pipeline) for pipeline in PIPELINES.values()}
    media = media_route(parts.media)
    return {**jobs, ("GET", MEDIA): media, ("HEAD", MEDIA): media}


def _pipeline_route(parts: HttpParts, pipeline: Pipeline) -> Callable[[Request], Awaitable[Response]]:
    async def generate(request: Request) -> Response:
        followed = wants_events(header_list(request.scope, b"accept"))
        job = await parts.intake.job(pipeline, request, followed=followed)
        if followed:
            return JobStreamResponse(parts.gateway, job, lambda done: result_body(done, _base(parts, request)))
        try:
            done = await unless_client_leaves(request.receive, parts.gateway.run(job))
        except ReelnetError as error:
            return error_response(error, job.id)
        return Answer(to_json(result_body(done, _base(parts, request))), _JSON)

    return generate


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


async def _described(request: Request) -> Response:
    return JSONResponse(document())


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReelnetError)
    return error_response(error)


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of this program, in our shape; it is logged by who raised it or by the server."""
    return error_response(NodeError("the broadcaster failed by a fault of its own", code="internal"))


def _on_http_error(app: FastAPI) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Starlette's own errors (no such route or method) in our shape."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = route_path(request.scope)
        shown = printable(path, MAX_NAME_CHARS)
        if error.status_code != 405:
            hint = did_you_mean(path.strip("/"), PIPELINES)
            return error_response(UserError(f"there is no {shown}{hint}", code="no_route", http_status=404))
        allowed = _methods_at(app, request.scope)
        message = f"{shown} takes {' and '.join(allowed)}, not {printable(request.method, MAX_NAME_CHARS)}"
        wrong = UserError(message, code="method", http_status=405)
        return error_response(wrong, headers={"Allow": ", ".join(allowed)})

    return answer


def _methods_at(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of all routes at a request's path."""
    there = (route for route in app.routes if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE)
    return sorted({method for route in there for method in route.methods or ()})


def _base(parts: HttpParts, request: Request) -> str:
    """The base of media links: the configured one, else the address that the client called."""
    if parts.public_url:
        return parts.public_url.rstrip("/")
    scope = request.scope
    host = header(scope, b"host")
    return f"{scope['scheme']}://{host}{scope.get('root_path', '')}" if host else str(request.base_url).rstrip("/")

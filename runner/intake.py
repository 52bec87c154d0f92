"""From a multipart request to a checked job, or to the error that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from reelnet.clips import ClipLimits, probe_clip
from reelnet.errors import FailureClass, ReelnetError, RefusedError, UnsupportedError, UserError, printable
from reelnet.http_routes import BodyBounds, BoundedBody, read_form, read_json, too_large, whole_body
from reelnet.parameters import VIDEO, Params
from reelnet.pipelines import MAX_NAME_CHARS, Work, details
from runner import images
from runner.backend import InputClip, ModelInfo, RunnerJob, Served
from runner.settings import RunnerSettings

JOB_PART = "job"
MAX_PARTS = 8
Parts = Mapping[str, UploadFile | str | bytes]
"""A request's parts by name."""


class JobOrder(BaseModel):
    """The JSON of the part `job`. Fields of a later version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str = Field(min_length=1, max_length=128, description="The job's id.")
    attempt: int = Field(1, ge=1, description="Counts the job's attempts from 1.")
    pipeline: str = Field(max_length=64, description="One of the pipelines of GET /info.")
    params: dict[str, Any] = Field(description="The pipeline's complete parameters, the seed among them.")
    deadline_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="Seconds from now that it may take.")
    pixel_steps: int | None = Field(None, ge=0, description="Where both are told, the job's work has to be this:")
    output_pixels: int | None = Field(None, ge=0, description="pixels × steps, and pixels of all frames delivered.")


class ParamsError(ReelnetError):
    """The order is readable, but its values are not acceptable; `rows` are FastAPI's `{loc, msg, type}`."""

    def __init__(self, failure: FailureClass, rows: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(str(row["msg"]) for row in rows), code="params", http_status=422)
        self.kind = failure
        self.rows = rows


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """The bounds of a request: its body, its JSON, and what its inputs hold."""

    body: BodyBounds
    json_bytes: int
    max_pixels: int
    clips: ClipLimits

    @classmethod
    def of(cls, settings: RunnerSettings) -> IntakeLimits:
        """Those that the settings ask for."""
        body = BodyBounds(settings.max_body_bytes, settings.body_s, settings.body_stall_s)
        return cls(body, settings.max_json_bytes, settings.max_pixels, settings.of_clips)


async def read_job(request: Request, model: ModelInfo, limits: IntakeLimits) -> RunnerJob:
    """The job of a request: a form, or bare JSON where there are no inputs.

    Raises UserError (400, 408, 413, 415), ParamsError and UnsupportedError (422), RefusedError (422) for other work
    than the order's, ClientDisconnect.
    """
    receive = BoundedBody(request.receive, limits.body)
    if request.headers.get("content-type", "").partition(";")[0] == "application/json":
        parts: Parts = {JOB_PART: await whole_body(receive, limits.json_bytes, "the JSON")}
        order, params, data = await _read(parts, model, limits.json_bytes)
    else:
        async with read_form(Request(request.scope, receive), MAX_PARTS, MAX_PARTS, limits.json_bytes) as form:
            order, params, data = await _read(form, model, limits.json_bytes)
    row = model.serving(order.pipeline)
    assert row is not None, "its parameters were read by it"
    named = order.job_id, order.attempt, order.pipeline
    job = RunnerJob(*named, params, deadline_s=order.deadline_s, family=row.family, model=model)
    whole = await run_in_threadpool(_with_inputs, job, data, limits) if data else job
    _check_work(whole, order)
    return whole


async def _read(parts: Parts, model: ModelInfo, json_bytes: int) -> tuple[JobOrder, Params, dict[str, bytes]]:
    """The order, its parameters, and the bytes of its inputs."""
    order = await _read_order(parts, json_bytes)
    row = _served(order.pipeline, model)
    params = _parse(row, order.params)
    return order, params, {name: await _read_file(parts, name) for name in row.kind.inputs}


async def _read_order(parts: Parts, json_bytes: int) -> JobOrder:
    part = parts.get(JOB_PART)
    if part is None:
        raise UserError("the part 'job' is missing: send it first, as JSON", code="malformed", http_status=400)
    text = await part.read(json_bytes + 1) if isinstance(part, UploadFile) else part
    if len(text) > json_bytes:
        raise too_large(json_bytes, "the part 'job'")
    try:
        order = read_json(text)
        if isinstance(order, dict):
            order = {name: value for name, value in order.items() if value is not None}
        return JobOrder.model_validate(order)
    except ValidationError as error:
        raise ParamsError(FailureClass.USER, details(error, JobOrder)) from None
    except ValueError:  # JSON's and Unicode's decoding errors
        raise UserError("the part 'job' is not JSON", code="malformed", http_status=400) from None


def _served(name: str, model: ModelInfo) -> Served:
    row = model.serving(name)
    if row is None:
        known = ", ".join(row.pipeline for row in model.served)
        message = f"this model does not serve {printable(name, MAX_NAME_CHARS)!r}; it serves {known}"
        raise ParamsError(FailureClass.UNSUPPORTED, [{"loc": ["pipeline"], "msg": message, "type": "unsupported"}])
    return row


def _parse(row: Served, raw: Mapping[str, object]) -> Params:
    try:
        params = row.kind.parse(raw)
    except ValidationError as error:
        raise ParamsError(FailureClass.USER, details(error, row.kind.params)) from None
    if params.seed is None:
        missing = {"loc": ["seed"], "msg": "a runner's job has complete parameters: seed is missing", "type": "missing"}
        raise ParamsError(FailureClass.USER, [missing])
    if lacking := sorted(params.required_features().difference(row.features)):
        asked = params.asking_for(lacking[0])
        message = f"{asked}: this model has nothing for {lacking[0]} in {row.pipeline}; leave it out"
        raise UnsupportedError(message, code=lacking[0], loc=(asked,))
    return params


async def _read_file(parts: Parts, name: str) -> bytes:
    part = parts.get(name)
    if part is None:
        raise ParamsError(FailureClass.USER, [{"loc": [name], "msg": "the input is missing", "type": "missing"}])
    if not isinstance(part, UploadFile):
        raise UserError(f"{name}: send it as a file", code="malformed", loc=(name,), http_status=400)
    return await part.read()


def _with_inputs(job: RunnerJob, data: Mapping[str, bytes], limits: IntakeLimits) -> RunnerJob:
    """The job with its pictures decoded and its clips looked at."""
    pictures: dict[str, Image.Image] = {}
    found: dict[str, InputClip] = {}
    alpha = job.kind.keeps_look
    for name, content in data.items():
        if name == VIDEO:
            found[name] = InputClip(content, probe_clip(content, limits.clips))
        else:
            pictures[name] = images.decode(content, limits.max_pixels, name, alpha=alpha)
    return replace(job, inputs=pictures, clips=found)


def _check_work(job: RunnerJob, order: JobOrder) -> None:
    """What a job costs was told before anybody here had decoded its input."""
    steps, pixels = order.pixel_steps, order.output_pixels
    if steps is not None and pixels is not None and job.work != Work(steps, pixels):
        message = "the ticket's work units are not those of its input"
        raise RefusedError(message, code="work", http_status=422)

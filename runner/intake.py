"""From a multipart request to a checked job, or to the error that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from reelnet.clips import ClipLimits, probe_clip
from reelnet.errors import CanceledError, FailureClass, ReelnetError, RefusedError, UnsupportedError, UserError
from reelnet.http_routes import whole_body
from reelnet.parameters import VIDEO, Params
from reelnet.pipelines import Work, details
from runner import images
from runner.backend import InputClip, ModelInfo, RunnerJob, Served

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


async def read_job(
    request: Request, model: ModelInfo, max_body_bytes: int, max_pixels: int, clips: ClipLimits
) -> RunnerJob:
    """The job of a request: a form, or bare JSON where there are no inputs.

    Raises UserError (400, 413, 415), ParamsError and UnsupportedError (422), RefusedError (422) for other work than
    the order's, CanceledError when the client left.
    """
    receive = _limited(request.receive, max_body_bytes)
    try:
        if request.headers.get("content-type", "").partition(";")[0] == "application/json":
            order, params, data = await _read({JOB_PART: await whole_body(receive)}, model)
        else:
            async with Request(request.scope, receive).form(max_files=MAX_PARTS, max_fields=MAX_PARTS) as form:
                order, params, data = await _read(form, model)
    except HTTPException as error:
        raise UserError(f"not a multipart form: {error.detail}", code="malformed", http_status=400) from None
    except ClientDisconnect:
        raise CanceledError("the client left", http_status=400) from None
    row = model.serving(order.pipeline)
    assert row is not None, "its parameters were read by it"
    named = order.job_id, order.attempt, order.pipeline
    job = RunnerJob(*named, params, deadline_s=order.deadline_s, family=row.family, model=model)
    whole = await run_in_threadpool(_with_inputs, job, data, max_pixels, clips) if data else job
    _check_work(whole, order)
    return whole


async def _read(parts: Parts, model: ModelInfo) -> tuple[JobOrder, Params, dict[str, bytes]]:
    """The order, its parameters, and the bytes of its inputs."""
    order = await _read_order(parts)
    row = _served(order.pipeline, model)
    params = _parse(row, order.params)
    return order, params, {name: await _read_file(parts, name) for name in row.kind.inputs}


def _limited(receive: Receive, max_bytes: int) -> Receive:
    left = max_bytes

    async def take() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise UserError(f"the request is larger than {max_bytes} bytes", code="size", http_status=413)
        return message

    return take


async def _read_order(parts: Parts) -> JobOrder:
    part = parts.get(JOB_PART)
    if part is None:
        raise UserError("the part 'job' is missing: send it first, as JSON", code="malformed", http_status=400)
    text = await part.read() if isinstance(part, UploadFile) else part
    try:
        return JobOrder.model_validate(from_json(text))
    except ValidationError as error:
        raise ParamsError(FailureClass.USER, details(error, JobOrder)) from None
    except ValueError:  # JSON's and Unicode's decoding errors
        raise UserError("the part 'job' is not JSON", code="malformed", http_status=400) from None


def _served(name: str, model: ModelInfo) -> Served:
    row = model.serving(name)
    if row is None:
        known = ", ".join(row.pipeline for row in model.served)
        message = f"this model does not serve {name!r}; it serves {known}"
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


def _with_inputs(job: RunnerJob, data: Mapping[str, bytes], max_pixels: int, clips: ClipLimits) -> RunnerJob:
    """The job with its pictures decoded and its clips looked at."""
    pictures: dict[str, Image.Image] = {}
    found: dict[str, InputClip] = {}
    alpha = job.kind.keeps_look
    for name, content in data.items():
        if name == VIDEO:
            found[name] = InputClip(content, probe_clip(content, clips))
        else:
            pictures[name] = images.decode(content, max_pixels, name, alpha=alpha)
    return replace(job, inputs=pictures, clips=found)


def _check_work(job: RunnerJob, order: JobOrder) -> None:
    """What a job costs was told before anybody here had decoded its input."""
    steps, pixels = order.pixel_steps, order.output_pixels
    if steps is not None and pixels is not None and job.work != Work(steps, pixels):
        message = "the ticket's work units are not those of its input"
        raise RefusedError(message, code="work", http_status=422)

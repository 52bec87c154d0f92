"""From an HTTP request to a validated job: body, parameters with every default, media, model, deadline, ceiling.

Everything that can be wrong with a request is found here, before any GPU or money is spent.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from broadcaster.inspector import Inspector
from broadcaster.job import JobInput, JobRequest, new_job_id, used_loras
from broadcaster.keys import ApiKey
from broadcaster.local_failure import LocalError
from broadcaster.registry import Registry
from broadcaster.settings import BroadcasterSettings
from reelnet.aliases import meant
from reelnet.clips import ClipFacts
from reelnet.clocks import now_ms
from reelnet.errors import BusyError, UnsupportedError, UserError, printable
from reelnet.http_headers import header
from reelnet.http_routes import read_form, read_json, too_large, whole_body
from reelnet.inspection import Handling, InputLimits, PictureFacts
from reelnet.jobs import InputRef
from reelnet.parameters import (
    CHECKED_FIRST,
    MAX_FIELDS,
    MAX_INPUT_PIXELS,
    SAFETY,
    VIDEO,
    Params,
    SafetyPolicy,
    strictest,
)
from reelnet.picture_wishes import PictureWishes, taken_wishes, wish_names
from reelnet.pipelines import (
    FAMILIES,
    MAX_NAME_CHARS,
    MAX_ROW_CHARS,
    PIPELINES,
    Pipeline,
    details,
    did_you_mean,
    pipeline_named,
)
from reelnet.prompts import bracket_warnings
from reelnet.warnings import NO_PREVIEW, JobWarning

MAX_JOB_FILES = 4
MAX_MODEL_ID_CHARS = 256
RANDOM_SEED_BITS = 32
IMAGE = "image"
_KINDS = {IMAGE: "the picture", VIDEO: "the clip"}
_FILES = "pictures and clips are sent as files, in multipart/form-data"
_EXAMPLE = "curl -F {}=@FILE; URLs and data URIs are not read"
_ADDRESSES = ("data:", "http://", "https://")
URLENCODED = "application/x-www-form-urlencoded"
TEMPORARY = "the folder for temporary files ($TMPDIR)"
"""Where a form's files lie that are larger than 1 MiB, until they are read."""


class InvalidParamsError(UserError):
    """Parameters that are not valid; `rows` are FastAPI's `{"loc", "msg", "type"}`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(_told(row) for row in rows), code="params")
        self.rows = rows


def _told(row: dict[str, Any]) -> str:
    """A row in words: the field, where it is one's, and what is wrong."""
    where = ".".join(map(str, row["loc"][1:]))
    return f"{where}: {row['msg']}" if where else str(row["msg"])


@dataclass(slots=True)
class Intake:
    """What a request is judged with. A reload gives it other settings."""

    settings: BroadcasterSettings
    registry: Registry
    inspector: Inspector
    scratch: Path

    async def job(self, pipeline: Pipeline, request: Request, *, followed: bool = False) -> JobRequest:
        """The job that a request asks for. Raises UserError, UnsupportedError, BusyError or LocalError.

        `followed`: somebody reads the job's events; else no node is asked for previews that nobody sees.
        """
        fields, files = await read_body(request, self.settings.limits.json_bytes)
        _check_media(pipeline, fields)
        model = self._model(pipeline, fields.pop("model_id", None))
        pipeline = self._of_family(pipeline, model)
        given = pipeline.without_absent(fields)
        named = frozenset(given)
        try:
            wishes = taken_wishes(pipeline, given)
            raw = pipeline.without_foreign({**self._defaults(pipeline, model), **given})
            if not raw.get("seed") and raw.get("seed") != 0:
                raw["seed"] = secrets.randbits(RANDOM_SEED_BITS)
            params = pipeline.parse(raw)
        except ValidationError as error:
            found = details(error, pipeline.params, also=("model_id", *wish_names(pipeline)))
            rows = [{**row, "loc": ["body", *row["loc"]]} for row in found]
            raise InvalidParamsError(rows) from None
        key: ApiKey = request.scope.get("state", {}).get("key", ApiKey())
        floor = strictest(self.settings.safety, key.safety)
        params = params.model_copy(update={"safety": strictest(params.safety, floor)})
        warnings = [*bracket_warnings(params)]
        if why := _why_unseen(params, followed=followed):
            params = params.model_copy(update={"preview_steps": 0})
            warnings.append(JobWarning(NO_PREVIEW, why, "preview_steps"))
        self._check_offered(pipeline, model, params, floor)
        inputs = await self._inputs(pipeline, files, handling_of(pipeline, params, wishes))
        warnings += [warning for each in inputs for warning in each.warnings]
        return JobRequest(
            id=new_job_id(),
            pipeline=pipeline,
            model=model,
            params=params,
            inputs=inputs,
            deadline_ms=now_ms() + int(self.settings.deadline_s(pipeline.name) * 1000),
            ceiling_nano=self.settings.ceiling_nano(pipeline.name),
            digests=self.settings.digests(model),
            key_id=key.id,
            key_name=key.name,
            given=named,
            warnings=tuple(warnings),
        )

    def _model(self, pipeline: Pipeline, asked: object) -> str:
        """The model's id; the pipeline's default for none. Raises UserError for one that nobody in the pool has."""
        asked = _model_id(asked)
        served = self.registry.served(pipeline.name)
        model = asked or self.settings.default_models.get(pipeline.name, "")
        if not model:
            if served:
                return max(sorted(served), key=lambda name: served[name])
            raise BusyError(f"no node of this pool serves {pipeline.name} now", code="no_node", retry_after_s=5)
        if model in served:
            return model
        if self.registry.ever_offered(pipeline.name, model) or not served:
            raise BusyError(f"no node that serves {model} is up now", code="no_node", retry_after_s=5)
        message = f"no node of this pool serves {pipeline.name} with that model{did_you_mean(model, served)}"
        raise InvalidParamsError([_row("model_id", message, "unknown_model")])

    def _of_family(self, pipeline: Pipeline, model: str) -> Pipeline:
        """The pipeline as most nodes that serve the model have it, of the families that are known here."""
        found = self.registry.found((pipeline.name, model), "family")
        known = {family: count for family, count in found.items() if (pipeline.name, family) in FAMILIES}
        return pipeline_named(pipeline.name, max(known, key=lambda family: known[family])) if known else pipeline

    def _check_offered(self, pipeline: Pipeline, model: str, params: Params, floor: SafetyPolicy) -> None:
        """Raises InvalidParamsError for a LoRA, UnsupportedError for a feature, that no node has with this model."""
        offer = pipeline.name, model
        if used := used_loras(params):
            known = self.registry.found(offer, "lora")
            for name in (name for name in used if name not in known):
                lora = printable(name, MAX_NAME_CHARS)
                message = f"no node of this pool serves {model} with the LoRA {lora!r}{did_you_mean(name, known)}"
                raise InvalidParamsError([_row("loras", message, "unknown_lora")])
        if missing := sorted(params.required_features() - self.registry.found(offer, "feature").keys()):
            asked = params.asking_for(missing[0])
            ours = missing[0] == SAFETY and floor
            advice = f"every job of yours is held to safety={floor} here" if ours else f"leave {asked} out"
            message = f"no node of this pool offers {missing[0]} for {pipeline.name} with {model}; {advice}"
            raise UnsupportedError(message, code=missing[0], loc=(asked,))

    def _defaults(self, pipeline: Pipeline, model: str) -> dict[str, object]:
        """The catalogue's defaults for a model, as far as this pipeline has them."""
        if (entry := self.settings.catalogue.get(model)) is None:
            return {}
        known = pipeline.params.model_fields
        return {name: value for name, value in entry.defaults.items() if name in known}

    async def _inputs(self, pipeline: Pipeline, files: dict[str, bytes], handling: Handling) -> tuple[JobInput, ...]:
        for name in files:
            if name not in pipeline.inputs:
                wanted = f"; it is sent as {pipeline.inputs[0]!r}" if pipeline.inputs else _takers(pipeline)
                raise InvalidParamsError([_row(name, f"{pipeline.name} takes no such file{wanted}")])
        for name in pipeline.inputs:
            if not files.get(name):
                raise InvalidParamsError([_row(name, "the file is missing; send it as multipart/form-data", "missing")])
        return tuple([await self._input(name, files.pop(name), handling) for name in pipeline.inputs])

    async def _input(self, name: str, data: bytes, handling: Handling) -> JobInput:
        """The picture or clip, checked in a child process, and without whatever its file says besides.

        Raises UserError, and LocalError where the disk refuses the file or its copy.
        """
        with _unusable(name), _on_disk(str(self.scratch)), tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            given, clean = Path(folder, "given"), Path(folder, "clean")
            await asyncio.to_thread(given.write_bytes, data)
            del data  # it is not needed in memory while it is checked
            facts = await self._facts(name, given, clean, handling)
            kept = await asyncio.to_thread(clean.read_bytes)
        digest = hashlib.sha256(kept).hexdigest()
        warnings = tuple(JobWarning(code, message, name) for code, message in facts.notes)
        return JobInput(InputRef(name, len(kept), digest, facts.media_type), kept, facts, warnings)

    async def _facts(self, name: str, given: Path, clean: Path, handling: Handling) -> PictureFacts | ClipFacts:
        limits = self.settings.limits
        if name == VIDEO:
            return await self.inspector.clip(given, stripped_to=clean, limits=limits.of_clips)
        bounds = InputLimits(max_pixels=min(limits.max_pixels, MAX_INPUT_PIXELS))
        return await self.inspector.picture(given, stripped_to=clean, limits=bounds, handling=handling)


def handling_of(pipeline: Pipeline, params: Params, wishes: PictureWishes) -> Handling:
    """What becomes of a job's picture: transparency stays where the output can have it and no ground is asked."""
    keep = pipeline.keeps_look and not wishes.background and getattr(params, "output_format", "") != "jpeg"
    return Handling(wishes.ground, keep, pipeline.max_input_pixels if pipeline.sized_by_input else 0, wishes.fits)


@contextmanager
def _on_disk(folder: str) -> Iterator[None]:
    """What the disk refuses meanwhile is this broadcaster's own failure: raises LocalError."""
    try:
        yield
    except OSError as error:
        text = f"inputs cannot be written to {folder}: free space, or move it ({error.strerror})"
        raise LocalError(text, code="scratch") from None


@contextmanager
def _unusable(name: str) -> Iterator[None]:
    """A file that is no picture which is taken is a bad request, 400: the published clients, who send no clips, know
    no 415."""
    try:
        yield
    except UserError as error:
        if error.http_status != 415 or name == VIDEO:
            raise
        raise UserError(error.message, code=error.code, loc=error.loc, http_status=400) from None


def _check_media(pipeline: Pipeline, fields: dict[str, Any]) -> None:
    """Raises InvalidParamsError where a picture or clip comes as a text: its address, or its bytes as base64."""
    if rows := [
        _row(name, text, "media_as_text") for name in fields if (text := _as_file(pipeline, name, fields[name]))
    ]:
        raise InvalidParamsError(rows)


def _as_file(pipeline: Pipeline, name: str, value: object) -> str:
    """How to send what a field holds, where it is a picture or clip; empty for any other field."""
    known = (*pipeline.params.model_fields, *wish_names(pipeline))
    if value is None or name in known or _is_number(value):
        return ""
    given = next(iter(meant(name, (IMAGE, VIDEO))), "")
    if not given and not (isinstance(value, str) and value.lstrip().lower().startswith(_ADDRESSES)):
        return ""
    if not pipeline.inputs:
        return f"{pipeline.name} takes no picture and no clip{_takers(pipeline)}" if given else ""
    wanted = pipeline.inputs[0]
    return f"send {_KINDS[wanted]} itself, as the file {wanted!r} of multipart/form-data ({_EXAMPLE.format(wanted)})"


def _is_number(value: object) -> bool:
    """Whether a field asks for so many of something."""
    return isinstance(value, int | float) or (isinstance(value, str) and value.strip().isdigit())


def _takers(pipeline: Pipeline) -> str:
    """Which other pipelines take a file."""
    takers = ", ".join(name for name, other in PIPELINES.items() if other.inputs and other is not pipeline)
    return f"; {takers} take one, as a file in multipart/form-data"


def _why_unseen(params: Params, *, followed: bool) -> str:
    """Why nobody is to see the previews that a job asks for; empty where somebody is, and where it asks for none."""
    if not getattr(params, "preview_steps", 0):
        return ""
    if params.safety in CHECKED_FIRST:
        return f"No preview is shown under safety={params.safety}, because no checker has looked at it."
    return "" if followed else "Previews are shown in a stream of events alone: ask with Accept: text/event-stream."


def _model_id(asked: object) -> str:
    """The model's id that a request names; empty for none. Raises InvalidParamsError."""
    if asked is None:
        return ""
    if not isinstance(asked, str):
        raise InvalidParamsError([_row("model_id", "expected text", "string_type")])
    if len(asked) > MAX_MODEL_ID_CHARS or not asked.strip().isprintable():
        message = f"expected at most {MAX_MODEL_ID_CHARS} characters, all of them printable"
        raise InvalidParamsError([_row("model_id", message)])
    return asked.strip()


async def read_body(request: Request, json_bytes: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Fields and files of a JSON or multipart body. Raises UserError with 400, 413 or 415, and LocalError.

    JSON, and a form's fields together, have at most `json_bytes`: media come as files.
    """
    media_type = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        with _on_disk(TEMPORARY):
            return await _read_form(request, json_bytes)
    if media_type in ("application/json", ""):
        return _read_json(await _whole_json(request, json_bytes)), {}
    given = printable(media_type, MAX_NAME_CHARS)
    hint = "; to curl's -d add -H 'content-type: application/json'" if media_type == URLENCODED else ""
    message = f"cannot read {given}: send application/json, or multipart/form-data with files{hint}"
    raise UserError(message, code="media_type", http_status=415)


async def _whole_json(request: Request, json_bytes: int) -> bytes:
    try:
        return await whole_body(request.receive, json_bytes, "the JSON")
    except UserError as error:
        if error.http_status != 413:
            raise
        raise UserError(f"{error.message}; {_FILES}", code=error.code, http_status=413) from None


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        fields = read_json(body)
    except ValueError as error:
        raise UserError(f"the body is no valid JSON: {error}", code="json", http_status=400) from None
    if not isinstance(fields, dict):
        raise UserError("the body has to be a JSON object", code="json", http_status=400)
    return fields


async def _read_form(request: Request, json_bytes: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    async with read_form(request, MAX_JOB_FILES, MAX_FIELDS, json_bytes) as form:
        for name, value in form.multi_items():
            if name in fields or name in files:
                raise InvalidParamsError([_row(name, "stands twice in the form", "duplicate")])
            if isinstance(value, UploadFile):
                content = await value.read()
                await value.close()
                if content or value.filename:  # a page's form sends a nameless file where none was chosen
                    files[name] = content
            else:
                fields[name] = value
    if sum(len(value) for value in fields.values()) > json_bytes:
        raise too_large(json_bytes, "what the form's fields hold")
    return fields, files


def _row(name: str, message: str, kind: str = "value_error") -> dict[str, Any]:
    return {"loc": ["body", printable(name, MAX_NAME_CHARS)], "msg": printable(message, MAX_ROW_CHARS), "type": kind}

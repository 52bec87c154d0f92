"""Failures as HTTP answers, in the shapes that the published Livepeer clients parse.

`{"detail": {"msg": …}}`, for 422 `{"detail": [{"loc", "msg", "type"}]}`, and beside either an `error` object with
our own class and code, the request's id, and the job's where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from broadcaster.intake import InvalidParamsError
from broadcaster.request_ids import current_request
from reelnet.errors import ReelnetError, printable

CHALLENGE = 'Bearer realm="reelnet"'
MAX_TEXT_CHARS = 1000
"""Characters of the text that sums an error up."""


def error_body(error: ReelnetError, job_id: str = "") -> dict[str, Any]:
    """The JSON body of a failure, of a job where there is one: at most some 16 KiB, and printable."""
    text = printable(error.message, MAX_TEXT_CHARS)
    detail: Any = {"msg": text}
    if isinstance(error, InvalidParamsError):
        detail = error.rows
    elif error.http_status == 422:
        detail = [{"loc": ["body", *error.loc], "msg": text, "type": error.code}]
    about: dict[str, Any] = {"message": text, "class": error.failure.value, "code": error.code}
    if error.retry_after_s is not None:
        about["retry_after_s"] = error.retry_after_s
    if request_id := current_request():
        about["request_id"] = request_id
    if job_id:
        about["job_id"] = job_id
    return {"detail": detail, "error": about}


def error_response(error: ReelnetError, job_id: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for a failure. It is kept by no cache.

    `Retry-After` (whole seconds, at least 1) stands where asking again is worth it, `WWW-Authenticate` beside 401.
    """
    said = {"Cache-Control": "no-store", **(headers or {})}
    if error.retry_after_s is not None:
        said["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.http_status == 401:
        said["WWW-Authenticate"] = CHALLENGE
    return JSONResponse(error_body(error, job_id), status_code=error.http_status, headers=said)

"""Failures as HTTP answers, in the shapes that the published Livepeer clients parse.

`{"detail": {"msg": …}}`, for 422 `{"detail": [{"loc", "msg", "type"}]}`, and beside either an `error` object with
our own class and code.
"""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from broadcaster.intake import InvalidParamsError
from reelnet.errors import ReelnetError, printable

MAX_TEXT_CHARS = 1000
"""Characters of the text that sums an error up."""


def error_body(error: ReelnetError) -> dict[str, Any]:
    """The JSON body of a failure: at most some 16 KiB, and printable."""
    text = printable(error.message, MAX_TEXT_CHARS)
    detail: Any = {"msg": text}
    if isinstance(error, InvalidParamsError):
        detail = error.rows
    elif error.http_status == 422:
        detail = [{"loc": ["body", *error.loc], "msg": text, "type": error.code}]
    about: dict[str, Any] = {"message": text, "class": error.failure.value, "code": error.code}
    if error.retry_after_s is not None:
        about["retry_after_s"] = error.retry_after_s
    return {"detail": detail, "error": about}


def error_response(error: ReelnetError) -> JSONResponse:
    """The answer for a failure, with Retry-After (whole seconds, at least 1) where asking again is worth it."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return JSONResponse(error_body(error), status_code=error.http_status, headers=headers)

"""What a failure has to be to the published clients' users."""

from __future__ import annotations

import json

from tests.clients.drivers import Answer


def kind_of(status: int) -> str:
    """The class that both clients have for a status."""
    if status in {400, 401, 500}:
        return "HTTPError"
    return "HTTPValidationError" if status == 422 else "SDKError"


def check_failure(answer: Answer, status: int, said: str) -> None:
    """The client's class for the status, after one request, with what we said in its text and in its data."""
    error = answer.error
    assert error is not None, answer.images
    assert answer.statuses == [status], "by default no request is repeated"
    assert error["class"] == kind_of(status), error
    assert said in error["text"]
    if error["class"] == "SDKError":
        body = json.loads(error["body"])
        assert error["status"] == status
        assert said in body["error"]["message"]
        assert said in body["detail"]["msg"]
    elif error["class"] == "HTTPValidationError":
        [row] = error["data"]["detail"]
        assert set(row) == {"loc", "msg", "type"}
        assert said in row["msg"]
    else:
        assert said in error["data"]["detail"]["msg"]

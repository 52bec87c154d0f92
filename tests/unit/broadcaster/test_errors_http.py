"""Failures as HTTP answers, as the published clients read them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from broadcaster.error_codes import CODES
from broadcaster.errors_http import error_body, error_response
from broadcaster.intake import InvalidParamsError
from broadcaster.refusal import Reason
from reelnet.errors import BusyError, FailureClass, ReelnetError, RefusedError, UserError, from_class

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r'code="([a-z_]+)"|_refuse\(\d+, "([a-z_]+)"')


def answer(error: ReelnetError) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    response = error_response(error)
    return response.status_code, json.loads(bytes(response.body))


@pytest.mark.parametrize("failure", [c for c in FailureClass if c not in ("user", "unsupported")])
def test_most_failures_have_a_message(failure: FailureClass) -> None:
    """`{"detail": {"msg": …}}`, and beside it our own class and code."""
    status, body = answer(from_class(failure, "what happened", code="a_code"))
    assert status == from_class(failure, "").http_status != 422
    assert body["detail"] == {"msg": "what happened"}
    assert body["error"] == {"message": "what happened", "class": failure, "code": "a_code"}


@pytest.mark.parametrize("loc", [(), ("seed",), ("inputs", 0)])
def test_a_422_has_rows(loc: tuple[str | int, ...]) -> None:
    """`{"detail": [{"loc", "msg", "type"}]}`: another shape hides the message from both clients."""
    status, body = answer(UserError("wrong", code="params", loc=loc))
    assert status == 422
    assert body["detail"] == [{"loc": ["body", *loc], "msg": "wrong", "type": "params"}]
    assert body["error"] == {"message": "wrong", "class": "user", "code": "params"}


def test_each_wrong_parameter_has_its_row() -> None:
    """As pydantic found them; the message beside them names them all."""
    rows = [{"loc": ["body", name], "msg": f"{name} is wrong", "type": "t"} for name in ("fps", "seed")]
    status, body = answer(InvalidParamsError(rows))
    assert (status, body["detail"]) == (422, rows)
    assert body["error"]["message"] == "fps: fps is wrong; seed: seed is wrong"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("x", http_status=400), 400),
        (RefusedError("x", http_status=401), 401),
        (UserError("x", http_status=413), 413),
        (UserError("x", http_status=415), 415),
    ],
)
def test_malformed_requests_have_their_own_status(error: ReelnetError, status: int) -> None:
    """With the shape that the clients expect of it."""
    assert answer(error)[0] == status
    assert answer(error)[1]["detail"] == {"msg": "x"}


@pytest.mark.parametrize(("wait_s", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (86_400.0, "86400")])
def test_a_full_pool_says_when_to_ask_again(wait_s: float, header: str) -> None:
    """Retry-After in whole seconds, never 0: clients would ask in a loop; the body has the exact time."""
    response = error_response(BusyError("full", retry_after_s=wait_s))
    assert (response.status_code, response.headers["retry-after"]) == (503, header)
    assert json.loads(bytes(response.body))["error"]["retry_after_s"] == wait_s


def test_without_a_time_there_is_no_header() -> None:
    """A failure that waiting does not mend."""
    assert "retry-after" not in error_response(UserError("x")).headers
    assert "retry_after_s" not in error_body(UserError("x"))["error"]


def test_a_401_says_how_to_come_in() -> None:
    """RFC 9110 wants the challenge; no other failure has one."""
    assert error_response(RefusedError("x", http_status=401)).headers["www-authenticate"] == 'Bearer realm="reelnet"'
    assert "www-authenticate" not in error_response(RefusedError("x")).headers


def test_no_failure_is_kept_by_a_cache() -> None:
    """A browser may keep a 404 on its own judgement, and the result may come."""
    assert error_response(UserError("x", http_status=404)).headers["cache-control"] == "no-store"


def test_a_failure_of_no_field_has_no_empty_prefix() -> None:
    """What is wrong with the whole request is said as it is."""
    rows = [{"loc": ["body"], "msg": "too much", "type": "t"}, {"loc": ["body", "fps"], "msg": "low", "type": "t"}]
    assert answer(InvalidParamsError(rows))[1]["error"]["message"] == "too much; fps: low"


SOURCES = [*ROOT.glob("broadcaster/*.py"), *ROOT.glob("proto/reelnet/http_*.py")]
OF_NODES = ("attempt.py", "inspector.py", "registry.py")
"""Files whose words are about a node, its output or a file."""
NO_ANSWERS = {"bytes", "stopping", "broadcaster_restarted"}
"""Words of a node's attempt, and of a row in the journal."""


def test_every_code_of_ours_has_its_meaning() -> None:
    """A program may rely on the words in docs/api.md, and finds there each that it can meet."""
    said = {
        code
        for file in SOURCES
        if file.name not in OF_NODES
        for found in CODE.findall(file.read_text("utf-8"))
        for code in found
        if code
    }
    said |= {reason.value for reason in Reason}
    assert said - NO_ANSWERS <= CODES.keys()


def test_the_page_has_the_same_codes() -> None:
    """With the same words."""
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", page, re.MULTILINE))
    assert {code: rows.get(code) for code in CODES} == CODES

"""What a reload changes, what it leaves, and how that is said."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.changes import LIVE, changes, checked
from orchestrator.settings import OrchestratorSettings
from reelnet.operating.changes import NEEDS_RESTART

ID = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"


def settings(**values: Any) -> OrchestratorSettings:
    """A configuration with one model."""
    return OrchestratorSettings.model_validate({"models": [model()], **values})


def model(name: str = "acme/sdxl", **more: Any) -> dict[str, Any]:
    return {"model": name, **more}


def priced(**rates: str) -> dict[str, Any]:
    return {"text-to-image": {"price": rates}}


def test_nothing_is_nothing() -> None:
    """Equal configurations differ in no line, however they were written."""
    assert changes(settings(), settings()) == ()
    assert changes(settings(), settings(limits={"stall_s": 30.0})) == (), "the default, written out"


@pytest.mark.parametrize(
    ("before", "wanted", "line"),
    [
        ({"limits": {"stall_s": 30}}, {"limits": {"stall_s": 40}}, "limits.stall_s: 30.0 → 40.0"),
        ({}, {"broadcasters": [ID]}, f"broadcasters: none → ['{ID}']"),
        ({}, {"image": "runner:2"}, "image: none → runner:2"),
        ({"models": [model()]}, {"models": [model(queue=3)]}, "models: acme/sdxl queue: 8 → 3"),
        ({"models": [model()]}, {"models": [model(warm=False)]}, "models: acme/sdxl warm: True → False"),
        (
            {"models": [model(pipelines=priced(job="0.01"))]}, {"models": [model(pipelines=priced(job="0.02"))]},
            "models: acme/sdxl pipelines text-to-image price job: 0.01 → 0.02",
        ),
        (
            {"models": [model(pipelines=priced())]}, {"models": [model(pipelines=priced(mpix_step="1"))]},
            "models: acme/sdxl pipelines text-to-image price mpix_step: none → 1",
        ),
    ],
)  # fmt: skip
def test_a_change_is_said_by_its_place_in_the_file(before: dict[str, Any], wanted: dict[str, Any], line: str) -> None:
    """With what it was and what it is; these apply at once."""
    assert changes(settings(**before), settings(**wanted)) == (line,)


def test_models_come_and_go_by_name() -> None:
    """In the order of their names, so that two reloads read alike; their place in the file means nothing."""
    before = settings(models=[model("acme/b"), model("acme/a")])
    assert changes(before, settings(models=[model("acme/c"), model("acme/b")])) == (
        "models: acme/a is not served any more",
        "models: acme/c is new",
    )
    assert changes(before, settings(models=[model("acme/a"), model("acme/b")])) == ()


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": "other"}, {"devices": ["cpu", "cpu"]}, {"grpc": {"port": 1}}, {"metrics": {"port": 1}},
        {"engine": "process"}, {"docker": {"pids": 9}}, {"log_level": "debug"}, {"rpc": {"message_bytes": 3_000_000}},
        {"home": "/srv/x"}, {"models_home": "/srv/m"},
    ],
)  # fmt: skip
def test_what_belongs_to_the_start_stays_and_is_said(wanted: dict[str, Any]) -> None:
    """A running node goes on with what it was started with, and its operator learns that it does."""
    before, asked = settings(), settings(**wanted)
    after = checked(before, asked)
    (name,) = wanted
    assert getattr(after, name) == getattr(before, name)
    lines = changes(before, asked)
    assert lines
    assert all(line.startswith(name) and line.endswith(f"({NEEDS_RESTART})") for line in lines)


def test_what_applies_at_once_is_taken_over() -> None:
    """All of it and nothing else, also when the file changes more."""
    before = settings()
    wanted = settings(
        models=[model(queue=3)], limits={"stall_s": 40}, broadcasters=[ID], image="runner:2", log_level="debug"
    )
    after = checked(before, wanted)
    assert {name: getattr(after, name) for name in LIVE} == {name: getattr(wanted, name) for name in LIVE}
    rest = set(OrchestratorSettings.model_fields) - set(LIVE)
    assert {name: getattr(after, name) for name in rest} == {name: getattr(before, name) for name in rest}
    marks = [line.endswith(f"({NEEDS_RESTART})") for line in changes(before, wanted)]
    assert sorted(marks) == [False, False, False, False, True]

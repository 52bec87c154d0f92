"""The words for faults: which job has which."""

from __future__ import annotations

import pytest

from reelnet.errors import ConfigError
from runner.faults import Fault, FaultKind, LateFault, choose, configured

HANG_LATE = (LateFault(3, Fault(FaultKind.HANG)),)


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("a fox !slow 3", Fault(FaultKind.SLOW, 3.0)),
        ("!slow 0.5 once", Fault(FaultKind.SLOW, 0.5, once=True)),
        ("!fail user", Fault(FaultKind.FAIL_USER)),
        ("!fail node once", Fault(FaultKind.FAIL_NODE, once=True)),
        ("wow! a fox !oom", Fault(FaultKind.OOM)),
        ("!hang", Fault(FaultKind.HANG)),
        ("!die", Fault(FaultKind.DIE)),
        ("fail node", None),
        ("!dieting", None),
        ("!slow fox", None),
        ("", None),
    ],
)
def test_prompt_words(prompt: str, fault: Fault | None) -> None:
    """A fault is an exclamation mark and its exact words, anywhere in the prompt."""
    assert choose(prompt, "acme/model", (), 0, 1) == fault


@pytest.mark.parametrize(
    ("model_id", "fault"),
    [
        ("synthetic/hang", Fault(FaultKind.HANG)),
        ("synthetic/fail-node", Fault(FaultKind.FAIL_NODE)),
        ("synthetic/fail-user", Fault(FaultKind.FAIL_USER)),
        ("synthetic/oom", Fault(FaultKind.OOM)),
        ("synthetic/die", Fault(FaultKind.DIE)),
        ("synthetic/slow-3", Fault(FaultKind.SLOW, 3.0)),
        ("synthetic/bars", None),
        ("acme/hang", None),
    ],
)
def test_model_ids(model_id: str, fault: Fault | None) -> None:
    """Pipelines without a prompt are told by the model's id."""
    assert choose("", model_id, (), 0, 1) == fault


def test_once_is_the_first_attempt() -> None:
    """With `once`, a second attempt succeeds."""
    assert choose("!fail node once", "m", (), 0, 1) is not None
    assert choose("!fail node once", "m", (), 0, 2) is None


@pytest.mark.parametrize(("finished", "struck"), [(0, False), (2, False), (3, True), (9, True)])
def test_late_faults(finished: int, struck: bool) -> None:
    """A configured fault begins after so many finished jobs and stays."""
    assert (choose("a fox", "m", HANG_LATE, finished, 1) is not None) is struck


def test_an_unknown_kind_is_a_configuration_error() -> None:
    """The error names the kinds that there are."""
    assert configured("slow-2") == Fault(FaultKind.SLOW, 2.0)
    with pytest.raises(ConfigError, match="unknown kind 'explode'; known: slow SECONDS"):
        configured("explode")

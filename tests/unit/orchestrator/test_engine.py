"""What is the same for every engine: a spec's fingerprint, and what a runner is told."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from orchestrator.engine import Resources, RunnerSpec
from orchestrator.runner_command import flag_environment

SPEC = RunnerSpec("slot", "acme/sd", "/srv/sd", "diffusers", "cuda:0", Path("/run/slot"))
CHANGES: dict[str, object] = {
    "slot": "other",
    "model_id": "acme/other",
    "model": "/srv/other",
    "backend": "synthetic",
    "device": "cuda:1",
    "pipelines": ("upscale",),
    "options": {"unit_s": 1},
    "gpu": "GPU-1",
    "image": "runner@sha256:1",
    "flags": {"dtype": "bfloat16"},
    "resources": Resources(memory_bytes=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_a_runner_depends_on_changes_its_fingerprint(name: str) -> None:
    """A runner that was started with another value is not the one that is asked for."""
    assert replace(SPEC, **{name: CHANGES[name]}).fingerprint != SPEC.fingerprint  # type: ignore[arg-type]


def test_a_fingerprint_is_the_same_at_each_start() -> None:
    """Neither the folder nor the order of options counts; no field of a spec was forgotten above."""
    options = {"unit_s": 1, "faults": ()}
    turned = dict(reversed(options.items()))
    first = replace(SPEC, options=options)
    assert replace(first, options=turned, folder=Path("/elsewhere")).fingerprint == first.fingerprint
    assert {field.name for field in fields(RunnerSpec)} == CHANGES.keys() | {"folder"}


def test_flags_are_the_runners_settings() -> None:
    """A flag reaches the runner as an environment variable of its settings class."""
    flags = {"dtype": "bfloat16", "max_pixels": "1"}
    assert flag_environment(replace(SPEC, flags=flags)) == {
        "REELNET_RUNNER_DTYPE": "bfloat16",
        "REELNET_RUNNER_MAX_PIXELS": "1",
    }

"""What the demo asks for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from reelnet.pipelines import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """scripts/demo_jobs.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("demo_jobs", ROOT / "scripts" / "demo_jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_jobs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo_jobs"]


def test_the_full_demo_has_every_pipeline_of_every_family(demo: ModuleType) -> None:
    """Its requests are valid, each has one result, and some node of its plan serves it."""
    made = {"text-to-image": ROOT / "examples" / "rocket.jpg"}
    served = {(name, tiny.model) for models in demo.FULL for tiny in models for name in tiny.pipelines}
    seen = set()
    for step in demo.full():
        job = step.job(made)
        pipeline = step.kind(job)
        seen.add((pipeline.name, pipeline.family))
        (promise,) = pipeline.promises(pipeline.parse(job.params), demo.source(job))
        assert promise.width > 0
        assert any(name == job.pipeline and job.model in (None, model) for name, model in served)
    assert seen == FAMILIES.keys()


def test_the_clip_has_sound(demo: ModuleType) -> None:
    """So that an upscaled one shows that it is kept."""
    files = {"video": ("clip.mp4", demo.sounding_clip())}
    found = demo.source(demo.JobSpec("upscale-video", {}, files=files))
    assert (found.width, found.height, found.frames) == (96, 64, 9)
    assert found.sound

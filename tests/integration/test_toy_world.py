"""The models of the toy world draw what the words say, over every hop: that pictures mean something is tested here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from runner.backend import SetupError
from runner.self_test import SelfTest
from runner.settings import RunnerSettings
from runner.toyworld import trained
from runner.toyworld.scenes import Pixels
from runner.toyworld.sight import follow, look
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool

pytestmark = pytest.mark.diffusers

DRAW = {"width": 128, "height": 128, "num_inference_steps": 12, "guidance_scale": 2.5}
CLIP = {"width": 128, "height": 128, "num_frames": 9, "fps": 8, "num_inference_steps": 8, "guidance_scale": 2}


@pytest.fixture
async def pool(tmp_path: Path, tiny_models: Path) -> AsyncIterator[Pool]:
    """A node with both models, and a broadcaster."""
    models = [{"model": name} for name in trained.MODELS]
    plan = PoolPlan(tmp_path, [InProcessEngine()], models, node={"models_home": str(tiny_models)})
    async with running_pool(plan) as running:
        yield running


def pixels(file: bytes) -> Pixels:
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.float32) / 255


def frames(mp4: bytes) -> Iterator[Pixels]:
    with av.open(io.BytesIO(mp4)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.float32) / 255


async def picture(pool: Pool, prompt: str, seed: int = 3) -> bytes:
    (data,) = await pool.outputs(await pool.job("text-to-image", {**DRAW, "prompt": prompt, "seed": seed}))
    return data


ASKED = {
    "a big white square, black background": ("square", "white", "black"),
    "please draw a big green triangle on a yellow background": ("triangle", "green", "yellow"),
    "a small red circle on the left, blue background": ("circle", "red", "blue"),
}


async def test_pictures_and_clips_show_what_was_asked(pool: Pool) -> None:
    """Of each picture shape, colour and ground, read from the PNG that the app fetched.

    The last one becomes a clip: its first frame is the picture, and the shape goes the asked way in every frame.
    """
    for prompt, shows in ASKED.items():
        drawn = await picture(pool, prompt)
        seen = look(pixels(drawn))
        assert (seen.shape, seen.colour, seen.ground) == shows, prompt
    for prompt, heading in (("the circle moves to the right", "right"), ("the circle moves up", "up")):
        (clip,) = await pool.outputs(await pool.job("image-to-video", {**CLIP, "prompt": prompt, "seed": 3}, drawn))
        shown = list(frames(clip))
        assert len(shown) == CLIP["num_frames"]
        assert np.abs(shown[0] - pixels(drawn)).mean() * 255 < 16
        walk = follow(shown)
        assert (walk.shape, walk.colour, walk.ground, walk.heading) == ("circle", "red", "blue", heading)
        assert min(walk.steps) > -0.01


def settings(**values: Any) -> RunnerSettings:
    return RunnerSettings(model="any", backend="self-test", device="cpu", **values)


def test_this_machine_passes_the_self_test() -> None:
    """Every known answer comes out; a program can read what is printed."""
    command = [sys.executable, "-m", "runner.cli", "self-test", "--device", "cpu", "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert (answer["device"], answer["dtype"], answer["ok"]) == ("cpu", "float32", True)
    assert [row["right"] for row in answer["answers"]] == [True] * 4


def test_other_weights_do_not_pass_the_self_test(monkeypatch: pytest.MonkeyPatch, tiny_models: Path) -> None:
    """Random ones draw noise, which is found out."""
    monkeypatch.setattr(trained, "folder_of", lambda name: tiny_models / "reelnet" / "tiny-random-sd")
    with pytest.raises(SetupError, match=r"'a small red circle .*' came out wrong on cpu"):
        SelfTest(settings()).load()

"""Every parameter, on a model of every family: it changes the output, is refused by its name, or a warning has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from reelnet.pipelines import FAMILIES
from runner.models.tiny import LORA
from tests.fakes.media import Clip, encoded, pattern
from tests.fakes.runner import Answer, RunnerClient, collect
from tests.integration.runner.diffusion import running

pytestmark = pytest.mark.diffusers

PICTURE = encoded(pattern(96, 64), "PNG")
CLIP = Clip(48, 32, frames=5, fps=5).encode()
LORAS = [{"folder": LORA, "id": "reelnet/ink"}]
SMALL: dict[str, Any] = {"seed": 1, "num_inference_steps": 2}
FRAMES: dict[str, Any] = {**SMALL, "width": 64, "height": 64}
OTHER: dict[str, Any] = {
    "seed": 2, "safety_check": False, "safety": "flag", "prompt": "a blue whale", "negative_prompt": "ugly",
    "height": 128, "width": 128, "guidance_scale": 2.0, "image_guidance_scale": 3.0, "strength": 0.4,
    "num_inference_steps": 3, "num_images_per_prompt": 2, "loras": {"reelnet/ink": 1.0}, "scheduler": "euler-ancestral",
    "output_format": "webp", "metadata": True, "fit": "stretch", "interpolate_to_fps": 20,
    "video_codec": "vp9", "num_frames": 9, "fps": 9, "motion_bucket_id": 20, "noise_aug_strength": 0.5,
    "min_guidance_scale": 2.0, "max_guidance_scale": 6.0, "decode_chunk_size": 2,
}  # fmt: skip
"""For each parameter of any family but previews, a value that is neither its default nor what these jobs have."""


@dataclass(frozen=True)
class Case:
    """A tiny model with one of its pipelines. `warned`: parameters that it does not use, as it says itself."""

    model: str
    pipeline: str
    family: str
    params: Mapping[str, Any]
    warned: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, bytes]:
        """What the job comes with."""
        given = {"image": PICTURE, "video": CLIP}
        return {name: given[name] for name in FAMILIES[self.pipeline, self.family].inputs}

    async def run(self, runner: RunnerClient, **more: Any) -> Answer:
        """The job, with other parameters; what is refused before it begins is told as a failure."""
        async with runner.stream(pipeline=self.pipeline, params={**self.params, **more}, **self.inputs) as response:
            if response.status_code == httpx.codes.OK:
                return await collect(response)
            body = json.loads(await response.aread())
            return Answer([{"event": "error", "class": body["class"], "code": body["detail"]["code"]}])

    async def changed(self, runner: RunnerClient, name: str) -> Answer:
        """The job with one value changed. For a preview it has steps enough that one is drawn before its end."""
        if name != "preview_steps":
            return await self.run(runner, **{name: OTHER[name]})
        for _ in range(10):  # also then, on a busy machine, it may be too late
            answer = await self.run(runner, preview_steps=1, num_inference_steps=20)
            if answer.previews:
                break
        return answer


ASKS_NOTHING = {"safety_check"}
"""Without a safety checker nobody looks either way, and the answer says so by `checked`."""
SEED = frozenset({"seed"})
CASES = (
    Case("sd", "text-to-image", "sd", {**FRAMES, "prompt": "a fox"}, settings={"loras": LORAS}),
    Case("sdxl", "text-to-image", "sd", {**FRAMES, "prompt": "a fox"}),
    Case("sd3", "text-to-image", "sd", {**FRAMES, "prompt": "a fox"}),
    Case("flux", "text-to-image", "sd", {**FRAMES, "prompt": "a fox"}),
    Case(
        "sd", "image-to-image", "sd", {**SMALL, "num_inference_steps": 5, "prompt": "a fox"}, settings={"loras": LORAS}
    ),
    Case("instruct-pix2pix", "image-to-image", "pix2pix", {**SMALL, "prompt": "a fox"}),
    Case("svd", "image-to-video", "svd", {**FRAMES, "num_frames": 6}),
    Case("wan", "image-to-video", "wan", {**FRAMES, "num_frames": 5, "prompt": "a fox"}),
    Case("sd-x4", "upscale", "x4", {**SMALL, "prompt": "a fox"}),
    Case("esrgan", "upscale", "x4", {"seed": 1}, SEED | {"prompt"}),
    Case("esrgan", "upscale-video", "x4", {"seed": 1}, SEED),
    Case("film", "frame-interpolation", "film", {"seed": 1, "fps": 10}, SEED),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.pipeline}")
async def test_every_parameter_has_an_effect_or_is_refused(case: Case, tiny_models: Path, tmp_path: Path) -> None:
    """Nothing is dropped in silence; an effect is another file, or previews on its way."""
    async with running(tiny_models, case.model, tmp_path, **case.settings) as runner:
        base = await case.run(runner)
        assert base.last["event"] == "done", base.last
        assert (await case.run(runner)).outputs == base.outputs
        warned, silent = set(), set()
        for name in FAMILIES[case.pipeline, case.family].params.model_fields:
            answer = await case.changed(runner, name)
            if answer.last["event"] == "error":
                assert (answer.last["class"], answer.last["code"]) == ("unsupported", name)
            elif answer.outputs == base.outputs and not answer.previews:
                told = {warning["parameter"] for warning in answer.last["warnings"]}
                (warned if name in told else silent).add(name)
        assert warned == case.warned
        assert silent == ASKS_NOTHING


def test_every_family_is_tried() -> None:
    """A new one needs a row here."""
    assert {(case.pipeline, case.family) for case in CASES} == FAMILIES.keys()


WORDY = "a red fox in the snow, " * 12
"""More words than CLIP reads."""
UGLY = {"prompt": "a fox", "negative_prompt": "ugly", "guidance_scale": 1}
CLIP_OFF = {"num_frames": 2, "min_guidance_scale": 0.5, "max_guidance_scale": 1}
OFF: tuple[tuple[str, str, Mapping[str, Any], str], ...] = (
    ("sd", "text-to-image", {**FRAMES, **UGLY}, "negative_prompt"),
    ("sd", "text-to-image", {**FRAMES, "prompt": WORDY}, "prompt"),
    ("sd", "text-to-image", {**FRAMES, "prompt": "a fox", "negative_prompt": WORDY}, "negative_prompt"),
    ("sd", "text-to-image", {**FRAMES, "prompt": "a fox", "preview_steps": 7}, "preview_steps"),
    ("sd", "image-to-image", {**SMALL, "prompt": WORDY}, "prompt"),
    ("sdxl", "text-to-image", {**FRAMES, "prompt": WORDY}, "prompt"),
    ("sd3", "text-to-image", {**FRAMES, "prompt": WORDY}, "prompt"),
    ("flux", "text-to-image", {**FRAMES, "prompt": WORDY}, "prompt"),
    ("instruct-pix2pix", "image-to-image", {**SMALL, "prompt": "x", "image_guidance_scale": 0.5}, "guidance_scale"),
    ("instruct-pix2pix", "image-to-image", {**SMALL, "prompt": "x", "guidance_scale": 1}, "image_guidance_scale"),
    ("svd", "image-to-video", {**FRAMES, **CLIP_OFF}, "min_guidance_scale"),
    ("wan", "image-to-video", {**FRAMES, **UGLY, "num_frames": 5}, "negative_prompt"),
    ("wan", "image-to-video", {**FRAMES, "num_frames": 5, "prompt": "fox " * 600}, "prompt"),
    ("sd-x4", "upscale", {**SMALL, "prompt": WORDY}, "prompt"),
    ("esrgan", "upscale", {"seed": 0}, "seed"),
)
"""Jobs of which one parameter is not done as it says, because of another one or of its own length."""


@pytest.mark.parametrize("model", sorted({row[0] for row in OFF}))
async def test_a_parameter_that_does_nothing_beside_another_is_told(
    model: str, tiny_models: Path, tmp_path: Path
) -> None:
    """Each is named by a warning whose code the family's row has; the job is done."""
    async with running(tiny_models, model, tmp_path) as runner:
        for _, pipeline, params, name in (row for row in OFF if row[0] == model):
            (family,) = {family for served, family in _families(model) if served == pipeline}
            answer = await Case(model, pipeline, family, params).run(runner)
            assert answer.last["event"] == "done", answer.last
            assert [warning["parameter"] for warning in answer.last["warnings"]] == [name]


def _families(model: str) -> set[tuple[str, str]]:
    return {(case.pipeline, case.family) for case in CASES if case.model == model}

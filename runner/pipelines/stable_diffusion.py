"""Text to image, by every class that diffusers' AutoPipelineForText2Image knows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from reelnet.pipelines import TextToImage
from runner.backend import Frames, Rendered, Reporter, RunnerJob, Served, SetupError
from runner.pipelines.family import Share, as_bytes, memory_errors, noise

_NEEDED = ("height", "width", "num_inference_steps", "guidance_scale", "generator", "callback_on_step_end")
"""Arguments without which a class cannot draw what a job asks for, or cannot be stopped."""


class StableDiffusion:
    """Serves text-to-image from one loaded pipeline. It has no safety checker: `nsfw` is always false."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        arguments = inspect.signature(type(pipe).__call__).parameters
        self._negates = "negative_prompt" in arguments
        if missing := [name for name in _NEEDED if name not in arguments]:
            raise SetupError(f"{type(pipe).__name__} takes no {', '.join(missing)}; serve another class of model")

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        return (Served("text-to-image", type(self._pipe).__name__),)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """The images one after the other, each with noise of its own: image i of many is the image of seed + i."""
        params = job.params
        assert isinstance(params, TextToImage)
        for index in range(params.num_images_per_prompt):
            with memory_errors(), torch.inference_mode():
                frames = self._draw(params, job.seed + index, Share(index, params.num_images_per_prompt), report)
            yield Rendered(index, job.seed + index, frames)

    def _draw(self, params: TextToImage, seed: int, share: Share, report: Reporter) -> Frames:
        negative = {"negative_prompt": params.negative_prompt} if self._negates else {}
        with share.decoding(report, self._pipe):
            result = self._pipe(
                prompt=params.prompt,
                height=params.height,
                width=params.width,
                num_inference_steps=params.num_inference_steps,
                guidance_scale=params.guidance_scale,
                generator=noise(seed),
                callback_on_step_end=share.denoising(report),
                output_type="np",
                **negative,
            )
        return as_bytes(result.images)

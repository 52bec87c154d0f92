"""Text to image and image to image, by every class that diffusers' auto pipelines know, from the same weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from reelnet.model_classes import family_of
from reelnet.parameters import CHECKED_FIRST, ImageEdit, TextToImage
from runner.backend import Frames, Rendered, Reporter, RunnerJob, Served, SetupError
from runner.models.numbers import as_bytes
from runner.models.shadows import shadows_of
from runner.pipelines import canvas
from runner.pipelines.arguments import Arguments, step_callback
from runner.pipelines.extras import Extras
from runner.pipelines.family import Share, memory_errors, noise
from runner.pipelines.guidance import guidance_warnings
from runner.pipelines.latent_previews import LatentPreviews
from runner.pipelines.picture_memory import PictureNeeds
from runner.pipelines.prompt_windows import told_cuts
from runner.pipelines.schedulers import check_steps, from_the_start
from runner.pipelines.trial import tried

PictureParams = TextToImage | ImageEdit


class Pictures:
    """Serves one or both picture pipelines. The classes share their nets, so that both cost the memory of one."""

    def __init__(self, pipes: Mapping[str, Any], extras: Extras) -> None:
        """`pipes`: a diffusers pipeline for each pipeline's name. Raises SetupError for a class that cannot serve."""
        self._pipes = dict(pipes)
        self._arguments = {name: Arguments.of(pipe) for name, pipe in self._pipes.items()}
        self._extras = extras
        self._previews = LatentPreviews(withheld=extras.safety.policy in CHECKED_FIRST)
        for name, pipe in self._pipes.items():
            if missing := self._arguments[name].missing(name):
                raise SetupError(f"{type(pipe).__name__} takes no {', '.join(missing)}; serve another class of model")

    def try_out(self) -> None:
        """Draws small pictures by each pipeline, for a class that is not well known. Raises SetupError.

        A pipeline that does not draw as asked is left out, if the other one does.
        """
        faults: dict[str, SetupError] = {}
        for name, pipe in self._pipes.items():
            try:
                self._arguments[name] = tried(pipe, name, self._arguments[name])
            except SetupError as error:
                faults[name] = error
        self._pipes = {name: pipe for name, pipe in self._pipes.items() if name not in faults}
        if not self._pipes:
            raise next(iter(faults.values()))

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        features = self._extras.safety.features
        classes = {name: type(pipe).__name__ for name, pipe in self._pipes.items()}
        return tuple(Served(name, owner, family_of(owner), features) for name, owner in classes.items())

    @property
    def loras(self) -> Mapping[str, str]:
        """The LoRAs that jobs may use: id → sha256."""
        return self._extras.loras.digests if self._extras.loras else {}

    def needs(self) -> PictureNeeds:
        """See `Family`: the pipelines share their nets."""
        return PictureNeeds(shadows_of(next(iter(self._pipes.values())).components), self._extras.tiling_pixels)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """The images one after the other, each with noise of its own: image i of many is the image of seed + i.

        Raises UnsupportedError for a parameter, scheduler or LoRA that the model does not take, RefusedError when the
        operator's safety checker says so.
        """
        params = job.params
        assert isinstance(params, TextToImage | ImageEdit)
        self._arguments[job.pipeline].check(params)
        with self._prepared(job.pipeline, params, report) as pipe:
            for index in range(params.num_images_per_prompt):
                share = Share(index, params.num_images_per_prompt)
                with memory_errors(), torch.inference_mode():
                    frames = self._draw(pipe, job, share, report)
                    frames, nsfw = self._extras.safety.judge(frames, params)
                yield Rendered(index, job.seed + index, frames, nsfw=nsfw)

    @contextlib.contextmanager
    def _prepared(self, pipeline: str, params: PictureParams, report: Reporter) -> Iterator[Any]:
        """The pipeline with the job's scheduler and LoRAs; its own scheduler comes back, whatever happens."""
        pipe = self._pipes[pipeline]
        own = pipe.scheduler
        try:
            pipe.scheduler = self._extras.schedulers.choose(own, params.scheduler)
            if ignored := self._extras.schedulers.ignored(own, params.scheduler):
                report.warn(ignored)
            check_steps(pipe.scheduler, params.num_inference_steps)
            with memory_errors():
                self._extras.apply_loras(params.loras)
            with from_the_start(pipe.scheduler):
                yield pipe
        finally:
            pipe.scheduler = own

    def _draw(self, pipe: Any, job: RunnerJob, share: Share, report: Reporter) -> Frames:
        params = job.params
        assert isinstance(params, TextToImage | ImageEdit)
        size = job.inputs["image"].size if isinstance(params, ImageEdit) else (params.width, params.height)
        drawn = canvas.enlarged(size, canvas.factor(pipe))
        wanted: dict[str, Any] = {"width": drawn[0], "height": drawn[1], "generator": noise(job.seed + share.index)}
        if isinstance(params, ImageEdit):
            wanted["image"] = canvas.extended(job.inputs["image"], drawn)
        with (
            told_cuts(pipe, job, report),
            self._previews.of(pipe, job, drawn) as showing,
            self._extras.tiling(pipe, drawn),
            share.decoding(report, pipe),
        ):
            result = pipe(
                **self._arguments[job.pipeline].call(params, wanted),
                **step_callback(pipe, share.denoising(report, showing)),
                output_type="np",
            )
        for warning in guidance_warnings(pipe, params):
            report.warn(warning)
        return canvas.cut(as_bytes(result.images), size)

"""Image to video, by Stable Video Diffusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from reelnet.parameters import CHECKED_FIRST, ImageToVideo
from runner.backend import Frames, Rendered, Reporter, RunnerJob, Served
from runner.images import fit
from runner.models.numbers import as_bytes
from runner.models.shadows import shadows_of
from runner.pipelines.clip_memory import beside_film
from runner.pipelines.family import Share, memory_errors, noise
from runner.pipelines.guidance import frame_guidance_warnings
from runner.pipelines.latent_previews import LatentPreviews
from runner.pipelines.needs import Needs
from runner.pipelines.video_memory import VideoNeeds
from runner.video_frames import ClipMaker

_ONLY = Share(0, 1)


class StableVideo:
    """Serves image-to-video. The step callback is its cancel point: it has no `_interrupt`."""

    def __init__(self, pipe: Any, clips: ClipMaker) -> None:
        self._pipe = pipe
        self._clips = clips
        self._previews = LatentPreviews(withheld=clips.safety.policy in CHECKED_FIRST)

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        return (Served("image-to-video", type(self._pipe).__name__, features=self._clips.features),)

    @property
    def loras(self) -> Mapping[str, str]:
        """None: diffusers cannot put LoRAs into this class."""
        return {}

    def needs(self) -> Needs:
        """See `Family`."""
        return beside_film(VideoNeeds(shadows_of(self._pipe.components)), self._clips.net)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """One clip that begins with the input, fitted to the asked size.

        Raises RefusedError when the operator's safety checker says so.
        """
        params = job.params
        assert isinstance(params, ImageToVideo)
        with memory_errors(), torch.inference_mode():
            clip = self._clips.clip(job, self._frames(job, params, report), report)
        yield clip

    def _frames(self, job: RunnerJob, params: ImageToVideo, report: Reporter) -> Frames:
        decodes = math.ceil(params.num_frames / params.decode_chunk_size)
        with (
            self._previews.of(self._pipe, job, (params.width, params.height)) as showing,
            _ONLY.decoding(report, self._pipe, decodes),
        ):
            result = self._pipe(
                image=fit(job.inputs["image"], (params.width, params.height), params.fit),
                height=params.height,
                width=params.width,
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                min_guidance_scale=params.min_guidance_scale,
                max_guidance_scale=params.max_guidance_scale,
                fps=params.fps,
                motion_bucket_id=params.motion_bucket_id,
                noise_aug_strength=params.noise_aug_strength,
                decode_chunk_size=params.decode_chunk_size,
                generator=noise(job.seed),
                callback_on_step_end=_ONLY.denoising(report, showing),
                output_type="np",
            )
        for warning in frame_guidance_warnings(params):
            report.warn(warning)
        return as_bytes(result.frames[0])

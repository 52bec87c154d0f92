"""Image to video by words: Wan, in the forms of its versions 2.1 and 2.2."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from reelnet.model_classes import VIDEO_PIPELINE, family_of
from reelnet.parameters import CHECKED_FIRST, PromptedVideo
from runner.backend import Frames, Rendered, Reporter, RunnerJob, Served, SetupError
from runner.images import fit
from runner.models.numbers import as_bytes
from runner.models.shadows import shadows_of
from runner.pipelines import canvas
from runner.pipelines.clip_memory import beside_film
from runner.pipelines.extras import Extras
from runner.pipelines.family import Share, memory_errors, noise
from runner.pipelines.guidance import guidance_warnings
from runner.pipelines.latent_previews import LatentPreviews
from runner.pipelines.needs import Needs
from runner.pipelines.prompt_windows import told_cuts
from runner.pipelines.prompted_memory import GROUP, LEAST_MULTIPLE, PromptedNeeds
from runner.video_frames import ClipMaker

_ONLY = Share(0, 1)


class WanVideo:
    """Serves image-to-video by its family `wan`. The step callback is the cancel point of denoising.

    Three forms are published, and one call draws with each. Wan 2.1 sees the picture through CLIP beside its VAE.
    Wan 2.2 A14B has no CLIP and two nets: `transformer` draws the noisy steps, `transformer_2` the last ones. Wan 2.2
    TI2V keeps the picture as the first latent frame, and its VAE's factor is 16.
    """

    def __init__(self, pipe: Any, extras: Extras, clips: ClipMaker) -> None:
        """`pipe`: a WanImageToVideoPipeline. Raises SetupError for nets that jobs of this family do not fit."""
        for name in _needed(pipe):
            if getattr(pipe, name) is None:
                raise SetupError(f"{name}: missing; download the whole model")
        if pipe.vae_scale_factor_temporal != GROUP:
            raise SetupError(f"its VAE groups {pipe.vae_scale_factor_temporal} frames; jobs count on {GROUP}")
        self._pipe = pipe
        self._extras = extras
        self._clips = clips
        self._previews = LatentPreviews(withheld=extras.safety.policy in CHECKED_FIRST)
        self._multiple = math.lcm(
            LEAST_MULTIPLE, *(pipe.vae_scale_factor_spatial * side for side in pipe.transformer.config.patch_size[1:])
        )

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        name = type(self._pipe).__name__
        return (Served(VIDEO_PIPELINE, name, family_of(name), self._clips.features),)

    @property
    def loras(self) -> Mapping[str, str]:
        """The LoRAs that jobs may use: id → sha256."""
        return self._extras.loras.digests if self._extras.loras else {}

    def needs(self) -> Needs:
        """See `Family`."""
        first_frame = bool(self._pipe.config.expand_timesteps)
        nets = shadows_of(self._pipe.components)
        return beside_film(PromptedNeeds(nets, first_frame, self._extras.tiling_pixels), self._clips.net)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """One clip that begins with the input, fitted to the asked size.

        Raises UnsupportedError and UserError for a LoRA, RefusedError when the operator's safety checker says so.
        """
        params = job.params
        assert isinstance(params, PromptedVideo)
        with memory_errors():
            self._extras.apply_loras(params.loras)
        with memory_errors(), torch.inference_mode():
            clip = self._clips.clip(job, self._frames(job, params, report), report)
        yield clip

    def _frames(self, job: RunnerJob, params: PromptedVideo, report: Reporter) -> Frames:
        size = params.width, params.height
        drawn = canvas.enlarged(size, self._multiple)
        with (
            told_cuts(self._pipe, job, report),
            self._previews.of(self._pipe, job, drawn) as showing,
            self._extras.tiling(self._pipe, drawn),
            self._ticking(report, params.num_frames, drawn),
        ):
            result = self._pipe(
                image=canvas.extended(fit(job.inputs["image"], size, params.fit), drawn),
                prompt=params.prompt,
                negative_prompt=params.negative_prompt,
                width=drawn[0],
                height=drawn[1],
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                guidance_scale=params.guidance_scale,
                generator=noise(job.seed),
                callback_on_step_end=_ONLY.denoising(report, showing),
                output_type="np",
            )
        for warning in guidance_warnings(self._pipe, params):
            report.warn(warning)
        return canvas.cut(as_bytes(result.frames[0]), size)

    @contextlib.contextmanager
    def _ticking(self, report: Reporter, frames: int, size: tuple[int, int]) -> Iterator[None]:
        """Has the VAE, which takes latent frames one after another, tell of each; it keeps none of them afterwards."""
        vae, latents = self._pipe.vae, 1 + (frames - 1) // GROUP
        encodes = _tiles(vae, size, vae.config.patch_size or 1) * (1 if self._pipe.config.expand_timesteps else latents)
        decodes = _tiles(vae, size) * latents
        with _ONLY.conditioning(report, vae.encoder, encodes), _ONLY.decoding(report, self._pipe, decodes):
            try:
                yield
            finally:
                vae.clear_cache()


def _needed(pipe: Any) -> Iterator[str]:
    """The nets without which a call would fail, of those that the class may lack."""
    yield "transformer"
    if getattr(getattr(pipe.transformer, "config", None), "image_dim", None) is not None:
        yield "image_encoder"
    if pipe.config.boundary_ratio is not None:
        yield "transformer_2"


def _tiles(vae: Any, size: tuple[int, int], patch: int = 1) -> int:
    """Parts in which the VAE takes a frame, by what its tiling is set to; the encoder counts in patches."""
    width, height = (side // patch for side in size)
    if not vae.use_tiling or (width <= vae.tile_sample_min_width and height <= vae.tile_sample_min_height):
        return 1
    across, down = int(vae.tile_sample_stride_width), int(vae.tile_sample_stride_height)
    return math.ceil(width / across) * math.ceil(height / down)

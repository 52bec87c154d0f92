"""The runner's settings: one file, under the environment (REELNET_RUNNER_…), under flags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from reelnet.clips import ClipLimits
from reelnet.home import model_dir
from reelnet.jobs import MAX_PREVIEW_SIDE
from reelnet.parameters import SchedulerName
from reelnet.pipelines import PIPELINES, did_you_mean
from reelnet.settings import ComponentSettings, Families, HttpLimits, Listener, Section
from runner.models.digest import FILM, LORAS
from runner.video_codecs import ClipOutput, X264Preset

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SIZE = re.compile(r"\d{2,4}x\d{2,4}(x\d{1,3})?", re.ASCII)


class Fault(Section):
    """A fault that every job has once the synthetic backend has finished some."""

    after_jobs: int = Field(0, ge=0, description="Jobs that end before the fault begins.")
    kind: str = Field(description="'hang', 'die', 'oom', 'slow 3', 'fail user' or 'fail node', each also with 'once'.")


class Synthetic(Section):
    """How the synthetic backend behaves."""

    unit_s: Seconds = Field(0.0, description="Seconds that one megapixel·step takes.")
    spread: float = Field(
        0.0, ge=0, le=2, description="Sigma of a job's lognormal time, drawn from its seed; unit_s is the median then."
    )
    spread_seed: int = Field(0, ge=0, description="Makes nodes with the same spread draw other times.")
    load_s: Seconds = Field(0.0, description="Seconds that loading the model takes.")
    memory_bytes: int = Field(0, ge=0, description="Device memory that the model is said to take.")
    output_bytes: int | None = Field(
        None, ge=1, description="Bytes of a picture, made once and padded: nothing is drawn or encoded for a job."
    )
    families: Families = Field(default_factory=dict)
    faults: tuple[Fault, ...] = Field(
        (), description="Faults by count of finished jobs; the last that applies is taken."
    )


class LicenceOverride(Section):
    """The operator's word on the model's licence."""

    id: str = Field(description="An SPDX id, or LicenseRef-….")
    commercial: Literal["yes", "no", "conditional", "unknown"] = Field("unknown", description="Commercial use.")


class Lora(Section):
    """One LoRA that jobs may ask for by its id."""

    folder: str = Field(
        min_length=1,
        description="Its folder: below `loras` in the model's folder, else an id under the models' folder, or a path.",
    )
    id: str | None = Field(None, min_length=1, max_length=256, description="Id to advertise; default: the folder.")
    file: str | None = Field(None, description="Its safetensors file; default: the only one in the folder.")
    net: Literal["transformer", "transformer_2"] | None = Field(
        None,
        description="In a model with two nets (Wan 2.2 A14B) the one that it is for: 'transformer' draws the noisy "
        "steps, 'transformer_2' the last ones; default: both.",
    )

    @property
    def advertised_id(self) -> str:
        """What a job calls it."""
        return self.id or self.folder


class RunnerSettings(ComponentSettings):
    """All that a runner can be told."""

    model_config = SettingsConfigDict(env_prefix="REELNET_RUNNER_")

    model: str = Field(
        description="Model: a folder (absolute, or starting with ./), or an id under the models' folder."
    )
    model_id: str | None = Field(None, description="Id to advertise; default: the id, or the folder's name.")
    backend: Literal["diffusers", "synthetic", "self-test"] = Field(
        "diffusers",
        description="What computes the jobs. self-test serves the toy world, which comes with the runner, and is ready "
        "only when it draws right.",
    )
    pipelines: tuple[str, ...] = Field((), description="Pipelines to serve; default: all that the model's family has.")
    models_home: Path | None = Field(None, description="Folder of models; default: $REELNET_MODELS.")
    licence: LicenceOverride | None = Field(None, description="Licence, over the one in the model's reelnet.json.")

    socket: Path | None = Field(None, description="Unix socket to listen on, made with mode 0600.")
    tcp: Listener | None = Field(None, description="Loopback TCP address to listen on; default: none.")
    tick_s: float = Field(5.0, gt=0, le=5, description="Seconds of silence after which a stream says 'tick'.")
    send_timeout_s: float = Field(60.0, gt=0, description="Seconds that a client may leave a line unread.")
    stop_timeout_s: float = Field(10.0, gt=0, description="Seconds that a job gets to stop at shutdown.")
    idle_exit_s: float | None = Field(
        None, gt=0, description="Seconds without any request after which it exits; default: never."
    )

    defunct_exit_s: float = Field(
        30.0, gt=0, description="Seconds that a runner whose device is lost says so before it exits."
    )

    max_pixels: int = Field(50_000_000, gt=0, description="Most pixels of an input picture.")
    max_clip_pixels: int = Field(1920 * 1088, gt=0, description="Most pixels of one frame of an input clip.")
    max_clip_frames: int = Field(3600, gt=0, description="Most frames of an input clip.")
    max_clip_s: float = Field(600, gt=0, description="Most seconds that an input clip may play.")
    max_body_bytes: int = Field(64 * 1024 * 1024, gt=0, description="Most bytes of one request.")
    max_json_bytes: int = Field(1024 * 1024, gt=0, description="Most bytes of a request's JSON.")
    body_s: float = Field(300, gt=0, allow_inf_nan=False, description="Seconds that a request's body may take.")
    body_stall_s: float = Field(20, gt=0, allow_inf_nan=False, description="Seconds in which it may bring nothing.")
    http: HttpLimits = Field(HttpLimits(), description="What a connection may cost before its request is known.")
    png_level: int = Field(1, ge=0, le=9, description="zlib level of PNG outputs.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="Quality of JPEG outputs.")
    crf: int = Field(
        18, ge=0, le=51, description="x264 constant rate factor of MP4 outputs; less is better and larger."
    )
    av1_crf: int = Field(6, ge=1, le=63, description="The same of AV1 outputs, by SVT-AV1's measure.")
    vp9_crf: int = Field(6, ge=0, le=63, description="The same of VP9 outputs, by libvpx's measure.")
    x264_preset: X264Preset = Field("veryfast", description="x264's preset: slower ones make smaller files.")
    av1_preset: int = Field(8, ge=0, le=13, description="SVT-AV1's preset; more is faster.")
    vp9_speed: int = Field(
        6, ge=0, le=8, description="libvpx's cpu-used; more is faster, and from 6 on it codes as for live pictures."
    )
    preview_side: int = Field(
        256, ge=32, le=MAX_PREVIEW_SIDE, description="Longest side of a preview, pixels; never over the output's."
    )
    preview_quality: int = Field(80, ge=10, le=95, description="JPEG quality of previews; less where one is too large.")
    clip_window: int = Field(4, ge=1, le=64, description="Frames of a clip that may wait to be encoded.")
    tile: int = Field(
        0, ge=0, le=4096, description="Side of an upscaler's tile, pixels of the input; 0: by the device's free memory."
    )

    device: str = Field("auto", description="'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:N'.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="Number format of the weights; auto: float32 on a CPU, on a GPU float16, and bfloat16 for "
        "transformers (SD 3, FLUX, Wan).",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none",
        description="What stays in main memory until it is needed: nothing, whole nets (some 30% slower), or single "
        "layers (many times slower).",
    )
    vae_tiling_pixels: int | None = Field(
        None,
        gt=0,
        description="Pixels from which pictures are decoded in tiles: less memory, seams of a few grey levels.",
    )
    memory_bytes: int | None = Field(
        None, gt=0, description="Device memory that the model and its jobs may take; absent: all that is free."
    )
    memory_reserve_bytes: int = Field(
        256 * 1024**2,
        ge=0,
        description="Memory that no job is let into: for what kernels take for themselves and for gaps.",
    )
    channels_last: bool = Field(True, description="Memory layout of convolution nets on a GPU that its kernels prefer.")
    compile: bool = Field(False, description="Compile the denoising net before READY: minutes at first, then faster.")
    compile_cache: Path | None = Field(None, description="Folder of compiled kernels; default: torch's, lost at exit.")
    warmup: tuple[str, ...] = Field(
        (),
        max_length=8,
        description="With compile: sizes that are compiled before READY, as 1024x576, or 1024x576x25 for clips of 25 "
        "frames; default: the model's own.",
    )
    scheduler: SchedulerName | None = Field(None, description="Scheduler of jobs that name none; default: the model's.")
    loras: tuple[Lora, ...] = Field((), max_length=64, description="LoRAs that jobs may use, and no other.")
    lora_bytes: int = Field(
        2 * 1024**3, gt=0, description="Memory of loaded LoRAs, above which the one unused for longest is dropped."
    )
    interpolation: str | None = Field(
        None,
        min_length=1,
        description="FILM for a video model's interpolate_to_fps: a folder in the model's folder, else an id under the "
        "models' folder, or a path; default: `film` in the model's folder, if it is there.",
    )
    safety: Literal["off", "flag", "blur", "refuse"] = Field(
        "off",
        description="What the safety checker in the model's folder is for: nothing, telling, blurring, or failing the "
        "job as 'refused'. blur and refuse check every job, flag those that ask for it; a job may ask for more. The "
        "synthetic backend pretends to have one.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of the model; default: torch's choice.")
    synthetic: Synthetic = Field(Synthetic(), description="Options of the synthetic backend.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("pipelines")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PIPELINES:
                raise ValueError(f"there is no pipeline {name!r}{did_you_mean(name, PIPELINES)}")
        return names

    @field_validator("warmup")
    @classmethod
    def _sizes(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            if not _SIZE.fullmatch(size):
                raise ValueError(f"{size!r} is no size: expected 1024x576, or 1024x576x25 for clips of 25 frames")
        return sizes

    @field_validator("loras")
    @classmethod
    def _named_once(cls, loras: tuple[Lora, ...]) -> tuple[Lora, ...]:
        names = [lora.advertised_id for lora in loras]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two LoRAs are called {name!r}; give one of them another id")
        return loras

    @model_validator(mode="after")
    def _compiled_alone(self) -> Self:
        if self.compile and (self.loras or self.offload != "none"):
            raise ValueError("compile: neither LoRAs nor offload go with it, which change a net after it was compiled")
        return self

    def lora_folder(self, lora: Lora) -> Path:
        """Where a LoRA lies: in the model's own `loras`, which a container can see, else below the models' folder."""
        own = self.folder / LORAS / lora.folder
        return own if own.is_dir() else model_dir(lora.folder, Path.cwd(), self.models_home)

    @property
    def interpolation_folder(self) -> Path | None:
        """Where a video model's FILM lies: in the model's folder, else below the models' folder; None: it has none."""
        own = self.folder / (self.interpolation or FILM)
        if own.is_dir():
            return own
        return model_dir(self.interpolation, Path.cwd(), self.models_home) if self.interpolation else None

    @property
    def warmup_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Width, height and, for clips, frames of what is compiled before READY."""
        return tuple(tuple(map(int, size.split("x"))) for size in self.warmup)

    @property
    def clip_output(self) -> ClipOutput:
        """How clips are written."""
        return ClipOutput(
            self.crf, self.av1_crf, self.vp9_crf, self.x264_preset, self.av1_preset, self.vp9_speed, self.clip_window
        )

    @property
    def of_clips(self) -> ClipLimits:
        """The bounds of an input clip."""
        return ClipLimits(self.max_clip_frames, self.max_clip_s, self.max_clip_pixels)

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return model_dir(self.model, Path.cwd(), self.models_home)

    @property
    def advertised_id(self) -> str:
        """The model id that the runner answers with."""
        if self.model_id:
            return self.model_id
        return self.folder.name if self.model.startswith(("/", ".", "~")) else self.model

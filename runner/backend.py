"""The port between a runner and what computes: jobs go in, frames or files come out, and reports between."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from reelnet.jobs import Licence
from reelnet.parameters import CHECKED_FIRST, Params
from reelnet.pipelines import ClipSize, MediaSpec, Pipeline, Size, Work, pipeline_named
from reelnet.warnings import JobWarning

Frames = npt.NDArray[np.uint8]
"""Pictures as RGB bytes, shape (frames, height, width, 3)."""
Pixels = npt.NDArray[np.uint8]
"""One picture as RGB bytes, shape (height, width, 3)."""
Shape = tuple[int, ...]
"""Frames, height, width, 3."""


class SetupError(Exception):
    """The model cannot be made ready; the text tells the operator why and what to do. The runner stays up."""


@dataclass(frozen=True, slots=True)
class InputClip:
    """An input clip: an MP4 file's bytes, not yet decoded, and what they were found to hold."""

    data: bytes
    source: ClipSize


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """One attempt of one job: complete parameters, inputs by name (pictures decoded), seconds that it may take.

    `canceled` is set when the job shall stop, for whatever reason; a backend that waits, waits on it. `model` is the
    one that the job came to, None for a job of the runner's own.
    """

    job_id: str
    attempt: int
    pipeline: str
    params: Params
    inputs: Mapping[str, Image.Image] = field(default_factory=dict)
    deadline_s: float | None = None
    canceled: threading.Event = field(default_factory=threading.Event)
    clips: Mapping[str, InputClip] = field(default_factory=dict)
    family: str = ""
    model: ModelInfo | None = None

    @property
    def kind(self) -> Pipeline:
        """The pipeline as the job's model has it."""
        return pipeline_named(self.pipeline, self.family)

    @property
    def promises(self) -> tuple[MediaSpec, ...]:
        """What the job's outputs have to be, in their order."""
        return self.kind.promises(self.params, self.source)

    @property
    def work(self) -> Work:
        """What the job costs in work, from its parameters and its decoded input."""
        return self.kind.work(self.params, self.source)

    @property
    def source(self) -> Size | None:
        """The size of the first input, from which work and promises may follow."""
        for picture in self.inputs.values():
            return Size(picture.width, picture.height)
        for clip in self.clips.values():
            return clip.source
        return None

    @property
    def seed(self) -> int:
        """The seed of the first output."""
        assert self.params.seed is not None, "routes refuse a job without a seed"
        return self.params.seed

    @property
    def preview_steps(self) -> int:
        """Steps from one preview to the next; 0 for none."""
        return 0 if self.params.safety in CHECKED_FIRST else getattr(self.params, "preview_steps", 0)

    def shows(self, step: int, total: int) -> bool:
        """Whether a preview is due after this step of an output; after the last one its result follows."""
        every = self.preview_steps
        return every > 0 and step < total and step % every == 0


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A clip that was encoded frame by frame: an MP4 file that has no name any more, and its frames' shape."""

    data: mmap.mmap
    shape: Shape


@dataclass(frozen=True, slots=True)
class Rendered:
    """One output. `fps`, frames a second, is None for a picture, which has one frame.

    `file` is the encoded picture of a backend that has it already, `clip` the encoded clip; they are delivered as
    they are. `alpha` is a picture's transparency, shape (height, width).
    `nsfw` None: nobody looked, which is not the same as clean.
    """

    index: int
    seed: int
    frames: Frames
    fps: int | Fraction | None = None
    nsfw: bool | None = None
    file: bytes | None = None
    clip: ClipFile | None = None
    alpha: npt.NDArray[np.uint8] | None = None

    @classmethod
    def of_clip(cls, seed: int, clip: ClipFile, rate: Fraction) -> Rendered:
        """The one output of a job whose clip is a file already."""
        return cls(0, seed, np.empty((0, 0, 0, 3), np.uint8), rate, clip=clip)

    @property
    def shape(self) -> Shape:
        """Frames, height, width, 3."""
        return self.clip.shape if self.clip else self.frames.shape

    @property
    def encoded(self) -> bool:
        """Whether there is nothing left to encode."""
        return self.clip is not None or (self.file is not None and self.fps is None)


@dataclass(frozen=True, slots=True)
class Served:
    """One pipeline that a loaded model serves; `class_name` is the diffusers class behind it.

    `family` names the parameters that it takes, where they are not the pipeline's first; `features` as in a capability.
    """

    pipeline: str
    class_name: str
    family: str = ""
    features: tuple[str, ...] = ()

    @property
    def kind(self) -> Pipeline:
        """The pipeline as this model has it."""
        return pipeline_named(self.pipeline, self.family)


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model is thought to take of its device, bytes: between jobs, and beside that for a usual job of each
    pipeline (its defaults, an input of 1024 × 576)."""

    held_bytes: int
    usual_job_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded. `digest` is sha256 as hex, `variant` the dtype, `vram_bytes` the device's memory (CPU: 0).

    `loras`: the LoRAs that jobs may use, by id, each with the sha256 of its file. `interpolation`: the digest of the
    network that makes frames between a video model's, empty for none. `memory` None: not estimated.
    """

    model: str
    digest: str
    variant: str
    served: tuple[Served, ...]
    licence: Licence = field(default_factory=Licence)
    versions: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)
    interpolation: str = ""
    device: str = "cpu"
    vram_bytes: int = 0
    memory: ModelMemory | None = None

    def class_of(self, pipeline: str) -> str | None:
        """The class that serves `pipeline`, or None when this model does not serve it."""
        row = self.serving(pipeline)
        return row.class_name if row else None

    def serving(self, pipeline: str) -> Served | None:
        """How the model serves `pipeline`, or None when it does not."""
        return next((row for row in self.served if row.pipeline == pipeline), None)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What there is of output `index` after `step` of its `total` steps.

    `draw` gives it as small pixels that cover `canvas` (width, height); the output is the part of it that begins at the
    upper left. It is called on another thread, or never, and raises whatever went wrong.
    """

    index: int
    step: int
    total: int
    canvas: tuple[int, int]
    draw: Callable[[], Pixels]


class Reporter(Protocol):
    """What a backend reports to while it runs a job."""

    def step(self, stage: str, step: int, total: int) -> None:
        """Says that `step` of `total` in a stage is done: progress, heartbeat and cancel point at once.

        Raises a ReelnetError when the job is canceled or its time is over; the backend lets it pass.
        """

    def sketch(self, sketch: Sketch) -> None:
        """Hands in what there is of an output, where the job `shows` it. Waits for nothing."""

    def warn(self, warning: JobWarning) -> None:
        """Says what of the job is not done as it was asked; the same warning counts once.

        Raises ValueError for a code that the job's pipeline does not declare.
        """


class Deaf:
    """A Reporter of jobs that nobody follows: the runner's own."""

    def step(self, stage: str, step: int, total: int) -> None:
        """As Reporter.step."""

    def sketch(self, sketch: Sketch) -> None:
        """As Reporter.sketch."""

    def warn(self, warning: JobWarning) -> None:
        """As Reporter.warn."""


class Backend(Protocol):
    """Computes jobs. `load`, `run` and `recover` are called on one thread, the model thread; `close` on any."""

    def load(self) -> ModelInfo:
        """Makes the model ready. Raises SetupError when it cannot be."""

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """Renders a job's outputs in their order. Raises a ReelnetError, or MemoryError when memory is short."""

    def recover(self) -> None:
        """After a failed job: frees caches and proves that the device still computes. Raises when it does not."""

    def memory_bytes(self) -> int:
        """The most of its device's memory that this model has taken since `load` began. Called on any thread."""

    def close(self) -> None:
        """Gives up what `load` took, and ends whatever still waits in `run`."""

"""The port between a runner and what computes: jobs go in, frames come out, and reports between."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from reelnet.jobs import Licence
from reelnet.metadata import PNG
from reelnet.pipelines import Params

Frames = npt.NDArray[np.uint8]
"""Pictures as RGB bytes, shape (frames, height, width, 3)."""


class SetupError(Exception):
    """The model cannot be made ready; the text tells the operator why and what to do. The runner stays up."""


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """One attempt of one job: complete parameters, decoded inputs by name, seconds that it may take.

    `canceled` is set when the job shall stop, for whatever reason; a backend that waits, waits on it.
    """

    job_id: str
    attempt: int
    pipeline: str
    params: Params
    inputs: Mapping[str, Image.Image] = field(default_factory=dict)
    deadline_s: float | None = None
    canceled: threading.Event = field(default_factory=threading.Event)

    @property
    def seed(self) -> int:
        """The seed of the first output."""
        assert self.params.seed is not None, "routes refuse a job without a seed"
        return self.params.seed


@dataclass(frozen=True, slots=True)
class Rendered:
    """One output, not yet encoded. `fps` is None for a picture, which has one frame.

    `file` is the encoded picture of a backend that has it already: it is delivered as it is. `media_type` is what a
    picture is encoded as. `nsfw` None: nobody looked, which is not the same as clean.
    """

    index: int
    seed: int
    frames: Frames
    fps: int | None = None
    nsfw: bool | None = None
    file: bytes | None = None
    media_type: str = PNG

    @property
    def encoded(self) -> bool:
        """Whether there is nothing left to encode."""
        return self.file is not None and self.fps is None


@dataclass(frozen=True, slots=True)
class Served:
    """One pipeline that a loaded model serves; `class_name` is the diffusers class behind it."""

    pipeline: str
    class_name: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded. `digest` is sha256 as hex, `variant` the dtype, `vram_bytes` the device's memory (CPU: 0).

    `loras`: the LoRAs that jobs may use, by id, each with the sha256 of its file.
    """

    model: str
    digest: str
    variant: str
    served: tuple[Served, ...]
    licence: Licence = field(default_factory=Licence)
    versions: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    vram_bytes: int = 0

    def class_of(self, pipeline: str) -> str | None:
        """The class that serves `pipeline`, or None when this model does not serve it."""
        return next((row.class_name for row in self.served if row.pipeline == pipeline), None)


class Reporter(Protocol):
    """What a backend reports to while it runs a job."""

    def step(self, stage: str, step: int, total: int) -> None:
        """Says that `step` of `total` in a stage is done: progress, heartbeat and cancel point at once.

        Raises a ReelnetError when the job is canceled or its time is over; the backend lets it pass.
        """


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

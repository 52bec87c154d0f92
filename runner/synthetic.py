"""A backend without a model: colour bars of the promised sizes, at a speed and with faults as configured."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from statistics import NormalDist
from typing import Never

import numpy as np

from reelnet.errors import NodeError, UserError
from reelnet.jobs import Licence
from reelnet.metadata import PNG
from reelnet.parameters import Clip, FrameInterpolation
from reelnet.pipelines import PIPELINES, MediaSpec
from reelnet.warnings import PROMPT_CUT, JobWarning
from runner import faults
from runner.backend import Frames, ModelInfo, Pixels, Rendered, Reporter, RunnerJob, Served, Sketch
from runner.images import padded, picture_of, png
from runner.provenance import note_of
from runner.safety import Safety
from runner.settings import Synthetic
from runner.synthetic_extras import SyntheticExtras
from runner.video_frames import ClipMaker, VideoParams
from runner.video_rate import at_rate
from runner.video_stream import remade

BARS = 8
SKETCH_PIXELS = 8
"""Pixels of a picture, in a row, that are one of its sketch."""
CLASS_NAME = "Synthetic"
LICENCE = Licence("CC0-1.0", "yes")


def kill_process() -> None:
    """Ends this process as the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


class SyntheticBackend:
    """Serves every pipeline (or those named) with colour bars that depend on seed and prompt and move in a clip.

    A clip comes back with each pixel repeated to the asked size, or each frame to the asked rate. LoRAs change the
    colours. `kill` is what the fault `die` calls; `pause` waits for an event, but at most some seconds. Raises
    ConfigError for an unknown kind of fault.
    """

    def __init__(
        self,
        model_id: str,
        options: Synthetic = Synthetic(),  # noqa: B008 - frozen
        pipelines: tuple[str, ...] = (),
        kill: Callable[[], None] = kill_process,
        extras: SyntheticExtras = SyntheticExtras(),  # noqa: B008 - frozen
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._model_id = model_id
        self._options = options
        self._pipelines = pipelines or tuple(PIPELINES)
        self._kill = kill
        self._extras = extras
        self._pause = pause
        self._clips = ClipMaker(extras.output, _Nearest())
        self._late = tuple(faults.LateFault(row.after_jobs, faults.configured(row.kind)) for row in options.faults)
        self._finished = 0
        self._closed = threading.Event()

    def load(self) -> ModelInfo:
        """Takes `load_s`; the digest depends on the model's id alone."""
        self._closed.wait(self._options.load_s)
        return ModelInfo(
            model=self._model_id,
            digest=hashlib.sha256(f"synthetic:{self._model_id}".encode()).hexdigest(),
            variant="none",
            served=tuple(self._served(name) for name in self._pipelines),
            licence=LICENCE,
            versions={"python": platform.python_version(), "runner": version("reelnet")},
            loras=self._extras.loras,
        )

    def _served(self, name: str) -> Served:
        makes_clips = issubclass(PIPELINES[name].params, Clip)
        features = (self._clips.features if makes_clips else ()) + self._extras.judging(name).features
        return Served(name, CLASS_NAME, self._options.families.get(name, ""), features)

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """Colour bars, one output after the other."""
        prompt = _prompt(job)
        fault = faults.choose(prompt, self._model_id, self._late, self._finished, job.attempt)
        promised = job.promises
        if faults.warned(prompt):
            report.warn(JobWarning(PROMPT_CUT, "A warning was asked for.", "prompt"))
        key = f"{prompt}{self._extras.used_loras(job.params)}"
        try:
            for index, spec in enumerate(promised):
                self._denoise(job, report, index, len(promised), fault)
                if job.clips:
                    yield self._remade(job, report, spec)
                    continue
                report.step("decode", index + 1, len(promised))
                drawn = _key(job, index, key)
                if isinstance(job.params, VideoParams):
                    yield self._clip(job, drawn, spec, report)
                else:
                    yield self._judged(job, self._picture(job, index, drawn, spec))
        finally:
            self._finished += 1

    def _judging(self, job: RunnerJob) -> Safety:
        return self._extras.judging(job.pipeline, faults.unsafe(_prompt(job), self._model_id))

    def _clip(self, job: RunnerJob, key: str, spec: MediaSpec, report: Reporter) -> Rendered:
        assert isinstance(job.params, VideoParams)
        frames = _bars(key, replace(spec, frames=job.params.num_frames))
        return replace(self._clips, safety=self._judging(job)).clip(job, frames, report)

    def _judged(self, job: RunnerJob, rendered: Rendered) -> Rendered:
        frames, nsfw = self._judging(job).judge(rendered.frames, job.params)
        file = rendered.file if frames is rendered.frames else None
        return replace(rendered, frames=frames, nsfw=nsfw, file=file)

    def _picture(self, job: RunnerJob, index: int, key: str, spec: MediaSpec) -> Rendered:
        size, seed = self._options.output_bytes, job.seed + index
        if size is None or spec.media_type not in (None, PNG) or note_of(job, seed):
            return Rendered(index, seed, _bars(key, spec))
        return Rendered(index, seed, *_prepared(spec, size))

    def _remade(self, job: RunnerJob, report: Reporter, spec: MediaSpec) -> Rendered:
        """The input clip at the asked size or rate, with its sound."""
        (clip,) = job.clips.values()
        output = self._extras.output.of(job)
        assert spec.rate is not None
        if isinstance(job.params, FrameInterpolation):
            file = at_rate(clip, job.params.fps, _Nearest(), output, report)
            return Rendered.of_clip(job.seed, file, spec.rate)
        factor = spec.width // clip.source.width

        def enlarged(pixels: Pixels) -> Pixels:
            return pixels.repeat(factor, axis=0).repeat(factor, axis=1)

        def told(frames: int) -> None:
            report.step("upscale", frames, clip.source.frames)

        return Rendered.of_clip(job.seed, remade(clip, enlarged, factor, output, told), spec.rate)

    def recover(self) -> None:
        """Nothing to free."""

    def memory_bytes(self) -> int:
        """What the options say: colour bars need none to speak of."""
        return self._options.memory_bytes

    def close(self) -> None:
        """Ends a job that hangs."""
        self._closed.set()

    def _denoise(self, job: RunnerJob, report: Reporter, index: int, outputs: int, fault: faults.Fault | None) -> None:
        steps = _steps(job)
        pause_s = self._step_s(job, steps * outputs, fault)
        for step in range(index * steps + 1, (index + 1) * steps + 1):
            if pause_s > 0:
                self._pause(job.canceled, pause_s)
            report.step("denoise", step, steps * outputs)
            if job.shows(at := step - index * steps, steps):
                report.sketch(_sketch(job, index, at, steps))
            if fault and step == 1:
                self._strike(fault.kind)

    def _step_s(self, job: RunnerJob, total_steps: int, fault: faults.Fault | None) -> float:
        """Seconds of one step: its megapixels × unit_s, and a slow job's extra time spread over all steps."""
        extra_s = fault.seconds if fault else 0.0
        work = job.kind.work(job.params, job.source)
        usual_s = work.pixel_steps / 1e6 * self._options.unit_s
        return (usual_s * spread_factor(self._options, job.seed) + extra_s) / total_steps

    def _strike(self, kind: faults.FaultKind) -> None:
        match kind:
            case faults.FaultKind.FAIL_USER:
                raise UserError("a fault was asked for", code="synthetic")
            case faults.FaultKind.FAIL_NODE:
                raise NodeError("a fault was asked for", code="synthetic")
            case faults.FaultKind.OOM:
                raise MemoryError
            case faults.FaultKind.HANG:
                self._hang()
            case faults.FaultKind.DIE:
                self._die()
            case faults.FaultKind.SLOW:
                pass  # its time is spread over the steps

    def _hang(self) -> Never:
        self._closed.wait()
        raise NodeError("the backend was closed", code="closed")

    def _die(self) -> Never:
        self._kill()
        raise NodeError("the runner should have died", code="undead")


def spread_factor(options: Synthetic, seed: int) -> float:
    """What a job's time is multiplied by: lognormal with median 1, the same for a seed each time."""
    if options.spread == 0:
        return 1.0
    drawn = hashlib.sha256(f"{options.spread_seed}:{seed}".encode()).digest()
    share = (int.from_bytes(drawn[:6]) + 0.5) / 2**48
    return math.exp(options.spread * NormalDist().inv_cdf(share))


class _Nearest:
    """In the place of a network: each frame is the nearer one of the source."""

    def between(self, first: Pixels, second: Pixels) -> _Nearer:
        return _Nearer(first, second)


class _Nearer:
    def __init__(self, first: Pixels, second: Pixels) -> None:
        self._first, self._second = first, second

    def at(self, t: float) -> Pixels:
        return self._first if t < 0.5 else self._second


def _prompt(job: RunnerJob) -> str:
    return str(getattr(job.params, "prompt", ""))


def _steps(job: RunnerJob) -> int:
    """Denoising steps of one output; image-to-image runs the share that `strength` says."""
    steps, strength = getattr(job.params, "num_inference_steps", 1), getattr(job.params, "strength", 1.0)
    return max(1, int(steps * strength))


def _key(job: RunnerJob, index: int, look: str) -> str:
    """What the colours of an output depend on."""
    return f"{job.pipeline}:{job.seed + index}:{look}"


def _sketch(job: RunnerJob, index: int, step: int, total: int) -> Sketch:
    """The output's colours, coming out of grey as the steps go."""
    spec = job.promises[index]

    def draw() -> Pixels:
        width, height = (max(BARS, side // SKETCH_PIXELS) for side in (spec.width, spec.height))
        bars = _bars(
            _key(job, index, _prompt(job)),
            replace(spec, width=width, height=height, frames=1),
        )[0]
        pixels: Pixels = (128 + (bars.astype(np.int16) - 128) * step // total).astype(np.uint8)
        return pixels

    return Sketch(index, step, total, (spec.width, spec.height), draw)


@lru_cache(maxsize=8)
def _prepared(spec: MediaSpec, size: int) -> tuple[Frames, None, None, bytes]:
    """A picture's frames and its file of `size` bytes, made at the first job that asks for them."""
    frames = _bars("prepared", spec)
    return frames, None, None, padded(png(picture_of(frames), 1), size)


def _bars(key: str, spec: MediaSpec) -> Frames:
    """Vertical bars in colours that `key` gives; each frame of a clip moves them by a part of a bar."""
    colours = np.frombuffer(hashlib.sha256(key.encode()).digest()[: BARS * 3], np.uint8).reshape(BARS, 3)
    frames = spec.frames or 1
    columns = np.arange(spec.width)
    shifts = np.arange(frames) * max(1, spec.width // (BARS * 4))
    bars = (columns[None, :] + shifts[:, None]) * BARS // spec.width % BARS
    rows = colours[bars][:, None, :, :]
    return np.ascontiguousarray(np.broadcast_to(rows, (frames, spec.height, spec.width, 3)))

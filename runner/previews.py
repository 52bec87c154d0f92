"""Previews: small JPEGs of unfinished pictures, made on a thread of their own so that no step waits for one."""

from __future__ import annotations

import io
import threading

import structlog
from PIL import Image

from reelnet.jobs import MAX_PREVIEW_BYTES
from runner.activity import Show
from runner.backend import Pixels, RunnerJob, Sketch
from runner.events import Preview
from runner.lane import Lane

log = structlog.get_logger()


class PreviewEncoder:
    """Makes a sketch a JPEG of at most MAX_PREVIEW_BYTES, with `side` pixels at most and no metadata."""

    def __init__(self, side: int = 256, quality: int = 80) -> None:
        self._side = side
        self._qualities = (quality, quality // 2, quality // 4)

    def encode(self, pixels: Pixels, canvas: tuple[int, int], size: tuple[int, int]) -> bytes | None:
        """The output of `size` on a `canvas` that `pixels` cover; None where no quality makes it small enough.

        Both sizes are width and height.
        """
        scale = min(1.0, self._side / max(size))
        box = (0, 0, pixels.shape[1] * size[0] / canvas[0], pixels.shape[0] * size[1] / canvas[1])
        shown = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        picture = Image.fromarray(pixels).resize(shown, Image.Resampling.BICUBIC, box=box)
        files = (_jpeg(picture, quality) for quality in self._qualities)
        return next((data for data in files if len(data) <= MAX_PREVIEW_BYTES), None)


class Previewer:
    """Makes previews of sketches; of those that come while it is at work it makes the newest alone."""

    def __init__(self, encoder: PreviewEncoder | None = None) -> None:
        self._encoder = encoder or PreviewEncoder()
        self._lane = Lane("preview", depth=0)
        self._lock = threading.Lock()
        self._waiting: tuple[RunnerJob, Sketch, Show] | None = None

    def start(self) -> None:
        """Begins to make previews."""
        self._lane.start()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._lane.alive

    def close(self, timeout_s: float) -> bool:
        """Ends its thread. False when that took longer than `timeout_s`."""
        return self._lane.close(timeout_s)

    def offer(self, job: RunnerJob, sketch: Sketch, show: Show) -> None:
        """Takes a sketch in the place of one that still waits."""
        with self._lock:
            idle, self._waiting = self._waiting is None, (job, sketch, show)
        if idle:
            self._lane.put(self._make)

    def _make(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, None
        assert taken is not None, "a call is put for each sketch that waits"
        job, sketch, show = taken
        try:
            spec = job.promises[sketch.index]
            data = self._encoder.encode(sketch.draw(), sketch.canvas, (spec.width, spec.height))
        except Exception as error:  # noqa: BLE001 - outermost: a preview is a wish, and the job goes on without it
            log.warning("no preview", job=job.job_id, error=type(error).__name__)
            return
        if data is not None:
            show(Preview(data, sketch.index, sketch.step, sketch.total))


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()

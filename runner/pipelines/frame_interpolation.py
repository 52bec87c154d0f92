"""Clips at another frame rate, by FILM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reelnet.parameters import VIDEO, FrameInterpolation
from runner.backend import Rendered, Reporter, RunnerJob, Served
from runner.models.film_folder import CLASS, FilmFrames
from runner.pipelines.clip_memory import FilmNeeds
from runner.pipelines.family import memory_errors
from runner.pipelines.upscale import unused
from runner.video_codecs import ClipOutput
from runner.video_rate import at_rate


class Interpolation:
    """Serves frame-interpolation. A job stops at its next frame; the seed means nothing to it."""

    def __init__(self, film: FilmFrames, output: ClipOutput) -> None:
        self._film = film
        self._output = output

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        return (Served("frame-interpolation", CLASS),)

    @property
    def loras(self) -> Mapping[str, str]:
        """None: it has no words to change."""
        return {}

    def needs(self) -> FilmNeeds:
        """See `Family`."""
        return FilmNeeds.of(self._film.film.shape, self._film.dtype)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """The clip with both its end frames as they were, and its sound."""
        params = job.params
        assert isinstance(params, FrameInterpolation)
        report.warn(unused(CLASS, "seed"))
        clip = job.clips[VIDEO]
        with memory_errors():
            file = at_rate(clip, params.fps, self._film, self._output.of(job), report)
        yield Rendered.of_clip(job.seed, file, params.fps)

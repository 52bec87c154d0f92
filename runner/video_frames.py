"""From the frames that a video model has made to the clip that its job promises."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from reelnet.errors import UnsupportedError
from reelnet.frame_rates import Schedule
from reelnet.parameters import INTERPOLATION, ImageToVideo, PromptedVideo
from runner.backend import Frames, Rendered, Reporter, RunnerJob
from runner.interpolation import Interpolator
from runner.video_codecs import ClipOutput
from runner.video_rate import frames_at_rate

VideoParams = ImageToVideo | PromptedVideo
_ASKS = "interpolate_to_fps"


@dataclass(frozen=True, slots=True)
class ClipMaker:
    """What every family of video models does with its frames. `net` makes frames between them; None: it has none."""

    output: ClipOutput
    net: Interpolator | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What a pipeline has by it, as in a capability."""
        return (INTERPOLATION,) if self.net else ()

    def check(self, params: VideoParams) -> None:
        """Raises UnsupportedError for a rate that cannot be made here. Asked before anything is computed."""
        if params.interpolate_to_fps is not None and self.net is None:
            raise UnsupportedError(
                f"{_ASKS}: this runner has no network that makes frames between frames; leave it out",
                code=INTERPOLATION,
                loc=(_ASKS,),
            )

    def clip(self, job: RunnerJob, frames: Frames, report: Reporter) -> Rendered:
        """The job's output: `frames` as they are, or a clip of as many as it asks for, encoded while they are made.

        Raises what `report` raises, at each frame that is made; NodeError when the clip cannot be written.
        """
        params = job.params
        assert isinstance(params, VideoParams)
        if params.interpolate_to_fps is None:
            return Rendered(0, job.seed, frames, fps=params.fps)
        assert self.net is not None, "check has refused it"
        rate = Fraction(params.interpolate_to_fps)
        schedule = Schedule(len(frames), Fraction(params.fps), rate)
        file = frames_at_rate(frames, schedule, self.net, self.output.of(job), report)
        return Rendered.of_clip(job.seed, file, rate)

"""From the frames that a video model has made to the clip that its job promises."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from reelnet.frame_rates import Schedule
from reelnet.parameters import INTERPOLATION, ImageToVideo, PromptedVideo
from runner.backend import Frames, Rendered, Reporter, RunnerJob
from runner.interpolation import Interpolator
from runner.safety import Safety
from runner.video_codecs import ClipOutput
from runner.video_rate import frames_at_rate

VideoParams = ImageToVideo | PromptedVideo


@dataclass(frozen=True, slots=True)
class ClipMaker:
    """What every family of video models does with its frames. `net` makes frames between them; None: it has none."""

    output: ClipOutput
    net: Interpolator | None = None
    safety: Safety = field(default_factory=Safety)

    @property
    def features(self) -> tuple[str, ...]:
        """What a pipeline has by it, as in a capability."""
        return ((INTERPOLATION,) if self.net else ()) + self.safety.features

    def clip(self, job: RunnerJob, frames: Frames, report: Reporter) -> Rendered:
        """The job's output: `frames` as they are, or a clip of as many as it asks for, encoded while they are made.

        The safety checker sees them before frames are made between them. Raises RefusedError when the operator's policy
        says so; what `report` raises, at each frame that is made; NodeError when the clip cannot be written.
        """
        params = job.params
        assert isinstance(params, VideoParams)
        frames, nsfw = self.safety.judge(frames, params)
        if params.interpolate_to_fps is None:
            return Rendered(0, job.seed, frames, fps=params.fps, nsfw=nsfw)
        assert self.net is not None, "intake refuses what the pipeline does not offer"
        rate = params.interpolate_to_fps
        schedule = Schedule(len(frames), Fraction(params.fps), rate)
        file = frames_at_rate(frames, schedule, self.net, self.output.of(job), report)
        return replace(Rendered.of_clip(job.seed, file, rate), nsfw=nsfw)

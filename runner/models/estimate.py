"""What the jobs of a model need of its device's memory, known from its architecture alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import structlog
from PIL import Image

from reelnet.parameters import VIDEO
from reelnet.pipelines import ClipSize, Pipeline, Size
from runner.backend import InputClip, ModelMemory, RunnerJob
from runner.memory_budget import Need, Offload, Profile, TracedPart
from runner.models.tracing import REFUSALS, trace
from runner.pipelines.family import Family
from runner.pipelines.needs import Needs

log = structlog.get_logger()
USUAL = Size(1024, 576)
"""The input of a usual job."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A model's traced profile, and what its family says of its jobs."""

    profile: Profile
    needs: Needs

    @classmethod
    def of(cls, needs: Needs, offload: Offload = "none") -> Self:
        """Traces each part once; no net computes, and no memory is taken."""
        nets = needs.nets
        traced = {name: TracedPart(part.net, trace(name, part, nets[part.net])) for name, part in needs.parts().items()}
        return cls(Profile(nets.weights, traced, offload), needs)

    def need(self, job: RunnerJob) -> Need:
        """The most that a job takes beside what the model holds between jobs."""
        return self.profile.need(self.needs.phases(job))

    def by_phase(self, job: RunnerJob) -> dict[str, int]:
        """What each phase of a job takes, bytes, by what it does; of several nets that do the same, the largest."""
        found: dict[str, int] = {}
        for phase in self.needs.phases(job):
            found[phase.doing] = max(found.get(phase.doing, 0), self.profile.phase_bytes(phase))
        return found


def estimate_of(family: Family, offload: Offload) -> tuple[Estimate, ModelMemory] | tuple[None, None]:
    """A loaded family's estimate, and its figures. None, with a line in the log, for nets that cannot be outlined."""
    try:
        estimate = Estimate.of(family.needs(), offload)
        usual = {row.pipeline: estimate.need(usual_job(row.kind)).size_bytes for row in family.served}
    except REFUSALS as error:
        log.warning("memory cannot be estimated; no job is refused for it", error=type(error).__name__)
        return None, None
    return estimate, ModelMemory(estimate.profile.held_bytes, usual)


def usual_job(pipeline: Pipeline, size: Size = USUAL, **params: Any) -> RunnerJob:
    """A job with a pipeline's defaults beside `params`; its input, where there is one, is of this size.

    Raises pydantic's ValidationError for parameters that the pipeline does not take.
    """
    required = {name: "-" for name, field in pipeline.params.model_fields.items() if field.is_required()}
    inputs = {name: Image.new("1", (size.width, size.height)) for name in pipeline.inputs if name != VIDEO}
    clip = InputClip(b"", ClipSize(size.width, size.height, frames=2, fps=1))
    clips = {VIDEO: clip} if VIDEO in pipeline.inputs else {}
    complete = pipeline.parse(required | {"seed": 0} | params)
    return RunnerJob("estimate", 1, pipeline.name, complete, inputs, clips=clips, family=pipeline.family)

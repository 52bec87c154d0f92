"""What the runner answers in JSON."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from reelnet.errors import FailureClass, ReelnetError
from runner.backend import ModelInfo
from runner.intake import ParamsError
from runner.worker import State, Status


class View(BaseModel):
    """A frozen answer; Python's reserved words are aliased."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, protected_namespaces=())


class StepView(View):
    """Where a job is."""

    stage: str
    step: int
    total: int


class HealthView(View):
    """`GET /health`."""

    state: State
    reason: str = Field(description="Why, where the state has a reason; else empty.")
    job: str | None = Field(description="Id of the job that has the permit.")
    step: StepView | None = Field(description="Its last progress.")
    since_s: float = Field(description="Seconds since the state began or, while BUSY, since the job last moved.")
    memory_bytes: int = Field(description="The most of its device's memory that the model has taken; 0: not known.")

    @classmethod
    def of(cls, status: Status, memory_bytes: int) -> Self:
        """The view of a worker's status, and of the memory that its model takes."""
        at = status.step
        step = StepView(stage=at.stage, step=at.step, total=at.total) if at else None
        return cls(
            state=status.state,
            reason=status.reason,
            job=status.job,
            step=step,
            since_s=round(status.since_s, 3),
            memory_bytes=memory_bytes,
        )


class LicenceView(View):
    """A model's licence."""

    id: str
    commercial: str


class PipelineView(View):
    """One pipeline that the model serves."""

    pipeline: str
    schema_: str = Field(alias="schema", description="Name of its parameters' schema, pipeline/family@version.")
    class_: str = Field(alias="class", description="The diffusers class behind it.")
    features: list[str] = Field(description="What the model has beside the pipeline: interpolation, safety.")


class MemoryView(View):
    """What a model is thought to take of its device; estimated from its architecture."""

    held_bytes: int = Field(description="Bytes between jobs.")
    usual_job_bytes: dict[str, int] = Field(
        description="Bytes beside that, by pipeline: for a job with its defaults and an input of 1024 × 576."
    )


class InfoView(View):
    """`GET /info`."""

    model: str
    digest: str = Field(description="sha256 over the model's weight and config files, hex.")
    variant: str = Field(description="The weights' number format.")
    licence: LicenceView
    pipelines: list[PipelineView]
    loras: list[str] = Field(description="Ids of the LoRAs that a job may use.")
    lora_digests: dict[str, str] = Field(description="sha256 of each LoRA's file, hex, by its id.")
    interpolation: str | None = Field(
        description="Digest of the FILM network that makes frames between the model's, as the model's own; null: none."
    )
    versions: dict[str, str]
    device: str
    vram_bytes: int = Field(description="The device's memory, 0 for a CPU.")
    memory: MemoryView | None = Field(description="None: not estimated.")

    @classmethod
    def of(cls, info: ModelInfo) -> Self:
        """The view of a loaded model."""
        return cls(
            model=info.model,
            digest=info.digest,
            variant=info.variant,
            licence=LicenceView(id=info.licence.id, commercial=info.licence.commercial),
            pipelines=[
                PipelineView(
                    pipeline=row.pipeline,
                    schema_=row.kind.schema,
                    class_=row.class_name,
                    features=list(row.features),
                )
                for row in info.served
            ],
            loras=list(info.loras),
            lora_digests=dict(info.loras),
            interpolation=info.interpolation or None,
            versions=dict(info.versions),
            device=info.device,
            vram_bytes=info.vram_bytes,
            memory=_memory(info),
        )


def _memory(info: ModelInfo) -> MemoryView | None:
    known = info.memory
    return MemoryView(held_bytes=known.held_bytes, usual_job_bytes=dict(known.usual_job_bytes)) if known else None


def error_body(error: ReelnetError) -> dict[str, Any]:
    """The body of an error before the stream: the failure class, and FastAPI's `detail`."""
    if isinstance(error, ParamsError):
        return {"detail": error.rows, "class": error.kind}
    kind: FailureClass = error.failure
    return {"detail": {"msg": error.message, "class": kind, "code": error.code}, "class": kind}

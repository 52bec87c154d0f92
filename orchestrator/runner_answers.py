"""What a runner says of itself, or a file that keeps what one said: bytes become bounded, typed values, or an error.

What a RunnerInfo holds can always be told on: its texts are printable, its numbers fit the messages' fields, and its
part of a description is far under what a message may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from reelnet.errors import FailureClass, NodeError, ReelnetError, from_class, printable
from reelnet.jobs import Licence

HEALTH_BYTES = 64 * 1024
INFO_BYTES = 1024 * 1024
"""Many times what a runner's answers take; longer ones are not read."""
MAX_TEXT_CHARS = 256
MAX_PIPELINES = 64
MAX_LORAS = 1000
MAX_FEATURES = 64
MAX_BYTES = 2**63 - 1
MAX_DESCRIBED_BYTES = 768 * 1024
"""Most bytes of a node's description that one model may take: a message has 1 MiB."""
FIELD_BYTES, CAPABILITY_BYTES = 8, 64
"""More than a text, and a capability, takes in a message beside its content."""
REASON_CHARS = 300
REFUSAL_BYTES = 64 * 1024
CLAIMS = frozenset({400, 413, 415, 422})
"""Statuses by which a runner says that the job is at fault."""
Value = TypeVar("Value")


class AnswerError(ValueError):
    """An answer or a file is not what it should be; the text names the field, and holds nothing of its content."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "has characters that cannot be printed")
    return text


Text = Annotated[str, Field(strict=True, max_length=MAX_TEXT_CHARS), AfterValidator(_printable)]
"""A name: printable, at most MAX_TEXT_CHARS characters."""
Hex = Annotated[str, Field(strict=True, pattern=r"\A[0-9a-f]{0,64}\z")]
"""A digest, lower-case hex; empty where there is none."""
ByteCount = Annotated[int, Field(strict=True, ge=0, le=MAX_BYTES)]
"""A size of memory, bytes."""
KnownBytes = Annotated[ByteCount, BeforeValidator(lambda value: 0 if value is None else value)]
"""A size of memory, bytes; null is 0, not known."""
Features = Annotated[tuple[Text, ...], Field(max_length=MAX_FEATURES)]
Loras = Annotated[dict[Text, Hex], Field(max_length=MAX_LORAS)]


def _bounded_licence(licence: Licence) -> Licence:
    if max(len(licence.id), len(licence.commercial)) > MAX_TEXT_CHARS:
        raise PydanticCustomError("licence", "is too long")
    _printable(licence.id + licence.commercial)
    return licence


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a ready runner says of itself; `schemas` and `features` by pipeline, `loras` as a capability has them."""

    digest: Hex
    schemas: Annotated[Mapping[Text, Text], Field(max_length=MAX_PIPELINES)]
    licence: Annotated[Licence, AfterValidator(_bounded_licence)]
    loras: Loras = field(default_factory=dict)
    memory_bytes: ByteCount = 0
    features: Annotated[Mapping[Text, Features], Field(max_length=MAX_PIPELINES)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """A runner's state, where it failed the reason, and the most memory that its model took, bytes (0: not known)."""

    state: str
    reason: str = ""
    memory_bytes: int = 0


def _describable(info: RunnerInfo) -> RunnerInfo:
    if described_bytes(info) > MAX_DESCRIBED_BYTES:
        raise PydanticCustomError("described", "is too much to describe")
    return info


Describable = Annotated[RunnerInfo, AfterValidator(_describable)]
"""An info that a description can hold. A field of this type is validated from JSON as strictly as /info."""


def described_bytes(info: RunnerInfo) -> int:
    """At least as many bytes as the info's capabilities take in a description, model ids and rates apart."""
    licence, loras = info.licence, info.loras
    common = CAPABILITY_BYTES + _size(info.digest, licence.id, licence.commercial)
    common += sum(2 * _size(name) + _size(digest) + FIELD_BYTES for name, digest in loras.items())
    own = (_size(p, schema, *info.features.get(p, ())) + common for p, schema in info.schemas.items())
    return sum(own)


def _size(*texts: str) -> int:
    return sum(len(text.encode()) + FIELD_BYTES for text in texts)


class _Answer(BaseModel):
    """An answer's JSON. Fields of a later version are ignored; none is converted."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Health(_Answer):
    state: str
    reason: str | None = None
    memory_bytes: KnownBytes = 0


class _Served(_Answer):
    pipeline: Text
    schema_: Text = Field(alias="schema")
    features: Features = ()


class _Licence(_Answer):
    id: Text
    commercial: Text


class _Detail(_Answer):
    msg: str
    code: Text | None = None


class _Refusal(_Answer):
    detail: _Detail | list[_Detail]
    class_: Text | None = Field(None, alias="class")


class _Info(_Answer):
    digest: Hex
    pipelines: Annotated[tuple[_Served, ...], Field(max_length=MAX_PIPELINES)]
    licence: _Licence
    lora_digests: Loras = Field(default_factory=dict)
    vram_bytes: KnownBytes = 0

    @property
    def told(self) -> RunnerInfo:
        """The same as the node knows it."""
        return RunnerInfo(
            digest=self.digest,
            schemas={row.pipeline: row.schema_ for row in self.pipelines},
            licence=Licence(self.licence.id, self.licence.commercial),
            loras=self.lora_digests,
            memory_bytes=self.vram_bytes,
            features={row.pipeline: row.features for row in self.pipelines},
        )


_HEALTH, _REFUSAL = TypeAdapter(_Health), TypeAdapter(_Refusal)
_INFO: TypeAdapter[Any] = TypeAdapter(Annotated[_Info, AfterValidator(lambda said: _describable(said.told))])


def read_health(data: bytes) -> Health:
    """The answer of `GET /health`. Raises AnswerError."""
    said = read_json(_HEALTH, data, "/health")
    return Health(printable(said.state, 32), printable(said.reason or "", REASON_CHARS), said.memory_bytes)


def read_info(data: bytes) -> RunnerInfo:
    """The answer of `GET /info`. Raises AnswerError."""
    info: RunnerInfo = read_json(_INFO, data, "/info")
    return info


def read_refusal(status: int, data: bytes) -> ReelnetError:
    """What an answer other than 200 to a job means.

    The class is the one that it names, else the user's fault for bad requests; a text that is none says the status.
    """
    named, code, text = "", None, f"HTTP {status}"
    with suppress(AnswerError):
        said = read_json(_REFUSAL, data, "the refusal")
        rows = said.detail if isinstance(said.detail, list) else [said.detail]
        named, code = said.class_ or "", rows[0].code if rows else None
        text = "; ".join(printable(row.msg, 200) for row in rows[:5]) or text
    if status in CLAIMS:
        return from_class(named or FailureClass.USER, text, code=code or "runner_refused")
    return NodeError(f"the runner refused the job: {text}", code=f"runner_{status}")


def read_json(kind: TypeAdapter[Value], data: bytes, what: str) -> Value:
    """The value of a JSON text. Raises AnswerError that names `what` and the first field that is wrong."""
    try:
        return kind.validate_json(data)
    except ValidationError as error:
        raise AnswerError(f"{what}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a value: where and what, without its content. Printable."""
    fault: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, fault["loc"]))
    text = f"{where}: {fault['msg']}" if where else str(fault["msg"])
    return printable(text, REASON_CHARS)

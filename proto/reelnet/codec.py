"""Values ↔ bytes of protobuf messages: the only file that touches message fields.

Every byte that comes over gRPC is read here. It becomes a bounded, printable value, or a `ReelnetError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError

from reelnet.errors import NodeError, ReelnetError, RefusedError, UserError, from_class, printable
from reelnet.identity import Signed
from reelnet.jobs import (
    Accepted,
    BroadcasterId,
    Capability,
    Challenge,
    Chunk,
    Description,
    Done,
    Event,
    InputRef,
    JobId,
    Licence,
    Load,
    ModelLoad,
    NodeId,
    Output,
    Preview,
    Progress,
    Queued,
    Receipt,
    Started,
    Ticket,
)
from reelnet.pipelines import Work
from reelnet.pricing import Rates, format_money, parse_money
from reelnet.v1 import orchestrator_pb2 as orchestrator
from reelnet.v1 import types_pb2 as pb
from reelnet.warnings import MAX_WARNING_CHARS, MAX_WARNINGS, JobWarning

MAX_NAME_CHARS = 256
MAX_CAPABILITIES = 1000
MAX_ITEMS = 64
MAX_LORAS = 1000
MAX_BATCH = 256
"""Frames of one batch."""
MAX_PARAMS_BYTES = 128 * 1024
"""Bytes of a job's parameters. A prompt has at most 16 KiB."""
MAX_NONCE_BYTES = 64
LATEST_MS = 2**48
"""A clock that shows more (the year 10889) shows nothing."""


@dataclass(frozen=True, slots=True)
class TicketFrame:
    """The first frame: a signed ticket, and where to go on when the attempt is already under way (index, offset)."""

    ticket: Signed
    resume_from: tuple[int, int] = (0, 0)
    batches: bool = False
    """Whether the sender reads batches."""


@dataclass(frozen=True, slots=True)
class InputChunk:
    """The next bytes of input `index`."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the attempt now."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The outputs are checked and kept."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, where no status can say so."""

    error: ReelnetError


FrameValue = TicketFrame | InputChunk | Cancel | Acknowledge | Event | Failed


@dataclass(frozen=True, slots=True)
class DescribeAnswer:
    """A node's description, and its proof for the request's challenge."""

    description: Signed
    proof: Signed | None


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """One update of a node. The first one of a call has a description and a proof.

    `now_ms` is the node's clock, None where it does not say. `refuses`: it takes no job of who watches.
    """

    description: Signed | None
    load: Load
    proof: Signed | None = None
    now_ms: int | None = None
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a watcher asks. `now_ms` is its clock, None where it does not say."""

    challenge: Challenge | None
    now_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """How full one (pipeline, model) is; times in seconds."""

    in_flight: int
    queue_age_s: float
    wait_s: float


def signed_to_message(signed: Signed) -> pb.SignedBytes:
    return pb.SignedBytes(payload=signed.payload, key=signed.key, signature=signed.signature)


def signed_from_message(message: pb.SignedBytes) -> Signed:
    return Signed(message.payload, message.key, message.signature)


def rates_to_message(rates: Rates) -> pb.Rates:
    return pb.Rates(**rates.texts())


def rates_from_message(message: pb.Rates) -> Rates:
    """Raises NodeError for an amount that is none."""
    texts = {field.name: value for field, value in message.ListFields()}
    try:
        return Rates.parse(texts)
    except ValueError as error:
        raise NodeError(printable(str(error), 200), code="rates") from None


def ticket_to_bytes(t: Ticket) -> bytes:
    """The ticket as it is signed and sent."""
    return pb.Ticket(
        job_id=t.job_id,
        attempt=t.attempt,
        broadcaster_id=t.broadcaster_id,
        node_id=t.node_id,
        node_epoch=t.node_epoch,
        pipeline=t.pipeline,
        schema=t.schema,
        model=t.model,
        model_digest=t.model_digest,
        params=t.params,
        inputs=[pb.InputRef(name=i.name, size=i.size, sha256=i.sha256, media_type=i.media_type) for i in t.inputs],
        rates=rates_to_message(t.rates),
        ceiling=format_money(t.ceiling_nano),
        deadline_ms=t.deadline_ms,
        expires_ms=t.expires_ms,
        linger_s=t.linger_s,
        pixel_steps=t.work.pixel_steps,
        output_pixels=t.work.output_pixels,
        lora_digests=t.lora_digests,
    ).SerializeToString(deterministic=True)


def ticket_from_bytes(data: bytes) -> Ticket:
    """Raises RefusedError for bytes that are no ticket."""
    m = _parse(pb.Ticket(), data, "ticket")
    if len(m.params) > MAX_PARAMS_BYTES:
        raise RefusedError(f"the ticket's parameters have more than {MAX_PARAMS_BYTES} bytes", code="ticket")
    try:
        ceiling, rates = parse_money(m.ceiling), rates_from_message(m.rates)
    except (ValueError, NodeError):
        raise RefusedError("an amount of the ticket is none", code="ticket") from None
    return Ticket(
        job_id=JobId(_name(m.job_id)),
        attempt=m.attempt,
        broadcaster_id=BroadcasterId(_name(m.broadcaster_id)),
        node_id=NodeId(_name(m.node_id)),
        node_epoch=_name(m.node_epoch),
        pipeline=_name(m.pipeline),
        schema=_name(m.schema),
        model=_name(m.model),
        model_digest=_name(m.model_digest),
        params=m.params,
        inputs=tuple(
            InputRef(_name(i.name), i.size, _name(i.sha256), _name(i.media_type)) for i in m.inputs[:MAX_ITEMS]
        ),
        work=Work(m.pixel_steps, m.output_pixels),
        rates=rates,
        ceiling_nano=ceiling,
        deadline_ms=m.deadline_ms,
        expires_ms=m.expires_ms,
        linger_s=m.linger_s,
        lora_digests=_names(m.lora_digests),
    )


def description_to_bytes(d: Description) -> bytes:
    """The description as it is signed and sent."""
    return pb.Description(
        node_id=d.node_id,
        epoch=d.epoch,
        sequence=d.sequence,
        protocol_min=d.protocol_min,
        protocol_max=d.protocol_max,
        capabilities=[_capability_to_message(c) for c in d.capabilities],
        software=d.software,
    ).SerializeToString(deterministic=True)


def description_from_bytes(data: bytes) -> Description:
    """Raises RefusedError for bytes that are no description."""
    m = _parse(pb.Description(), data, "description")
    return Description(
        node_id=NodeId(_name(m.node_id)),
        epoch=_name(m.epoch),
        sequence=m.sequence,
        protocol_min=m.protocol_min,
        protocol_max=m.protocol_max,
        capabilities=tuple(_capability_from_message(c) for c in m.capabilities[:MAX_CAPABILITIES]),
        software=_name(m.software),
    )


def _capability_to_message(c: Capability) -> pb.Capability:
    return pb.Capability(
        pipeline=c.pipeline,
        schema=c.schema,
        model=c.model,
        model_digest=c.model_digest,
        rates=rates_to_message(c.rates),
        licence=pb.Licence(id=c.licence.id, commercial=c.licence.commercial),
        loras=list(c.loras),
        lora_digests={name: digest for name, digest in c.loras.items() if digest},
        features=c.features,
        slots=c.slots,
        queue_limit=c.queue_limit,
        memory_bytes=c.memory_bytes,
    )


def _capability_from_message(m: pb.Capability) -> Capability:
    return Capability(
        pipeline=_name(m.pipeline),
        schema=_name(m.schema),
        model=_name(m.model),
        model_digest=_name(m.model_digest),
        rates=rates_from_message(m.rates),
        licence=Licence(_name(m.licence.id), _name(m.licence.commercial)),
        loras={_name(lora): _name(m.lora_digests.get(lora, "")) for lora in m.loras[:MAX_LORAS]},
        features=tuple(_name(feature) for feature in m.features[:MAX_ITEMS]),
        slots=max(1, m.slots),
        queue_limit=m.queue_limit,
        memory_bytes=m.memory_bytes,
    )


def load_to_message(load: Load) -> pb.Load:
    models = [
        pb.ModelLoad(
            pipeline=x.pipeline,
            model=x.model,
            free_slots=x.free_slots,
            in_flight=x.in_flight,
            queued=x.queued,
            warm=x.warm,
            wait_s=x.wait_s,
        )
        for x in load.models
    ]
    return pb.Load(models=models, draining=load.draining)


def load_from_message(m: pb.Load) -> Load:
    models = (
        ModelLoad(_name(x.pipeline), _name(x.model), x.free_slots, x.in_flight, x.queued, x.warm, _seconds(x.wait_s))
        for x in m.models[:MAX_CAPABILITIES]
    )
    return Load(tuple(models), m.draining)


def proof_to_bytes(challenge: Challenge, signer_id: str) -> bytes:
    """A challenge and who answers it, as it is signed and sent."""
    c = challenge
    message = pb.Proof(nonce=c.nonce, audience=c.audience, expires_ms=c.expires_ms, id=signer_id)
    return message.SerializeToString(deterministic=True)


def receipt_to_bytes(r: Receipt) -> bytes:
    """The receipt as it is signed and sent. Equal receipts have equal bytes."""
    return pb.Receipt(
        job_id=r.job_id,
        attempt=r.attempt,
        broadcaster_id=r.broadcaster_id,
        node_id=r.node_id,
        outputs=r.outputs,
        price=format_money(r.price_nano),
        model_digest=r.model_digest,
        ticket=r.ticket,
    ).SerializeToString(deterministic=True)


def challenge_to_message(c: Challenge) -> pb.Challenge:
    return pb.Challenge(nonce=c.nonce, audience=c.audience, expires_ms=c.expires_ms)


def describe_request_to_bytes(challenge: Challenge) -> bytes:
    message = orchestrator.DescribeRequest(challenge=challenge_to_message(challenge))
    return message.SerializeToString()


def watch_request_to_bytes(challenge: Challenge, now_ms: int | None = None) -> bytes:
    message = orchestrator.WatchRequest(challenge=challenge_to_message(challenge), now_ms=now_ms or 0)
    return message.SerializeToString()


def watch_request_from_bytes(data: bytes) -> WatchRequest:
    """A WatchRequest, or a DescribeRequest, which has no time. Raises UserError."""
    message = _parse(orchestrator.WatchRequest(), data, "protocol", UserError)
    return WatchRequest(_challenge(message.challenge) if message.HasField("challenge") else None, _moment(message))


def _moment(m: Any) -> int | None:
    """A peer's clock; None for none, and for a time that no clock shows."""
    return m.now_ms if 0 < m.now_ms <= LATEST_MS else None


def _challenge(m: pb.Challenge) -> Challenge:
    return Challenge(m.nonce[:MAX_NONCE_BYTES], _name(m.audience), m.expires_ms)


def describe_answer_to_bytes(answer: DescribeAnswer) -> bytes:
    message = orchestrator.DescribeResponse(
        description=signed_to_message(answer.description), proof=_optional(answer.proof)
    )
    return message.SerializeToString()


def describe_answer_from_bytes(data: bytes) -> DescribeAnswer:
    """Raises NodeError."""
    m = _parse(orchestrator.DescribeResponse(), data, "protocol", NodeError)
    return DescribeAnswer(signed_from_message(m.description), _signed(m, "proof"))


def watch_answer_to_bytes(answer: WatchAnswer) -> bytes:
    message = orchestrator.WatchResponse(
        description=_optional(answer.description),
        load=load_to_message(answer.load),
        proof=_optional(answer.proof),
        now_ms=answer.now_ms or 0,
        refuses=answer.refuses,
    )
    return message.SerializeToString()


def watch_answer_from_bytes(data: bytes) -> WatchAnswer:
    """Raises NodeError."""
    m = _parse(orchestrator.WatchResponse(), data, "protocol", NodeError)
    load = load_from_message(m.load)
    return WatchAnswer(_signed(m, "description"), load, _signed(m, "proof"), _moment(m), m.refuses)


def probe_request_to_bytes(pipeline: str, model: str) -> bytes:
    return orchestrator.ProbeRequest(pipeline=pipeline, model=model).SerializeToString()


def probe_request_from_bytes(data: bytes) -> tuple[str, str]:
    """Pipeline and model. Raises UserError."""
    m = _parse(orchestrator.ProbeRequest(), data, "protocol", UserError)
    return _name(m.pipeline), _name(m.model)


def probe_answer_to_bytes(answer: ProbeAnswer) -> bytes:
    message = orchestrator.ProbeResponse(
        in_flight=answer.in_flight, queue_age_s=answer.queue_age_s, wait_s=answer.wait_s
    )
    return message.SerializeToString()


def probe_answer_from_bytes(data: bytes) -> ProbeAnswer:
    """Raises NodeError."""
    m = _parse(orchestrator.ProbeResponse(), data, "protocol", NodeError)
    return ProbeAnswer(m.in_flight, _seconds(m.queue_age_s), _seconds(m.wait_s))


def _signed(message: Any, field: str) -> Signed | None:
    return signed_from_message(getattr(message, field)) if message.HasField(field) else None


def _optional(signed: Signed | None) -> pb.SignedBytes | None:
    return signed_to_message(signed) if signed else None


def frames_to_bytes(values: Sequence[FrameValue]) -> bytes:
    """One message for frames that go together."""
    return frames_to_message(values).SerializeToString()


def frames_from_bytes(data: bytes, blame: type[ReelnetError]) -> list[FrameValue]:
    """The values of a message in their order, none for kinds of a later version. Raises `blame` for what is none."""
    frame = _parse(pb.Frame(), data, "protocol", blame)
    try:
        return frames_from_message(frame)
    except NodeError as error:
        raise blame(error.message, code=error.code) from None


def frame_to_message(value: FrameValue) -> pb.Frame:
    """The frame of a value."""
    return pb.Frame(**_FIELDS[type(value)](value))


def frames_to_message(values: Sequence[FrameValue]) -> pb.Frame:
    """One message for frames that go together."""
    if len(values) == 1:
        return frame_to_message(values[0])
    fields: dict[str, Any] = {"batch": {"frames": [_FIELDS[type(value)](value) for value in values]}}
    return pb.Frame(**fields)


def frames_from_message(frame: pb.Frame) -> list[FrameValue]:
    """The values of a message, in their order. Kinds that this version does not know are left out: a later one may
    send them.
    """
    if frame.WhichOneof("body") != "batch":
        return [] if (value := frame_from_message(frame)) is None else [value]
    return [value for part in frame.batch.frames[:MAX_BATCH] if (value := frame_from_message(part)) is not None]


def frame_from_message(frame: pb.Frame) -> FrameValue | None:
    """The value of a message with one frame; None for a kind that this version does not know."""
    kind = frame.WhichOneof("body")
    return _FROM_FRAME[kind](getattr(frame, kind)) if kind in _FROM_FRAME else None


_FIELDS: dict[type, Callable[[Any], dict[str, Any]]] = {
    TicketFrame: lambda v: {
        "ticket": {
            "ticket": {"payload": v.ticket.payload, "key": v.ticket.key, "signature": v.ticket.signature},
            "resume_from": {"index": v.resume_from[0], "offset": v.resume_from[1]},
            "batches": v.batches,
        }
    },
    InputChunk: lambda v: {"input": {"index": v.index, "data": v.data}},
    Cancel: lambda v: {"cancel": {"reason": v.reason}},
    Acknowledge: lambda v: {"acknowledge": {}},
    Accepted: lambda v: {"accepted": {"position": v.position, "eta_s": v.eta_s, "price": format_money(v.price_nano)}},
    Queued: lambda v: {"queued": {"position": v.position, "eta_s": v.eta_s}},
    Started: lambda v: {"started": {"cold": v.cold}},
    Progress: lambda v: {"progress": {"stage": v.stage, "step": v.step, "total": v.total}},
    Preview: lambda v: {"preview": {"data": v.data, "index": v.index, "step": v.step, "total": v.total}},
    Output: lambda v: {
        "output": {
            "index": v.index,
            "media_type": v.media_type,
            "size": v.size,
            "sha256": v.sha256,
            "seed": v.seed,
            "nsfw": bool(v.nsfw),
            "clean": v.nsfw is False,
        }
    },
    Chunk: lambda v: {"chunk": {"data": v.data}},
    Done: lambda v: {
        "done": {
            "timings_s": v.timings_s,
            "price": format_money(v.price_nano),
            "model_digest": v.model_digest,
            "facts": v.facts,
            "receipt": _optional(v.receipt),
            "warnings": [each.body() for each in v.warnings],
        }
    },
    Failed: lambda v: {
        "failed": {
            "failure_class": v.error.failure,
            "code": v.error.code,
            "message": v.error.message,
            "retry_after_s": v.error.retry_after_s or 0,
        }
    },
}
"""A frame's fields by the kind of value. Nested dicts are filled in place: a message handed to another is copied, which
costs half a millisecond for a chunk."""

_FROM_FRAME: dict[str, Callable[[Any], FrameValue]] = {
    "ticket": lambda m: TicketFrame(
        signed_from_message(m.ticket), (m.resume_from.index, m.resume_from.offset), m.batches
    ),
    "input": lambda m: InputChunk(m.index, m.data),
    "cancel": lambda m: Cancel(_name(m.reason)),
    "acknowledge": lambda m: Acknowledge(),
    "accepted": lambda m: Accepted(m.position, _seconds(m.eta_s), _money(m.price)),
    "queued": lambda m: Queued(m.position, _seconds(m.eta_s)),
    "started": lambda m: Started(m.cold),
    "progress": lambda m: Progress(_name(m.stage), m.step, m.total),
    "preview": lambda m: Preview(m.data, m.index, m.step, m.total),
    "output": lambda m: Output(m.index, _name(m.media_type), m.size, _name(m.sha256), m.seed, _nsfw(m)),
    "chunk": lambda m: Chunk(m.data),
    "done": lambda m: Done(
        {_name(k): _seconds(m.timings_s[k]) for k in islice(m.timings_s, MAX_ITEMS)},
        _money(m.price),
        _name(m.model_digest),
        _names(m.facts),
        _signed(m, "receipt"),
        tuple(
            JobWarning(_name(each.code), printable(each.message, MAX_WARNING_CHARS), _name(each.parameter))
            for each in m.warnings[:MAX_WARNINGS]
        ),
    ),
    "failed": lambda m: Failed(
        from_class(m.failure_class, m.message, code=m.code, retry_after_s=_seconds(m.retry_after_s) or None)
    ),
}


def _nsfw(m: pb.Output) -> bool | None:
    return m.nsfw if m.clean or m.nsfw else None


def _names(items: Mapping[str, str]) -> dict[str, str]:
    return {_name(key): _name(items[key]) for key in islice(items, MAX_ITEMS)}


def _name(text: str) -> str:
    """A peer's word, made printable and short where it is not."""
    return text if len(text) <= MAX_NAME_CHARS and text.isprintable() else printable(text, MAX_NAME_CHARS)


def _seconds(value: float) -> float:
    """A peer's duration: finite, not negative, at most a day."""
    return min(max(value, 0.0), 86_400.0) if value == value else 0.0


def _money(text: str) -> int:
    try:
        return parse_money(text)
    except ValueError:
        raise NodeError("a price is no amount", code="price") from None


def _parse(message: Any, data: bytes, code: str, blame: type[ReelnetError] = RefusedError) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise blame(f"the bytes are no {message.DESCRIPTOR.name}", code=code) from None
    return message

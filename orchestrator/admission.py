"""Whether a node takes a ticket: pure decisions over a snapshot, each refusal with its class."""

from __future__ import annotations

from dataclasses import dataclass

from reelnet.errors import BusyError, DeadlineError, RefusedError, TransientError, UnsupportedError, UserError
from reelnet.jobs import Capability, Ticket
from reelnet.parameters import Params
from reelnet.pipelines import Pipeline, pipeline_of
from reelnet.pricing import price

MIN_RETRY_AFTER_S = 1.0
UNREACHABLE = "deadline_unreachable"
"""The code of a refusal that an estimate alone is the reason of."""
LONGEST_TICKET_MS = 3_600_000
"""A used ticket is remembered until it expires: that has to have an end."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision is made from. Times are Unix milliseconds.

    `idle`: the job could begin now. `wait_s`: the queue before this model, as expected. `least_s`: from now to the
    job's end at the least, by what is known. `refused_s`: for how long jobs of its kind have been refused for their
    time with none taken; after `retry_refused_s` one is.
    """

    node_id: str
    epoch: str
    now_ms: int
    draining: bool
    broadcasters: tuple[str, ...] | None
    capability: Capability | None
    input_limit: int
    idle: bool
    wait_s: float
    least_s: float
    refused_s: float
    retry_refused_s: float


def admit(ticket: Ticket, node: Snapshot) -> int:
    """The node's quote in nano-dollars, if it takes the ticket. Raises the typed refusal otherwise."""
    _check_addressee(ticket, node)
    capability = _check_capability(ticket, node)
    pipeline = pipeline_of(capability.schema)
    params = _check_params(ticket, pipeline, capability)
    _check_inputs(ticket, pipeline, node.input_limit)
    quote = _check_price(ticket, capability, pipeline, params)
    _check_time(ticket, node)
    return quote


def _check_addressee(ticket: Ticket, node: Snapshot) -> None:
    if ticket.node_id != node.node_id:
        raise RefusedError("the ticket is for another node", code="wrong_node")
    if ticket.node_epoch != node.epoch:
        raise TransientError("the ticket is for an earlier start of this node", code="epoch")
    if node.broadcasters is not None and ticket.broadcaster_id not in node.broadcasters:
        raise RefusedError("this node does not serve this broadcaster", code="unknown_broadcaster")
    if ticket.expires_ms <= node.now_ms:
        raise RefusedError("the ticket has expired; are both clocks right?", code="expired")
    if ticket.expires_ms > node.now_ms + LONGEST_TICKET_MS:
        raise RefusedError("the ticket is good for more than an hour; are both clocks right?", code="expires")
    if ticket.deadline_ms <= node.now_ms:
        raise DeadlineError("the job's deadline has passed")
    if node.draining:
        raise BusyError("this node is draining and takes no new job", code="draining", retry_after_s=60)


def _check_capability(ticket: Ticket, node: Snapshot) -> Capability:
    capability = node.capability
    if capability is None:
        raise UnsupportedError(f"this node does not serve {ticket.pipeline} with {ticket.model}", code="model")
    if ticket.schema != capability.schema:
        raise UnsupportedError(f"this node speaks {capability.schema}, not {ticket.schema}", code="schema")
    if ticket.model_digest != capability.model_digest:
        raise UnsupportedError("this node has other weights under that model id", code="digest")
    for name, digest in ticket.lora_digests.items():
        if capability.loras.get(name) != digest:
            raise UnsupportedError(f"this node has no LoRA {name!r} of that digest", code="lora", loc=("loras", name))
    return capability


def _check_params(ticket: Ticket, pipeline: Pipeline, capability: Capability) -> Params:
    """A node adds no default of its own, or two versions would draw and price the same job differently."""
    params = pipeline.parse_json(ticket.params)
    if missing := params.missing():
        raise UserError(f"the job's parameters are not complete: {', '.join(missing)}", code="params")
    if lacking := sorted(params.required_features().difference(capability.features)):
        message = f"this node does not offer {lacking[0]} with {ticket.model}"
        raise UnsupportedError(message, code=lacking[0], loc=(params.asking_for(lacking[0]),))
    return params


def _check_inputs(ticket: Ticket, pipeline: Pipeline, limit: int) -> None:
    names = tuple(ref.name for ref in ticket.inputs)
    if names != pipeline.inputs:
        raise UserError(f"{pipeline.name} takes the inputs {pipeline.inputs}, got {names}", code="input")
    if (size := sum(ref.size for ref in ticket.inputs)) > limit:
        raise RefusedError(f"{size} bytes of input; this node takes {limit}", code="input_size")


def _check_price(ticket: Ticket, capability: Capability, pipeline: Pipeline, params: Params) -> int:
    if ticket.rates != capability.rates:
        raise RefusedError("this node's rates have changed", code="rates")
    if not pipeline.sized_by_input and ticket.work != pipeline.work(params):
        raise RefusedError("the ticket's work units are not those of its parameters", code="work")
    quote = price(ticket.work, capability.rates)
    if quote > ticket.ceiling_nano:
        raise RefusedError("the price is over the ticket's ceiling", code="ceiling")
    return quote


def _check_time(ticket: Ticket, node: Snapshot) -> None:
    """An estimate alone refuses nobody on an idle node, and no kind of job for ever: only jobs that run correct it."""
    left_s = (ticket.deadline_ms - node.now_ms) / 1000
    if node.idle or node.least_s <= left_s or node.refused_s >= node.retry_refused_s:
        return
    raise BusyError(
        "the job would not be done by its deadline here",
        code=UNREACHABLE,
        retry_after_s=max(MIN_RETRY_AFTER_S, min(node.wait_s, node.retry_refused_s)),
    )

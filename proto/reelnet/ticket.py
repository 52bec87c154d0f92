"""The three signed documents, and what each signature covers.

A **ticket** is signed by a broadcaster and covers the whole attempt: job, attempt number, node id and epoch, model
digest, complete parameters, digest and size of each input, rates, ceiling, deadline, expiry. A **description** is
signed by a node and covers its identity, epoch and sequence, and its capabilities with their rates. A **receipt** is
signed by a node and covers what it has delivered: the ticket's digest, that of each output, the price, the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from reelnet import codec
from reelnet.errors import NodeError, RefusedError
from reelnet.identity import Identity, Signed, id_of, verify
from reelnet.jobs import Description, Done, Receipt, Ticket
from reelnet.pricing import price

TICKET_CONTEXT = "reelnet ticket v1"
DESCRIPTION_CONTEXT = "reelnet description v1"
RECEIPT_CONTEXT = "reelnet receipt v1"


def sign_ticket(identity: Identity, ticket: Ticket) -> Signed:
    """The ticket as its first frame carries it."""
    return identity.sign(TICKET_CONTEXT, codec.ticket_to_bytes(ticket))


def open_ticket(signed: Signed) -> Ticket:
    """The ticket, signed by the broadcaster that it names. Raises RefusedError otherwise.

    Whether that broadcaster is welcome is the node's own decision.
    """
    ticket = codec.ticket_from_bytes(verify(TICKET_CONTEXT, signed, id_of(signed.key)))
    if ticket.broadcaster_id != id_of(signed.key):
        raise RefusedError("the ticket names another broadcaster than the one that signed it", code="signature")
    return ticket


def sign_description(identity: Identity, description: Description) -> Signed:
    """The description as `Describe` and `Watch` carry it."""
    return identity.sign(DESCRIPTION_CONTEXT, codec.description_to_bytes(description))


def open_description(signed: Signed, expected_id: str | None) -> Description:
    """The description, signed by the node it names. Raises RefusedError otherwise.

    `expected_id` comes from the node's address (`host:port#id`). None trusts the first key that answers there: only
    for an address that nobody else can answer at.
    """
    signer = expected_id or id_of(signed.key)
    description = codec.description_from_bytes(verify(DESCRIPTION_CONTEXT, signed, signer))
    if description.node_id != signer:
        raise RefusedError("the description names another node than the one that signed it", code="signature")
    return description


def sign_receipt(identity: Identity, ticket: Ticket, outputs: Sequence[str], price_nano: int) -> Signed:
    """What a node has delivered for a ticket; `outputs` are the sha256 (hex) of its outputs in order."""
    return identity.sign(RECEIPT_CONTEXT, _receipt(ticket, outputs, price_nano))


def check_receipt(ticket: Ticket, outputs: Sequence[str], done: Done) -> None:
    """Raises NodeError unless the ticket's node has signed that it delivered these outputs, at the ticket's price."""
    if done.price_nano != price(ticket.work, ticket.rates):
        raise NodeError("the node asks for another price than the ticket's", code="price")
    if done.receipt is None:
        raise NodeError("the node has not signed what it delivered", code="receipt")
    try:
        said = verify(RECEIPT_CONTEXT, done.receipt, ticket.node_id)
    except RefusedError as error:
        raise NodeError(f"the node's receipt: {error.message}", code="receipt") from None
    if said != _receipt(ticket, outputs, done.price_nano):
        raise NodeError("the node has signed another delivery than the one that came", code="receipt")


def _receipt(t: Ticket, outputs: Sequence[str], price_nano: int) -> bytes:
    names = t.job_id, t.attempt, t.broadcaster_id, t.node_id
    digest = hashlib.sha256(codec.ticket_to_bytes(t)).hexdigest()
    return codec.receipt_to_bytes(Receipt(*names, tuple(outputs), price_nano, t.model_digest, digest))

"""The three signed documents: what a signature covers, and whose it has to be."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reelnet import codec
from reelnet.errors import NodeError, RefusedError
from reelnet.identity import Identity, Signed
from reelnet.jobs import BroadcasterId, Capability, Description, Done, InputRef, JobId, NodeId, Ticket
from reelnet.pipelines import Work
from reelnet.pricing import Rates, price
from reelnet.ticket import (
    DESCRIPTION_CONTEXT,
    TICKET_CONTEXT,
    check_receipt,
    open_description,
    open_ticket,
    sign_description,
    sign_receipt,
    sign_ticket,
)

BROADCASTER, NODE, STRANGER = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
TICKET = Ticket(
    job_id=JobId("job-1"),
    attempt=2,
    broadcaster_id=BroadcasterId(BROADCASTER.id),
    node_id=NodeId(NODE.id),
    node_epoch="0123456789abcdef",
    pipeline="image-to-video",
    schema="image-to-video/svd@1",
    model="acme/svd",
    model_digest="d" * 64,
    params=b'{"seed": 1}',
    inputs=(InputRef("image", 1000, "a" * 64, "image/png"),),
    work=Work(10, 5),
    rates=Rates(mpix_step=4500, job=1),
    ceiling_nano=1000,
    deadline_ms=2_000,
    expires_ms=1_000,
    linger_s=60,
)
DESCRIPTION = Description(
    NodeId(NODE.id),
    "epoch",
    3,
    1,
    2,
    (Capability("upscale", "upscale/x4@1", "m", "d" * 64, Rates(job=1)),),
    "reelnet/1",
)
OTHER_VALUES = {
    "work": Work(11, 5),
    "rates": Rates(mpix_step=4501, job=1),
    "inputs": (InputRef("image", 1000, "b" * 64, "image/png"),),
    "params": b'{"seed": 2}',
    "lora_digests": {"acme/ink": "c" * 64},
}


def test_a_ticket_is_opened_by_anybody() -> None:
    """The broadcaster's id is its key: a node needs no directory."""
    assert open_ticket(sign_ticket(BROADCASTER, TICKET)) == TICKET


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Ticket)])
def test_a_ticket_is_signed_whole(name: str) -> None:
    """No field can be changed without a new signature."""
    value = getattr(TICKET, name)
    other = OTHER_VALUES.get(name, f"{value}x" if isinstance(value, str) else value)
    other = other + 1 if isinstance(other, int) else other
    changed = dataclasses.replace(TICKET, **{name: other})
    signed = sign_ticket(BROADCASTER, TICKET)
    with pytest.raises(RefusedError) as caught:
        open_ticket(Signed(codec.ticket_to_bytes(changed), signed.key, signed.signature))
    assert caught.value.code == "signature"


def test_a_ticket_in_anothers_name_is_refused() -> None:
    """A stranger's own good signature under a ticket that names the broadcaster."""
    with pytest.raises(RefusedError, match="names another broadcaster"):
        open_ticket(sign_ticket(STRANGER, TICKET))


def test_one_document_never_passes_as_the_other() -> None:
    """The contexts differ: a signed description is no ticket, whatever its bytes would parse as."""
    assert TICKET_CONTEXT != DESCRIPTION_CONTEXT
    ticket_bytes, description_bytes = codec.ticket_to_bytes(TICKET), codec.description_to_bytes(DESCRIPTION)
    with pytest.raises(RefusedError):
        open_ticket(BROADCASTER.sign(DESCRIPTION_CONTEXT, ticket_bytes))
    with pytest.raises(RefusedError):
        open_description(NODE.sign(TICKET_CONTEXT, description_bytes), NODE.id)


@pytest.mark.parametrize("expected", [NODE.id, None])
def test_a_description_of_the_named_node(expected: str | None) -> None:
    """The node that the address names, or, where it names none, the one that answers."""
    assert open_description(sign_description(NODE, DESCRIPTION), expected) == DESCRIPTION


def test_a_description_by_another_node_is_refused() -> None:
    """Who answers at the address is not who was named."""
    with pytest.raises(RefusedError, match="another key"):
        open_description(sign_description(NODE, DESCRIPTION), STRANGER.id)


@pytest.mark.parametrize("expected", [STRANGER.id, None])
def test_a_description_under_a_foreign_id_is_refused(expected: str | None) -> None:
    """A node cannot describe another one, also not with its own good signature."""
    with pytest.raises(RefusedError, match="names another node"):
        open_description(sign_description(STRANGER, DESCRIPTION), expected)


def test_signed_rubbish_is_refused() -> None:
    """A good signature makes no document of bytes that are none."""
    with pytest.raises(RefusedError, match="no Ticket"):
        open_ticket(BROADCASTER.sign(TICKET_CONTEXT, b"\xff\xff"))
    with pytest.raises(RefusedError, match="no Description"):
        open_description(NODE.sign(DESCRIPTION_CONTEXT, b"\xff\xff"), NODE.id)
    with pytest.raises(RefusedError):
        open_ticket(Signed(b"", b"", b""))


DIGESTS = ["a" * 64, "b" * 64]
QUOTE = price(TICKET.work, TICKET.rates)
DONE = Done({}, QUOTE, "d" * 64)


def test_a_receipt_names_what_was_delivered() -> None:
    """The ticket's node has signed for these outputs, in this order, at this price."""
    check_receipt(TICKET, DIGESTS, dataclasses.replace(DONE, receipt=sign_receipt(NODE, TICKET, DIGESTS, QUOTE)))


@pytest.mark.parametrize(
    "receipt",
    [
        None,
        sign_receipt(STRANGER, TICKET, DIGESTS, QUOTE),
        sign_receipt(NODE, TICKET, DIGESTS[::-1], QUOTE),
        sign_receipt(NODE, TICKET, DIGESTS[:1], QUOTE),
        sign_receipt(NODE, TICKET, DIGESTS, QUOTE + 1),
        sign_receipt(NODE, dataclasses.replace(TICKET, attempt=3), DIGESTS, QUOTE),
        sign_receipt(NODE, dataclasses.replace(TICKET, params=b'{"seed": 2}'), DIGESTS, QUOTE),
        sign_receipt(NODE, dataclasses.replace(TICKET, job_id=JobId("job-2")), DIGESTS, QUOTE),
        sign_receipt(NODE, dataclasses.replace(TICKET, broadcaster_id=BroadcasterId(STRANGER.id)), DIGESTS, QUOTE),
        sign_receipt(NODE, dataclasses.replace(TICKET, model_digest="e" * 64), DIGESTS, QUOTE),
        Signed(b"", b"", b""),
    ],
)
def test_another_receipt_is_refused(receipt: Signed | None) -> None:
    """None, a stranger's, or one for another delivery: it is the node's failure."""
    with pytest.raises(NodeError) as refused:
        check_receipt(TICKET, DIGESTS, dataclasses.replace(DONE, receipt=receipt))
    assert refused.value.code == "receipt"


def test_a_price_is_the_tickets() -> None:
    """A node that signs for more than the ticket's work and rates make is not paid by its own word."""
    dear = dataclasses.replace(DONE, price_nano=10**12, receipt=sign_receipt(NODE, TICKET, DIGESTS, 10**12))
    with pytest.raises(NodeError) as refused:
        check_receipt(TICKET, DIGESTS, dear)
    assert refused.value.code == "price"


@pytest.mark.parametrize("size", [0, 31, 33, 2**20])
def test_a_key_of_another_length_is_none(size: int) -> None:
    """Whatever a stranger sends as a key costs nothing, and is not kept."""
    for opening in (open_ticket, lambda signed: open_description(signed, None)):
        with pytest.raises(RefusedError, match="32 bytes"):
            opening(Signed(b"", b"k" * size, b"s" * 64))

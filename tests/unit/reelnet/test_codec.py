"""Values as messages and back; what a peer sends is bounded on the way in."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet import codec
from reelnet.codec import Acknowledge, Cancel, Failed, FrameValue, InputChunk, TicketFrame
from reelnet.errors import FailureClass, NodeError, RefusedError, from_class
from reelnet.identity import Signed
from reelnet.jobs import (
    Accepted,
    BroadcasterId,
    Capability,
    Chunk,
    Description,
    Done,
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
    Started,
    Ticket,
)
from reelnet.pipelines import Work
from reelnet.pricing import NANO, Rates
from reelnet.v1 import types_pb2 as pb

visible = st.text(st.characters(exclude_categories=("C", "Z")), max_size=30)
name = st.one_of(visible, st.just("acme/sd-1.5"))
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
money = st.integers(0, 10**9 * NANO - 1)
seconds = st.floats(0, 86_400)
data = st.binary(max_size=50)
rates = st.builds(Rates, money, money, money, money)
signed = st.builds(Signed, data, data, data)
failures = st.builds(
    lambda c, text, code, wait: from_class(c, text, code=code, retry_after_s=wait),
    st.sampled_from(FailureClass), visible, visible.filter(bool), st.one_of(st.none(), st.floats(0.001, 86_400)),
)  # fmt: skip
events: dict[type, st.SearchStrategy[Any]] = {
    TicketFrame: st.builds(TicketFrame, signed, st.tuples(u32, u64)),
    InputChunk: st.builds(InputChunk, u32, data),
    Cancel: st.builds(Cancel, name),
    Acknowledge: st.just(Acknowledge()),
    Accepted: st.builds(Accepted, u32, seconds, money),
    Queued: st.builds(Queued, u32, seconds),
    Started: st.builds(Started, st.booleans()),
    Progress: st.builds(Progress, name, u32, u32),
    Preview: st.builds(Preview, data, u32, u32, u32),
    Output: st.builds(Output, u32, name, u64, name, u64, st.none() | st.booleans()),
    Chunk: st.builds(Chunk, data),
    Done: st.builds(
        Done,
        st.dictionaries(name, seconds, max_size=5),
        money,
        name,
        st.dictionaries(name, name, max_size=5),
    ),
}
names = st.dictionaries(name, name, max_size=3)
capabilities = st.builds(
    Capability, name, name, name, name, rates, st.builds(Licence, name, name), names,
    st.integers(1, 2**32 - 1), u32, u64, st.lists(name, max_size=3).map(tuple),
)  # fmt: skip
descriptions = st.builds(
    Description, name.map(NodeId), name, u64, u32, u32, st.lists(capabilities, max_size=3).map(tuple), name
)
loads = st.builds(
    Load,
    st.lists(st.builds(ModelLoad, name, name, u32, u32, u32, st.booleans(), seconds), max_size=3).map(tuple),
    st.booleans(),
)
tickets = st.builds(
    Ticket, name.map(JobId), u32, name.map(BroadcasterId), name.map(NodeId), name, name, name, name, name, data,
    st.lists(st.builds(InputRef, name, u64, name, name), max_size=3).map(tuple), st.builds(Work, u64, u64), rates,
    money, u64, u64, u32, names,
)  # fmt: skip


def through(value: FrameValue) -> FrameValue | None:
    """The value after a way over the wire."""
    return codec.frame_from_message(pb.Frame.FromString(codec.frame_to_message(value).SerializeToString()))


@pytest.mark.parametrize("kind", events, ids=lambda kind: kind.__name__)
@given(choice=st.data())
def test_a_frame_comes_back_as_it_was(kind: type, choice: st.DataObject) -> None:
    """Every kind of frame, with every value in its bounds."""
    value = choice.draw(events[kind])
    assert type(value) is kind
    assert through(value) == value


@given(failures)
def test_a_failure_comes_back_as_it_was(error: Any) -> None:
    """Class, code, text and wait."""
    back = through(Failed(error))
    assert isinstance(back, Failed)
    assert type(back.error) is type(error)
    seen = (back.error.message, back.error.code, back.error.retry_after_s)
    assert seen == (error.message, error.code, error.retry_after_s)


@given(tickets)
def test_a_ticket_comes_back_as_it_was(ticket: Ticket) -> None:
    """Every field, and the same bytes each time: they are what is signed."""
    assert codec.ticket_from_bytes(codec.ticket_to_bytes(ticket)) == ticket
    assert codec.ticket_to_bytes(ticket) == codec.ticket_to_bytes(ticket)


@given(descriptions)
def test_a_description_comes_back_as_it_was(description: Description) -> None:
    """Every field of every capability."""
    assert codec.description_from_bytes(codec.description_to_bytes(description)) == description


@given(loads)
def test_a_load_comes_back_as_it_was(load: Load) -> None:
    """Every model's figures."""
    assert codec.load_from_message(pb.Load.FromString(codec.load_to_message(load).SerializeToString())) == load


@given(rates)
def test_rates_come_back_as_they_were(r: Rates) -> None:
    """Exact to the nano-dollar."""
    assert codec.rates_from_message(codec.rates_to_message(r)) == r


def test_every_kind_of_frame_has_its_value() -> None:
    """The codec's table is the message's oneof, no kind left out."""
    kinds = {field.name for field in pb.Frame.DESCRIPTOR.oneofs_by_name["body"].fields}
    values = [*(kind for kind in events), Failed]
    assert len(values) == len(kinds - {"batch"}) == 13


@given(st.data())
def test_a_batch_is_its_frames(choice: st.DataObject) -> None:
    """One message holds several frames in their order; a single one needs no batch."""
    kinds = choice.draw(st.lists(st.sampled_from(list(events)), min_size=1, max_size=8))
    values = [choice.draw(events[kind]) for kind in kinds]
    message = pb.Frame.FromString(codec.frames_to_message(values).SerializeToString())
    assert codec.frames_from_message(message) == values
    assert (message.WhichOneof("body") == "batch") is (len(values) > 1)


def test_a_batch_is_bounded_and_never_nested() -> None:
    """A batch within a batch says nothing, and a stranger's endless one ends."""
    inner = pb.Frame(batch={"frames": [{"cancel": {}}]})
    nested = pb.Frame(batch=pb.Batch(frames=[inner, pb.Frame(started=pb.Started())]))
    assert codec.frames_from_message(nested) == [Started(cold=False)]
    endless = pb.Frame(batch={"frames": [{"started": {}}] * (codec.MAX_BATCH + 1)})
    assert len(codec.frames_from_message(endless)) == codec.MAX_BATCH


@pytest.mark.parametrize("frame", [b"", b"\x9a\x1f\x03abc"], ids=["empty", "a later version's kind"])
def test_an_unknown_kind_is_no_value(frame: bytes) -> None:
    """A later version may send frames that this one does not know: they are passed over."""
    assert codec.frame_from_message(pb.Frame.FromString(frame)) is None


def test_unknown_fields_are_passed_over() -> None:
    """A later version's field does not disturb those that are known."""
    known = pb.Progress(stage="denoise", step=1, total=2).SerializeToString()
    frame = pb.Frame(progress=pb.Progress.FromString(known + b"\x9a\x1f\x03abc"))
    assert codec.frame_from_message(frame) == Progress("denoise", 1, 2)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [(math.nan, 0.0), (math.inf, 86_400.0), (-math.inf, 0.0), (-1.0, 0.0), (1e300, 86_400.0), (5e-324, 5e-324), (7, 7)],
)
def test_a_peers_seconds_are_tamed(sent: float, taken: float) -> None:
    """Finite, not negative, a day at most, wherever a peer sends a duration."""
    values = (
        codec.frame_from_message(pb.Frame(queued=pb.Queued(eta_s=sent))),
        codec.frame_from_message(pb.Frame(accepted=pb.Accepted(eta_s=sent, price="0"))),
        codec.frame_from_message(pb.Frame(done=pb.Done(timings_s={"denoise": sent}, price="0"))),
        codec.load_from_message(pb.Load(models=[pb.ModelLoad(wait_s=sent)])).models[0],
        codec.frame_from_message(pb.Frame(failed=pb.Failed(retry_after_s=sent))),
    )
    queued, accepted, done, load, failed = values
    assert isinstance(queued, Queued)
    assert isinstance(accepted, Accepted)
    assert isinstance(done, Done)
    assert isinstance(failed, Failed)
    assert (queued.eta_s, accepted.eta_s, done.timings_s["denoise"], load.wait_s) == (taken,) * 4
    assert failed.error.retry_after_s == (taken or None)


def test_hostile_lengths_are_cut() -> None:
    """Names, lists and maps of a peer are bounded before anything else sees them, and nothing in them hides."""
    long = "\x1b[2J\u202e" + "a" * 5000
    many = [f"{i:04}{long}" for i in range(codec.MAX_LORAS + 1)]
    offer = pb.Capability(pipeline=long, model=long, loras=many, licence=pb.Licence(id=long, commercial=long))
    offers = [offer, *(pb.Capability() for _ in range(codec.MAX_CAPABILITIES))]
    description = codec.description_from_bytes(
        pb.Description(node_id=long, software=long, capabilities=offers).SerializeToString()
    )
    assert len(description.capabilities) == codec.MAX_CAPABILITIES
    first = description.capabilities[0]
    assert len(first.loras) == codec.MAX_LORAS
    seen = (description.node_id, description.software, first.pipeline, first.model, first.licence.id, *first.loras)
    assert all(len(text) == codec.MAX_NAME_CHARS and text.isprintable() for text in seen)


def test_a_hostile_done_is_cut() -> None:
    """Maps of a thousand entries and names of a thousand characters."""
    many = {f"{i:04}" + "b" * 1000: 1.0 for i in range(1000)}
    value = codec.frame_from_message(
        pb.Frame(done=pb.Done(timings_s=many, facts=dict.fromkeys(many, "c" * 999), price="0"))
    )
    assert isinstance(value, Done)
    assert len(value.timings_s) == len(value.facts) == codec.MAX_ITEMS
    assert max(map(len, [*value.timings_s, *value.facts, *value.facts.values()])) == codec.MAX_NAME_CHARS


def test_a_ticket_has_few_inputs() -> None:
    """A ticket with thousands of inputs is cut, so that it matches no pipeline."""
    ticket = pb.Ticket(ceiling="0", inputs=[pb.InputRef(name="image")] * 5000)
    assert len(codec.ticket_from_bytes(ticket.SerializeToString()).inputs) == codec.MAX_ITEMS


def test_a_capability_has_a_slot() -> None:
    """A capability that claims no slot would be a division by zero."""
    description = pb.Description(capabilities=[pb.Capability(slots=0)])
    assert codec.description_from_bytes(description.SerializeToString()).capabilities[0].slots == 1


@pytest.mark.parametrize("text", ["", "free", "-1", "1e9", "nan", "0.0000000001"])
def test_a_nodes_price_that_is_no_amount_is_its_failure(text: str) -> None:
    """The quote of a node is an amount, or the attempt fails as the node's."""
    for frame in (pb.Frame(accepted=pb.Accepted(price=text)), pb.Frame(done=pb.Done(price=text))):
        with pytest.raises(NodeError) as caught:
            codec.frame_from_message(frame)
        assert caught.value.code == "price"


def test_a_nodes_rates_that_are_no_amounts_are_its_failure() -> None:
    """A description with such rates is not taken."""
    offer = pb.Capability(rates=pb.Rates(job="cheap\x1b[0m"))
    with pytest.raises(NodeError) as caught:
        codec.description_from_bytes(pb.Description(capabilities=[offer]).SerializeToString())
    assert caught.value.code == "rates"
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("ticket", [pb.Ticket(ceiling="lots"), pb.Ticket(ceiling="1", rates=pb.Rates(job="cheap"))])
def test_a_tickets_amounts_that_are_none_are_refused(ticket: pb.Ticket) -> None:
    """The node refuses the broadcaster's ticket: it is no failure of the node."""
    with pytest.raises(RefusedError):
        codec.ticket_from_bytes(ticket.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_refusal(junk: bytes) -> None:
    """A stranger's bytes never raise anything but the two errors that are told."""
    for read in (codec.ticket_from_bytes, codec.description_from_bytes):
        with contextlib.suppress(RefusedError, NodeError):
            read(junk)

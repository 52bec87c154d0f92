"""What is on the wire today stays readable: recorded messages, read and written by this version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from reelnet import codec
from reelnet.codec import Failed, TicketFrame
from reelnet.errors import BusyError, RefusedError
from reelnet.identity import Signed
from reelnet.ticket import open_description, open_ticket
from reelnet.v1 import broadcaster_pb2 as broadcaster
from reelnet.v1 import orchestrator_pb2 as orchestrator
from reelnet.v1 import types_pb2 as pb
from tests.contract.record_wire import (
    BATCH,
    BROADCASTER,
    DESCRIPTION,
    DESCRIPTION_WITH_FEATURES,
    FOLDER,
    FRAMES,
    LATER_FRAMES,
    LOAD,
    NODE,
    TICKET,
    TICKET_FOR_BATCHES,
    TICKET_WITH_LORA,
    messages,
    record,
)

RECORDINGS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.bin"))}
FILES = (pb.DESCRIPTOR, orchestrator.DESCRIPTOR, broadcaster.DESCRIPTOR)
BROADCASTER_ID = "aoqqpp7tzyil4hlq3umoos6atft6jvrqtosq2xy53sdgiesvgg4a"
"""The fixed broadcaster key's id, and so the recorded ticket's signer."""


def message_type(name: str) -> type[Message]:
    """The message type of a recording, from its name."""
    if name.startswith("frame-"):
        return pb.Frame
    if name.endswith("-signed"):
        return pb.SignedBytes
    camel = "".join(word.title() for word in name.partition("-with-")[0].split("-"))
    found = next(
        getattr(m, camel) for m in (pb, orchestrator, broadcaster) if camel in m.DESCRIPTOR.message_types_by_name
    )
    assert issubclass(found, Message)
    return found


def read(name: str) -> Message:
    """A recorded message, read by this version."""
    return message_type(name).FromString(RECORDINGS[name])


def signed(name: str) -> Signed:
    """A recorded document under its signature."""
    message = read(name)
    assert isinstance(message, pb.SignedBytes)
    return codec.signed_from_message(message)


def fields_in(message: Message) -> Iterator[str]:
    """The full names of the message itself and of every field that is set in it, at any depth."""
    yield message.DESCRIPTOR.full_name
    for field, value in message.ListFields():
        yield field.full_name
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.type == FieldDescriptor.TYPE_MESSAGE and not is_map:
            for item in value if field.is_repeated else [value]:
                yield from fields_in(item)


def declared(message: Descriptor) -> Iterator[str]:
    """The full names of a message and of its fields."""
    yield message.full_name
    yield from (field.full_name for field in message.fields)


@pytest.mark.parametrize("kind", [field.name for field in pb.Frame.DESCRIPTOR.oneofs_by_name["body"].fields])
def test_each_kind_of_frame_is_recorded_and_read(kind: str) -> None:
    """The recorded bytes of every kind give the value that was sent."""
    values = codec.frames_from_message(pb.Frame.FromString(RECORDINGS[f"frame-{kind}"]))
    if kind == "batch":
        assert values == BATCH
        return
    (value,), expected = values, FRAMES[kind]
    if isinstance(expected, Failed):
        assert isinstance(value, Failed)
        assert type(value.error) is BusyError
        assert (value.error.code, value.error.retry_after_s) == ("queue_full", 2.5)
        assert value.error.message == "every place for this model is taken"
    else:
        assert value == expected


@pytest.mark.parametrize("name", LATER_FRAMES)
def test_later_fields_of_frames_are_recorded_and_read(name: str) -> None:
    """The recorded bytes give the value that was sent; a clean output is told from one that nobody looked at."""
    assert codec.frame_from_message(pb.Frame.FromString(RECORDINGS[f"frame-{name}"])) == LATER_FRAMES[name]


def test_later_fields_of_documents_are_recorded_and_read() -> None:
    """The digests of LoRAs, in a ticket and in a description, and the features of a capability."""
    assert codec.ticket_from_bytes(RECORDINGS["ticket-with-lora"]) == TICKET_WITH_LORA
    assert codec.description_from_bytes(RECORDINGS["description-with-features"]) == DESCRIPTION_WITH_FEATURES


@pytest.mark.parametrize("name", RECORDINGS)
def test_this_version_writes_the_recorded_bytes(name: str) -> None:
    """The same value gives the same bytes today, and nothing in the recording is unknown or lost."""
    message = messages().get(name)
    assert message is not None, "a recording without its value: put it back into record_wire.py"
    assert message.SerializeToString(deterministic=True) == RECORDINGS[name]
    assert read(name).SerializeToString(deterministic=True) == RECORDINGS[name]
    assert read(name) == message


def test_every_message_and_field_is_in_a_recording() -> None:
    """A new field or message needs a new recording, so that its number and type cannot change unnoticed."""
    recorded = {name for recording in RECORDINGS for name in fields_in(read(recording))}
    everything = {
        name for file in FILES for message in file.message_types_by_name.values() for name in declared(message)
    }
    assert everything - recorded == set()


def test_the_recorded_ticket_is_valid() -> None:
    """A signature made by an earlier version is checked by this one, over the bytes as they were sent."""
    ticket = open_ticket(signed("ticket-signed"))
    assert ticket == TICKET == codec.ticket_from_bytes(RECORDINGS["ticket"])
    assert ticket.broadcaster_id == BROADCASTER_ID == BROADCASTER.id
    assert signed("ticket-signed").payload == RECORDINGS["ticket"]
    frame = codec.frame_from_message(pb.Frame.FromString(RECORDINGS["frame-ticket"]))
    assert isinstance(frame, TicketFrame)
    assert open_ticket(frame.ticket) == TICKET
    assert (frame.resume_from, frame.batches) == ((1, 262_144), False)
    later = codec.frame_from_message(pb.Frame.FromString(RECORDINGS["frame-ticket-for-batches"]))
    assert later == TICKET_FOR_BATCHES


def test_the_recorded_description_is_valid() -> None:
    """For the node that it names, wherever it travels, and for no other."""
    assert open_description(signed("description-signed"), NODE.id) == DESCRIPTION
    with pytest.raises(RefusedError):
        open_description(signed("description-signed"), BROADCASTER.id)
    answers = (read("describe-response"), read("watch-response"))
    assert [open_description(codec.signed_from_message(a.description), NODE.id) for a in answers] == [DESCRIPTION] * 2  # type: ignore[attr-defined]


def test_the_recorded_load_is_read() -> None:
    """The node's figures, alone and in an update."""
    assert codec.load_from_message(pb.Load.FromString(RECORDINGS["load"])) == LOAD
    assert codec.load_from_message(orchestrator.WatchResponse.FromString(RECORDINGS["watch-response"]).load) == LOAD


def test_recordings_are_only_added(tmp_path: Path) -> None:
    """The script writes what is missing, says nothing of what is the same, and refuses to change anything."""
    assert sorted(record(tmp_path)) == sorted(f"{name}.bin" for name in messages())
    assert record(tmp_path) == []
    (tmp_path / "load.bin").write_bytes(b"older bytes")
    (tmp_path / "ticket.bin").unlink()
    with pytest.raises(FileExistsError, match=r"never changed: load\.bin"):
        record(tmp_path)
    assert (tmp_path / "load.bin").read_bytes() == b"older bytes"
    assert not (tmp_path / "ticket.bin").exists(), "all or nothing"

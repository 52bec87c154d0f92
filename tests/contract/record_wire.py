"""Records what the protocol's messages look like on the wire, for `test_wire.py` and for later versions.

    .venv/bin/python -m tests.contract.record_wire

One file a message in `tests/contract/wire/`, made from the values below with a fixed key: the same bytes at each run.

**A recording that exists is never written again**: it stands for the programs that are already out there and still
send it. A file that is there with other bytes is an error (exit code 1), and nothing is written. A new field or a new
kind of frame gets a new recording, under a new name, beside the old ones; a message that has to change its old bytes
is a break of the protocol, and belongs into `reelnet.v2`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from reelnet import codec
from reelnet.codec import Acknowledge, Cancel, Failed, FrameValue, InputChunk, TicketFrame
from reelnet.errors import BusyError
from reelnet.identity import Identity
from reelnet.jobs import (
    Accepted,
    BroadcasterId,
    Capability,
    Challenge,
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
    Receipt,
    Started,
    Ticket,
)
from reelnet.pipelines import Work
from reelnet.pricing import Rates
from reelnet.proof import sign_proof
from reelnet.ticket import sign_description, sign_receipt, sign_ticket
from reelnet.v1 import broadcaster_pb2 as broadcaster
from reelnet.v1 import orchestrator_pb2 as orchestrator
from reelnet.v1 import types_pb2 as pb
from reelnet.warnings import JobWarning

NOW_MS = 1_800_000_000_000
FOLDER = Path(__file__).with_name("wire")
BROADCASTER = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NODE = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64))))
RATES = Rates(mpix_step=4_500, output_mpix=12_000, job=1_000_000, cold_load=2_000_000_000)

TICKET = Ticket(
    job_id=JobId("019a3b4c5d6e0123456789abcdef"),
    attempt=2,
    broadcaster_id=BroadcasterId(BROADCASTER.id),
    node_id=NodeId(NODE.id),
    node_epoch="00112233445566ff",
    pipeline="image-to-video",
    schema="image-to-video/svd@1",
    model="acme/svd",
    model_digest="d1" * 32,
    params=b'{"seed":7,"safety_check":true,"height":576,"width":1024,"num_frames":14,"fps":6}',
    inputs=(InputRef("image", 5, "a7" * 32, "image/png"),),
    work=Work(206_438_400, 8_257_536),
    rates=RATES,
    ceiling_nano=2_500_000_000,
    deadline_ms=1_800_000_600_000,
    expires_ms=1_800_000_060_000,
    linger_s=60,
)
DESCRIPTION = Description(
    node_id=NodeId(NODE.id),
    epoch="00112233445566ff",
    sequence=3,
    protocol_min=1,
    protocol_max=2,
    capabilities=(
        Capability(
            pipeline="image-to-video",
            schema="image-to-video/svd@1",
            model="acme/svd",
            model_digest="d1" * 32,
            rates=RATES,
            licence=Licence("LicenseRef-acme", "conditional"),
            loras={"acme/watercolour": ""},
            slots=2,
            queue_limit=8,
            memory_bytes=80 * 2**30,
        ),
        Capability("upscale", "upscale/x4@1", "acme/x4", "e2" * 32, Rates()),
    ),
    software="reelnet/0.1.0",
)
TICKET_WITH_LORA = replace(
    TICKET, params=b'{"loras":{"acme/watercolour":0.8}}', lora_digests={"acme/watercolour": "f3" * 32}
)
DESCRIPTION_WITH_FEATURES = replace(
    DESCRIPTION,
    capabilities=(
        replace(
            DESCRIPTION.capabilities[0],
            schema="image-to-video/svd@3",
            loras={"acme/watercolour": "f3" * 32},
            features=("interpolation", "safety"),
        ),
    ),
)
LOAD = Load((ModelLoad("image-to-video", "acme/svd", 1, 2, 3, warm=True, wait_s=12.5),), draining=True)
CHALLENGE = Challenge(bytes(range(32)), BROADCASTER.id, 1_800_000_300_000)
CHALLENGED_MS = 1_800_000_000_000
"""When the node answers it."""
RECEIPT = Receipt(
    TICKET.job_id, TICKET.attempt, TICKET.broadcaster_id, TICKET.node_id, ("b8" * 32, "c9" * 32), 930_000,
    TICKET.model_digest, "e4" * 32,
)  # fmt: skip
DONE = Done({"denoise": 9.5, "decode": 1.25}, 930_000, "d1" * 32, {"class": "H200", "torch": "2.14.1"})

FRAMES: dict[str, FrameValue] = {
    "ticket": TicketFrame(sign_ticket(BROADCASTER, TICKET), resume_from=(1, 262_144)),
    "input": InputChunk(1, b"\x89PNG\x00"),
    "cancel": Cancel("the client left"),
    "acknowledge": Acknowledge(),
    "accepted": Accepted(position=4, eta_s=30.25, price_nano=930_000),
    "queued": Queued(position=1, eta_s=7.5),
    "started": Started(cold=True),
    "progress": Progress("denoise", 12, 25),
    "preview": Preview(b"\xff\xd8\xff\xe0"),
    "output": Output(1, "video/mp4", 1_000_000, "b8" * 32, seed=8, nsfw=True),
    "chunk": Chunk(b"ftypisom"),
    "done": DONE,
    "failed": Failed(BusyError("every place for this model is taken", retry_after_s=2.5)),
}
"""A value of each kind of frame, by the name of its body."""
BATCH: list[FrameValue] = [FRAMES["accepted"], FRAMES["started"], FRAMES["output"], FRAMES["chunk"], FRAMES["done"]]
LATER_FRAMES: dict[str, FrameValue] = {
    "preview-of-step": Preview(b"\xff\xd8\xff\xe0", index=1, step=12, total=25),
    "output-clean": Output(0, "image/png", 1_000_000, "b8" * 32, seed=7, nsfw=False),
    "done-with-receipt": replace(DONE, receipt=sign_receipt(NODE, TICKET, ["b8" * 32, "c9" * 32], 930_000)),
    "done-with-warnings": replace(DONE, warnings=(JobWarning("prompt_cut", "read up to 'moss'", "prompt"),)),
    "output-unchecked": Output(0, "image/png", 1_000_000, "b8" * 32, seed=7, nsfw=None),
}
"""Values that need fields which came later."""
TICKET_FOR_BATCHES = TicketFrame(sign_ticket(BROADCASTER, TICKET), batches=True)


def messages() -> dict[str, Message]:
    """Every recorded message by its recording's name."""
    description = codec.signed_to_message(sign_description(NODE, DESCRIPTION))
    load = codec.load_to_message(LOAD)
    watch = orchestrator.WatchResponse(description=description, load=load)
    challenge = codec.challenge_to_message(CHALLENGE)
    proof = codec.signed_to_message(sign_proof(NODE, CHALLENGE, CHALLENGED_MS))
    proven = orchestrator.WatchResponse(description=description, load=load, proof=proof)
    return {
        "challenge": challenge,
        "proof": pb.Proof.FromString(codec.proof_to_bytes(CHALLENGE, NODE.id)),
        "proof-signed": proof,
        "receipt": pb.Receipt.FromString(codec.receipt_to_bytes(RECEIPT)),
        "describe-request-with-challenge": orchestrator.DescribeRequest(challenge=challenge),
        "describe-response-with-proof": orchestrator.DescribeResponse(description=description, proof=proof),
        "watch-request-with-challenge": orchestrator.WatchRequest(challenge=challenge),
        "watch-request-with-clock": orchestrator.WatchRequest(challenge=challenge, now_ms=NOW_MS),
        "watch-response-with-refusal": orchestrator.WatchResponse(load=load, now_ms=NOW_MS, refuses=True),
        "watch-response-with-proof": proven,
        "join-request-with-challenge": broadcaster.JoinRequest(update=proven, challenge=challenge),
        "join-response-with-proof": broadcaster.JoinResponse(session="5e551017", challenge=challenge, proof=proof),
        **{f"frame-{name}": codec.frame_to_message(value) for name, value in {**FRAMES, **LATER_FRAMES}.items()},
        "frame-batch": codec.frames_to_message(BATCH),
        "frame-ticket-for-batches": codec.frame_to_message(TICKET_FOR_BATCHES),
        "ticket": pb.Ticket.FromString(codec.ticket_to_bytes(TICKET)),
        "ticket-signed": codec.signed_to_message(sign_ticket(BROADCASTER, TICKET)),
        "ticket-with-lora": pb.Ticket.FromString(codec.ticket_to_bytes(TICKET_WITH_LORA)),
        "description-with-features": pb.Description.FromString(codec.description_to_bytes(DESCRIPTION_WITH_FEATURES)),
        "description": pb.Description.FromString(codec.description_to_bytes(DESCRIPTION)),
        "description-signed": description,
        "load": load,
        "describe-request": orchestrator.DescribeRequest(),
        "describe-response": orchestrator.DescribeResponse(description=description),
        "watch-request": orchestrator.WatchRequest(),
        "watch-response": watch,
        "probe-request": orchestrator.ProbeRequest(pipeline="image-to-video", model="acme/svd"),
        "probe-response": orchestrator.ProbeResponse(in_flight=2, queue_age_s=3.5, wait_s=12.5),
        "join-request": broadcaster.JoinRequest(update=watch),
        "join-response": broadcaster.JoinResponse(session="5e551017"),
    }


def record(folder: Path) -> list[str]:
    """Writes the recordings that are missing; gives their names. Raises FileExistsError for one that would change."""
    wanted = {f"{name}.bin": message.SerializeToString(deterministic=True) for name, message in messages().items()}
    changed = [name for name in wanted if (folder / name).exists() and (folder / name).read_bytes() != wanted[name]]
    if changed:
        raise FileExistsError(f"recordings are only added, never changed: {', '.join(changed)}")
    folder.mkdir(exist_ok=True)
    new = [name for name in wanted if not (folder / name).exists()]
    for name in new:
        (folder / name).write_bytes(wanted[name])
    return new


if __name__ == "__main__":
    try:
        added = record(FOLDER)
    except FileExistsError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{len(added)} recorded: {' '.join(added)}\n")

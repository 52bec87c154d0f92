"""Which tickets a node takes, and with which class and code it refuses the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.admission import LONGEST_TICKET_MS, UNREACHABLE, Snapshot, Spooling, admit
from reelnet.errors import FailureClass, ReelnetError
from reelnet.jobs import BroadcasterId, Capability, InputRef, JobId, NodeId, Ticket
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES, Work
from reelnet.pricing import Rates, price

NOW_MS = 1_800_000_000_000
PARAMS = TextToImage(prompt="a fox", width=512, height=512, num_inference_steps=10, seed=1)
WORK = PIPELINES["text-to-image"].work(PARAMS)
RATES = Rates(mpix_step=1000, job=5)
QUOTE = price(WORK, RATES)
OFFER = Capability("text-to-image", "text-to-image/sd@1", "acme/sd", "d" * 64, RATES)
NODE = Snapshot(
    node_id="node",
    epoch="epoch",
    now_ms=NOW_MS,
    draining=False,
    broadcasters=None,
    capability=OFFER,
    input_limit=1000,
    spool=Spooling("/state/spool", 100, 100),
    idle=True,
    wait_s=0.0,
    least_s=0.0,
    refused_s=0.0,
    retry_refused_s=60.0,
)
TICKET = Ticket(
    job_id=JobId("job"),
    attempt=1,
    broadcaster_id=BroadcasterId("broadcaster"),
    node_id=NodeId("node"),
    node_epoch="epoch",
    pipeline="text-to-image",
    schema=OFFER.schema,
    model=OFFER.model,
    model_digest=OFFER.model_digest,
    params=PARAMS.model_dump_json().encode(),
    inputs=(),
    work=WORK,
    rates=RATES,
    ceiling_nano=QUOTE,
    deadline_ms=NOW_MS + 60_000,
    expires_ms=NOW_MS + 30_000,
)
PICTURE = InputRef("image", 1000, "a" * 64, "image/png")
CLASS = FailureClass


def ticket(**changes: Any) -> Ticket:
    return dataclasses.replace(TICKET, **changes)


def node(**changes: Any) -> Snapshot:
    return dataclasses.replace(NODE, **changes)


def refusal(asked: Ticket, by: Snapshot = NODE) -> ReelnetError:
    with pytest.raises(ReelnetError) as caught:
        admit(asked, by)
    return caught.value


def test_a_good_ticket_gets_its_quote() -> None:
    """The quote is the ticket's work at the node's rates; a ceiling that it just reaches is enough."""
    assert admit(TICKET, NODE) == QUOTE
    assert admit(TICKET, node(broadcasters=("other", "broadcaster"))) == QUOTE
    assert admit(ticket(ceiling_nano=QUOTE * 2), NODE) == QUOTE


# In the order in which they are found: a ticket with several faults is refused for the first.
REFUSALS: list[tuple[dict[str, Any], dict[str, Any], FailureClass, str]] = [
    ({"node_id": "another"}, {}, CLASS.REFUSED, "wrong_node"),
    ({"node_epoch": "before"}, {}, CLASS.TRANSIENT, "epoch"),
    ({}, {"broadcasters": ("friend",)}, CLASS.REFUSED, "unknown_broadcaster"),
    ({"expires_ms": NOW_MS}, {}, CLASS.REFUSED, "expired"),
    ({"expires_ms": NOW_MS + LONGEST_TICKET_MS + 1}, {}, CLASS.REFUSED, "expires"),
    ({"deadline_ms": NOW_MS}, {}, CLASS.DEADLINE, "deadline"),
    ({}, {"draining": True}, CLASS.BUSY, "draining"),
    ({}, {"spool": Spooling("/state/spool", 99, 100)}, CLASS.BUSY, "disk_full"),
    ({}, {"capability": None}, CLASS.UNSUPPORTED, "model"),
    ({"schema": "text-to-image/sd@2"}, {}, CLASS.UNSUPPORTED, "schema"),
    ({"model_digest": "e" * 64}, {}, CLASS.UNSUPPORTED, "digest"),
    ({"params": b'{"prompt": "x"}'}, {}, CLASS.USER, "params"),
    ({"inputs": (PICTURE,)}, {}, CLASS.USER, "input"),
    ({"rates": Rates(mpix_step=999, job=5)}, {}, CLASS.REFUSED, "rates"),
    ({"work": Work(WORK.pixel_steps - 1, WORK.output_pixels)}, {}, CLASS.REFUSED, "work"),
    ({"ceiling_nano": QUOTE - 1}, {}, CLASS.REFUSED, "ceiling"),
    ({}, {"idle": False, "least_s": 61.0}, CLASS.BUSY, "deadline_unreachable"),
]
IDS = [code for *_, code in REFUSALS]


@pytest.mark.parametrize(("asked", "by", "failure", "code"), REFUSALS, ids=IDS)
def test_each_refusal_has_its_class_and_code(
    asked: dict[str, Any], by: dict[str, Any], failure: FailureClass, code: str
) -> None:
    """The broadcaster's next step hangs on the class, an operator's on the code."""
    error = refusal(ticket(**asked), node(**by))
    assert (error.failure, error.code) == (failure, code)
    assert (error.retry_after_s is not None) is (failure is CLASS.BUSY)


@pytest.mark.parametrize("place", range(len(REFUSALS) - 1), ids=IDS[:-1])
def test_the_first_fault_is_named(place: int) -> None:
    """Who the ticket is for and from comes before anything that it says: a stranger learns nothing of the node."""
    asked: dict[str, Any] = {}
    by: dict[str, Any] = {}
    for later in reversed(REFUSALS[place:]):
        asked |= later[0]
        by |= later[1]
    assert refusal(ticket(**asked), node(**by)).code == IDS[place]


def test_a_node_fills_in_no_default() -> None:
    """Two versions would draw and price a job differently if each added its own defaults: the ticket names all."""
    error = refusal(ticket(params=b'{"seed": 1, "prompt": "boat"}'), node())
    assert (error.failure, error.code) == (CLASS.USER, "params")
    assert "guidance_scale" in error.message


def test_a_feature_has_to_be_offered() -> None:
    """A job that asks for a safety checker is not begun where there is none: it would come back unchecked."""
    params = PARAMS.model_copy(update={"safety": "flag"})
    asked = ticket(params=params.model_dump_json().encode())
    assert (refusal(asked, node()).failure, refusal(asked, node()).code) == (CLASS.UNSUPPORTED, "safety")
    assert admit(asked, node(capability=dataclasses.replace(OFFER, features=("safety",)))) == QUOTE


def test_an_unknown_pipeline_is_unsupported() -> None:
    """A pipeline that this version does not know is not the user's fault: a newer node may have it."""
    error = refusal(ticket(pipeline="inpainting"), node(capability=None))
    assert error.failure is CLASS.UNSUPPORTED


def test_inputs_are_the_pipelines() -> None:
    """Missing, misnamed and doubled inputs are refused, and so is more than the node takes."""
    offer = dataclasses.replace(OFFER, pipeline="upscale", schema="upscale/x4@1")
    by = node(capability=offer)
    whole = b'{"seed": 1, "prompt": "", "num_inference_steps": 75, "safety_check": true}'
    asked = ticket(pipeline="upscale", schema=offer.schema, params=whole, inputs=(PICTURE,))
    assert admit(asked, by) == QUOTE
    for inputs in ((), (PICTURE, PICTURE), (dataclasses.replace(PICTURE, name="mask"),)):
        assert refusal(dataclasses.replace(asked, inputs=inputs), by).code == "input"
    large = dataclasses.replace(asked, inputs=(dataclasses.replace(PICTURE, size=1001),))
    assert (refusal(large, by).failure, refusal(large, by).code) == (CLASS.REFUSED, "input_size")


def test_the_work_of_a_video_is_checked() -> None:
    """A clip's work does not depend on its input: a ticket that claims less would be a clip for nothing."""
    offer = dataclasses.replace(OFFER, pipeline="image-to-video", schema="image-to-video/svd@1")
    params = PIPELINES["image-to-video"].parse({"seed": 1})
    asked = ticket(
        pipeline="image-to-video", schema=offer.schema, params=params.model_dump_json().encode(), inputs=(PICTURE,),
        work=Work(0, 0), ceiling_nano=10**12,
    )  # fmt: skip
    assert refusal(asked, node(capability=offer)).code == "work"


@pytest.mark.parametrize(("least_s", "taken"), [(0, True), (60, True), (60.1, False)])
def test_a_job_that_would_be_late_is_not_begun(least_s: float, taken: bool) -> None:
    """Better refused now than expired later; the wait that is expected says when to ask again."""
    by = node(idle=False, least_s=least_s, wait_s=30.0)
    if taken:
        assert admit(TICKET, by) == QUOTE
    else:
        assert refusal(TICKET, by).retry_after_s == 30


def test_a_full_disk_is_named() -> None:
    """The refusal says which folder, how much is free, and what its operator can do."""
    with pytest.raises(ReelnetError, match=r"/state/spool is full \(1 MiB free, and 256 are kept\).*`home`") as error:
        admit(TICKET, dataclasses.replace(NODE, spool=Spooling("/state/spool", 2**20, 2**28)))
    assert error.value.retry_after_s


def test_an_idle_node_refuses_nobody_for_an_estimate() -> None:
    """A wrong one would never be corrected: only jobs that run are learned from."""
    assert admit(TICKET, node(least_s=1e6)) == QUOTE


def test_a_kind_of_job_that_is_refused_is_tried_again() -> None:
    """When none of it has been taken for so long, also on a node that is never idle."""
    by = node(idle=False, least_s=1e6, retry_refused_s=20.0)
    assert refusal(TICKET, dataclasses.replace(by, refused_s=19.9)).code == UNREACHABLE
    assert admit(TICKET, dataclasses.replace(by, refused_s=20.0)) == QUOTE


@pytest.mark.parametrize(("wait_s", "told_s"), [(0.0, 1.0), (30.0, 30.0), (1e6, 60.0)])
def test_a_refusal_for_time_says_when_to_ask_again(wait_s: float, told_s: float) -> None:
    """Never at once, which would be a loop, and never later than the kind is tried again."""
    assert refusal(TICKET, node(idle=False, least_s=61.0, wait_s=wait_s)).retry_after_s == told_s


def test_a_ticket_is_good_for_an_hour_at_most() -> None:
    """A stolen one would be good for a year."""
    year_ms = 365 * 24 * 3600 * 1000
    assert refusal(ticket(expires_ms=NOW_MS + year_ms), node()).code == "expires"
    assert admit(ticket(expires_ms=NOW_MS + LONGEST_TICKET_MS), node()) == QUOTE

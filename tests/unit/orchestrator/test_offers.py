"""What a node says it serves: learned from runners, signed, at rates that may change under tickets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.offers import Offers
from orchestrator.runner_client import RunnerInfo
from orchestrator.settings import ModelSettings
from reelnet.identity import Identity
from reelnet.jobs import Description, Licence, NodeId, Ticket
from reelnet.pricing import Rates
from reelnet.ticket import open_description

GRACE_S = 30.0
SCHEMAS = {"text-to-image": "text-to-image/sd@2", "upscale": "upscale/esrgan@1"}
INFO = RunnerInfo("d" * 64, SCHEMAS, Licence("MIT", "yes"), {"lora": "f" * 64}, 7, {"upscale": ("safety",)})


@dataclass
class Shop:
    """Offers with a clock of the test's, and how often their change was told."""

    identity: Identity
    now: float = 1000.0
    told: int = 0
    offers: Offers = field(init=False)

    def __post_init__(self) -> None:
        self.offers = Offers(self.identity, "epoch", lambda: self.now, self._told, devices=2)

    def _told(self) -> None:
        self.told += 1

    @property
    def description(self) -> Description:
        """What is said, its signature checked."""
        return open_description(self.offers.description, NodeId(self.identity.id))

    def rates(self, asked: Rates, model: str = "acme/sd") -> Rates | None:
        """The rates at which a ticket of these rates would be taken; other ones than asked mean a refusal."""
        ticket = SimpleNamespace(pipeline="text-to-image", model=model, rates=asked)
        found = self.offers.for_ticket(cast(Ticket, ticket))
        return found.rates if found else None


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A node that has learned nothing yet."""
    return Shop(Identity.load_or_create(tmp_path / "identity.key"))


def model(price: str | None = None, name: str = "acme/sd", **more: Any) -> ModelSettings:
    """A model, at so many dollars a picture."""
    pipelines = {"text-to-image": {"price": {"job": price}}} if price else {}
    return ModelSettings.model_validate({"model": name, "pipelines": pipelines, **more})


def test_nothing_is_offered_before_it_is_known(shop: Shop) -> None:
    """The description is signed and empty."""
    assert shop.description.capabilities == ()
    assert shop.rates(Rates()) is None


def test_what_a_runner_serves_is_offered(shop: Shop) -> None:
    """All its pipelines, free, where none is named; those that are named at their prices."""
    shop.offers.learn(model(replicas=2, queue=5), INFO)
    offered = {c.pipeline: c for c in shop.description.capabilities}
    assert offered.keys() == {"text-to-image", "upscale"}
    sd = offered["text-to-image"]
    assert (sd.schema, sd.model_digest, sd.licence, sd.loras) == (
        "text-to-image/sd@2", "d" * 64, Licence("MIT", "yes"), {"lora": "f" * 64}
    )  # fmt: skip
    assert {name: offer.features for name, offer in offered.items()} == {"text-to-image": (), "upscale": ("safety",)}
    assert (sd.rates, sd.slots, sd.queue_limit, sd.memory_bytes) == (Rates(), 2, 5, 7)
    shop.offers.learn(model("0.01"), INFO)
    (only,) = shop.description.capabilities
    assert (only.pipeline, only.rates) == ("text-to-image", Rates(job=10_000_000))


@pytest.mark.parametrize(("replicas", "device", "slots"), [(1, None, 1), (2, None, 2), (5, None, 2), (2, "cuda:0", 1)])
def test_slots_are_what_runs_at_once(shop: Shop, replicas: int, device: str | None, slots: int) -> None:
    """One job a runner and one a device that may hold the model: of two devices, or of the one that it is pinned to."""
    shop.offers.learn(model(replicas=replicas, device=device), INFO)
    assert {c.slots for c in shop.description.capabilities} == {slots}
    shop.offers.apply([model(replicas=1)], GRACE_S)
    assert {c.slots for c in shop.description.capabilities} == {1}


def test_each_change_is_a_new_description(shop: Shop) -> None:
    """With a higher number, told once; what changes nothing is not told."""
    first = shop.description.sequence
    shop.offers.learn(model(), INFO)
    shop.offers.learn(model(), INFO)
    assert (shop.told, shop.description.sequence) == (1, first + 1)
    shop.offers.apply([model()], GRACE_S)
    assert shop.told == 1
    shop.offers.apply([model(queue=1)], GRACE_S)
    assert (shop.told, shop.description.sequence) == (2, first + 2)


def test_what_is_not_configured_any_more_is_not_offered(shop: Shop) -> None:
    """And comes back as it was known, without a load."""
    shop.offers.learn(model(), INFO)
    shop.offers.learn(model(name="acme/other"), INFO)
    shop.offers.apply([model()], GRACE_S)
    assert {c.model for c in shop.description.capabilities} == {"acme/sd"}
    assert shop.rates(Rates(), "acme/other") is None
    shop.offers.apply([model(), model(name="acme/other"), model(name="acme/new")], GRACE_S)
    assert {c.model for c in shop.description.capabilities} == {"acme/sd", "acme/other"}


def test_former_rates_are_good_for_the_grace(shop: Shop) -> None:
    """Whatever their number; then the ticket is compared with the rates of now."""
    old, newer, now = (Rates(job=cents * 10_000_000) for cents in (1, 2, 3))
    shop.offers.learn(model("0.01"), INFO)
    shop.offers.apply([model("0.02")], GRACE_S)
    shop.now += GRACE_S / 2
    shop.offers.apply([model("0.03")], GRACE_S)
    assert [shop.rates(rates) for rates in (old, newer, now)] == [old, newer, now]
    shop.now += GRACE_S / 2
    assert [shop.rates(rates) for rates in (old, newer, now)] == [now, newer, now]
    shop.now += GRACE_S / 2
    assert [shop.rates(rates) for rates in (old, newer, now)] == [now, now, now]
    assert shop.rates(Rates(job=1)) == now, "rates that were never asked"
    assert {c.rates for c in shop.description.capabilities} == {now}, "nobody is told of former ones"


def test_no_grace_is_no_grace(shop: Shop) -> None:
    """0 seconds refuse the next ticket."""
    shop.offers.learn(model("0.01"), INFO)
    shop.offers.apply([model("0.02")], 0)
    assert shop.rates(Rates(job=10_000_000)) == Rates(job=20_000_000)


def test_rates_of_a_model_that_is_gone_are_no_good(shop: Shop) -> None:
    """The grace is for rates, not for what is not served."""
    shop.offers.learn(model("0.01"), INFO)
    shop.offers.apply([model("0.02")], GRACE_S)
    shop.offers.apply([], GRACE_S)
    assert shop.rates(Rates(job=10_000_000)) is None

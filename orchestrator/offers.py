"""What the node says it serves, and at which rates: its capabilities, and the signed description of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version

from orchestrator.runner_client import RunnerInfo
from orchestrator.settings import ModelSettings
from reelnet.identity import Identity, Signed
from reelnet.jobs import Capability, Description, NodeId, Ticket
from reelnet.pricing import Rates
from reelnet.rpc import PROTOCOL
from reelnet.ticket import sign_description

Key = tuple[str, str]
"""(pipeline, model)."""


class Offers:
    """The capabilities of a node, by (pipeline, model). `on_change` is called after each change of the description.

    A ticket at the rates from before a reload is still good for a while: it was written before its broadcaster knew.
    """

    def __init__(
        self, identity: Identity, epoch: str, clock: Callable[[], float], on_change: Callable[[], None], devices: int
    ) -> None:
        """`devices`: how many there are, which bounds what runs at once."""
        self.by_key: dict[Key, Capability] = {}
        self._identity = identity
        self._epoch = epoch
        self._clock = clock
        self._on_change = on_change
        self._devices = devices
        self._infos: dict[str, RunnerInfo] = {}
        self._former: dict[Key, dict[Rates, float]] = {}
        self._sequence = 0
        self.description = self._sign()

    def learn(self, model: ModelSettings, info: RunnerInfo) -> None:
        """A runner serves the model, or did so before; what it serves becomes known."""
        self._infos[model.model_id] = info
        self._take({**self._without(model.model_id), **_capabilities(model, info, self._devices)})

    def apply(self, models: Iterable[ModelSettings], rates_grace_s: float) -> None:
        """Takes over other rates, pipelines, queues; what is not configured any more is not offered any more."""
        wanted: dict[Key, Capability] = {}
        for model in models:
            if info := self._infos.get(model.model_id):
                wanted |= _capabilities(model, info, self._devices)
        now = self._clock()
        for key, before in self.by_key.items():
            former = {rates: until for rates, until in self._former.get(key, {}).items() if until > now}
            if key in wanted and wanted[key].rates != before.rates:
                former[before.rates] = now + rates_grace_s
            self._former[key] = former
        self._take(wanted)

    def for_ticket(self, ticket: Ticket) -> Capability | None:
        """The capability that a ticket asks for, at the rates that it names if they were right a moment ago."""
        key = ticket.pipeline, ticket.model
        now = self.by_key.get(key)
        good_until = self._former.get(key, {}).get(ticket.rates, 0.0)
        return replace(now, rates=ticket.rates) if now and self._clock() < good_until else now

    def _without(self, model_id: str) -> dict[Key, Capability]:
        return {key: offer for key, offer in self.by_key.items() if key[1] != model_id}

    def _take(self, offers: dict[Key, Capability]) -> None:
        if offers != self.by_key:
            self.by_key = offers
            self.description = self._sign()
            self._on_change()

    def _sign(self) -> Signed:
        self._sequence += 1
        offers = tuple(self.by_key[key] for key in sorted(self.by_key))
        node_id, software = NodeId(self._identity.id), f"reelnet/{version('reelnet')}"
        told = Description(node_id, self._epoch, self._sequence, PROTOCOL, PROTOCOL, offers, software)
        return sign_description(self._identity, told)


def _capabilities(model: ModelSettings, info: RunnerInfo, devices: int) -> dict[Key, Capability]:
    return {
        (pipeline, model.model_id): _capability(model, pipeline, schema, info, model.at_once(devices))
        for pipeline, schema in info.schemas.items()
        if not model.pipelines or pipeline in model.pipelines
    }


def _capability(model: ModelSettings, pipeline: str, schema: str, info: RunnerInfo, slots: int) -> Capability:
    offer = model.pipelines.get(pipeline)
    return Capability(
        pipeline=pipeline,
        schema=schema,
        model=model.model_id,
        model_digest=info.digest,
        rates=offer.rates if offer else Rates(),
        licence=info.licence,
        loras=info.loras,
        slots=slots,
        queue_limit=model.queue,
        memory_bytes=info.memory_bytes,
        features=info.features.get(pipeline, ()),
    )

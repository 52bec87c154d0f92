"""What `GET /models` answers: what the pool serves, and every node with its state."""

from __future__ import annotations

from collections import Counter
from typing import Any

from broadcaster.registry import NodeRecord, Offer, Registry
from reelnet.jobs import Capability


def pool_body(registry: Registry) -> dict[str, Any]:
    """Offers, each with what some of its nodes have beside it, and nodes with what they say of themselves."""
    records = registry.nodes()
    offers = [
        {
            "pipeline": offer[0],
            "model": offer[1],
            "nodes": count,
            "features": registry.found(offer, "feature"),
            "loras": _loras(offer, records),
        }
        for offer, count in sorted(registry.offers().items())
    ]
    return {"offers": offers, "nodes": [_node(record) for record in records]}


def _loras(offer: Offer, records: list[NodeRecord]) -> dict[str, dict[str, int]]:
    """The LoRAs of an offer, by id, each with how many nodes have which file of that id (sha256, hex)."""
    found: dict[str, Counter[str]] = {}
    for record in records:
        if record.up and offer in record.capabilities:
            for name, digest in record.capabilities[offer].loras.items():
                found.setdefault(name, Counter())[digest] += 1
    return {name: dict(digests) for name, digests in sorted(found.items())}


def _node(record: NodeRecord) -> dict[str, Any]:
    return {
        "node": record.node_id,
        "address": record.address.target,
        "up": record.up,
        "reason": record.reason,
        "serves": [_capability(c) for c in record.capabilities.values()],
    }


def _capability(c: Capability) -> dict[str, Any]:
    return {
        "pipeline": c.pipeline,
        "model": c.model,
        "schema": c.schema,
        "digest": c.model_digest,
        "licence": {"id": c.licence.id, "commercial": c.licence.commercial},
        "price": c.rates.texts(),
        "slots": c.slots,
        "features": sorted(c.features),
        "loras": dict(c.loras),
    }

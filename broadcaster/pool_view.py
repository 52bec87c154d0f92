"""What the pool is like: what `GET /models` answers, and why nobody serves anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from broadcaster.registry import NodeRecord, Offer, Registry, short
from reelnet.jobs import Capability

SHOWN = 5
"""So many nodes or models are named in one sentence."""


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


def why_nobody_serves(registry: Registry, catalogue: Collection[str]) -> str | None:
    """Why no node does any job: none is up, or none has anything of the catalogue; None if one does."""
    records, served = registry.nodes(), {model for _, model in registry.offers()}
    if served & set(catalogue) or (served and not catalogue):
        return None
    if not records:
        return "no nodes are configured: name them under `orchestrators`"
    if served:
        return f"no node serves anything of the catalogue; they serve {', '.join(sorted(served)[:SHOWN])}"
    told = "; ".join(f"{short(record.node_id)}: {_why(record)}" for record in records[:SHOWN])
    return f"no node is up that serves a model: {told}"


def _why(record: NodeRecord) -> str:
    return record.reason or ("it has no model ready" if record.up else "down")


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
        "clock_skew_s": None if record.skew_s is None else round(record.skew_s, 1),
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

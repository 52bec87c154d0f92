"""What Prometheus sees of the GPUs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from orchestrator.gpu_metrics import FAMILIES, show_gpus
from orchestrator.gpus import THROTTLES, DriverFacts, Gpu, GpuReading
from reelnet.metrics import BUILD, new_registry
from tests.fakes.exposition import Exposition, promtool_complaints

GIB = 2**30
GPUS = (Gpu("GPU-a", "NVIDIA H200", 0, 141 * GIB), Gpu("GPU-b", "NVIDIA L4", 1, 24 * GIB))
READING = GpuReading("GPU-a", 7 * GIB, 141 * GIB, 0.25, 61.0, 412.5, ("hw_thermal",), 3, "none")


class Bench:
    """A watch's state, and what a scrape shows of it."""

    def __init__(self, *readings: GpuReading, xids: dict[tuple[str, int], int] | None = None) -> None:
        self.watch: Any = SimpleNamespace(
            latest={reading.uuid: reading for reading in readings},
            problem=lambda uuid: self.problems.get(uuid, ""),
            health=SimpleNamespace(xids=xids or {}),
        )
        self.problems: dict[str, str] = {}
        self.registry = new_registry("orchestrator")
        show_gpus(self.registry, GPUS, DriverFacts("580.65.06", "13.0"), self.watch)

    @property
    def said(self) -> Exposition:
        """A scrape."""
        return Exposition(generate_latest(self.registry).decode())


def test_facts_are_shown_by_uuid_in_base_units() -> None:
    """The product's name stands in one series only, to be joined."""
    said = Bench(READING).said
    (info,) = [s for s in said.samples if s.name == "reelnet_gpu_info" and s.labels["uuid"] == "GPU-a"]
    assert info.labels == {"uuid": "GPU-a", "name": "NVIDIA H200", "driver": "580.65.06", "cuda": "13.0"}
    wanted = {
        "reelnet_gpu_memory_bytes": 141 * GIB, "reelnet_gpu_memory_used_bytes": 7 * GIB,
        "reelnet_gpu_utilisation_ratio": 0.25, "reelnet_gpu_temperature_celsius": 61.0,
        "reelnet_gpu_power_watts": 412.5, "reelnet_gpu_ecc_errors_total": 3,
    }  # fmt: skip
    assert {name: said.sum(name, uuid="GPU-a") for name in wanted} == wanted
    assert said.families() == {family.name for family in (BUILD, *FAMILIES)}


def test_what_is_unknown_has_no_series() -> None:
    """Zero degrees would be a lie."""
    said = Bench(GpuReading("GPU-a")).said
    shown = {sample.name for sample in said.samples if sample.labels.get("uuid") == "GPU-a"}
    assert shown == {"reelnet_gpu_info", "reelnet_gpu_up"}


def test_each_reason_to_throttle_is_a_series() -> None:
    """0 or 1, so that an alert sees the change."""
    said = Bench(READING).said
    shown = {reason: said.sum("reelnet_gpu_throttled", uuid="GPU-a", reason=reason) for reason in THROTTLES}
    assert shown == {reason: float(reason == "hw_thermal") for reason in THROTTLES}


def test_a_gpu_is_up_while_it_may_work() -> None:
    """Not when it never answered, nor with a fault."""
    bench = Bench(READING)
    assert [bench.said.sum("reelnet_gpu_up", uuid=gpu.uuid) for gpu in GPUS] == [1, 0]
    bench.problems["GPU-a"] = "XID 119"
    assert bench.said.sum("reelnet_gpu_up") == 0


def test_xid_errors_count_by_known_codes() -> None:
    """What no table knows is `other`: a driver can make up any number."""
    said = Bench(READING, xids={("GPU-a", 31): 2, ("GPU-a", 4711): 1, ("GPU-a", 4712): 1}).said
    assert said.sum("reelnet_gpu_xid_errors_total", uuid="GPU-a", xid="31") == 2
    assert said.sum("reelnet_gpu_xid_errors_total", uuid="GPU-a", xid="other") == 2
    assert "4711" not in said.text


@pytest.mark.parametrize("readings", [(READING,), ()])
def test_promtool_is_content(readings: tuple[GpuReading, ...]) -> None:
    """Names, units and help as Prometheus wants them."""
    assert promtool_complaints(Bench(*readings, xids={("GPU-a", 31): 1}).said.text) == ""

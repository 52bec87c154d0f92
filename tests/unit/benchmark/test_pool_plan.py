"""The plan of a local pool as its nodes' settings."""

from __future__ import annotations

from pathlib import Path

from benchmark.pool_plan import PoolPlan, node_settings


def test_a_speed_divides_a_nodes_time() -> None:
    """Each node has the seconds of a megapixel·step that its speed says, and draws noise of its own."""
    plan = PoolPlan(home=Path(), models=Path(), backend="synthetic", speeds=(1, 2, 4), unit_s=8.0)
    options = [node_settings(plan, number)["models"][0]["backend"]["synthetic"] for number in range(plan.size)]
    assert [(row["unit_s"], row["spread_seed"]) for row in options] == [(8.0, 0), (4.0, 1), (2.0, 2)]

"""Models whose folders are not there yet: the node starts, says so everywhere, and takes them up when they are."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from orchestrator.settings import OrchestratorSettings
from tests.fakes.engine import Life, ScriptedEngine
from tests.fakes.models import model_folder, safetensors
from tests.fakes.pool import running_node, until

NET = "unet/diffusion_pytorch_model.safetensors"


def settings(folder: Path, *models: str) -> OrchestratorSettings:
    """A node that looks for missing folders often."""
    values = {
        "home": folder,
        "models_home": folder / "models",
        "grpc": {"port": 0},
        "metrics": {"port": 0},
        "devices": ["cpu"],
        "models": [{"model": model} for model in models],
        "limits": {"models_look_s": 0.01},
    }
    return OrchestratorSettings.model_validate(values)


async def test_a_model_is_taken_up_when_its_copy_ends(tmp_path: Path) -> None:
    """First there is no folder, then half of it, then all: the reason is told at each moment, and no start is lost."""
    folder, engine = tmp_path / "models" / "acme" / "sd", ScriptedEngine([Life()])
    async with running_node(settings(tmp_path, "acme/sd"), engine) as node, httpx.AsyncClient() as http:

        async def readiness() -> tuple[int, str]:
            answer = await http.get(f"http://127.0.0.1:{node.metrics_port}/readyz")
            return answer.status_code, answer.text

        await until(lambda: "there is no such folder" in (node.node.not_ready() or ""), "it is missed")
        assert "there is no such folder" in (await readiness())[1]
        model_folder(tmp_path / "copy")
        os.truncate(tmp_path / "copy" / NET, 70)
        folder.parent.mkdir(parents=True)
        (tmp_path / "copy").rename(folder)
        await until(lambda: "cut short (70 bytes)" in (node.node.not_ready() or ""), "it is half there")
        assert (await readiness())[0] == 503
        assert "cut short" in node.control.status().models[0].problem
        metrics = await http.get(f"http://127.0.0.1:{node.metrics_port}/metrics")
        assert 'reelnet_node_model_faulty{model="acme/sd"} 1.0' in metrics.text
        assert engine.starts == 0
        safetensors(folder / NET)
        await until(lambda: node.node.not_ready() is None, "it is served")
        assert ((await readiness())[0], node.control.status().models[0].problem) == (200, "")
        assert engine.starts == 1


async def test_a_folder_that_goes_away_disturbs_no_runner(tmp_path: Path) -> None:
    """Not even a reload does: the model is in memory."""
    engine, given = ScriptedEngine([Life()]), settings(tmp_path, "acme/sd")
    folder = model_folder(tmp_path / "models" / "acme" / "sd")
    async with running_node(given, engine) as node:
        await until(lambda: node.node.not_ready() is None, "it is served")
        folder.rename(tmp_path / "elsewhere")
        assert "there is no such folder" in (await node.control.reload())[0]
        assert {model for _, model in node.node.offers.by_key} == {"acme/sd"}
        (slot,) = node.node.table.slots
        assert (slot.leaving, node.node.not_ready()) == (False, None)
        cheaper = given.models[0].model_copy(update={"queue": 3})
        node.node.apply(given.model_copy(update={"models": (cheaper,)}))
        assert not slot.leaving
        other = given.models[0].model_copy(update={"flags": {"png_level": "9"}})
        node.node.apply(given.model_copy(update={"models": (other,)}))
        await until(lambda: engine.stops, "another runner is wanted, and this one ends")
        await until(lambda: not node.node.offers.by_key, "it is not offered any more")
        assert engine.starts == 1

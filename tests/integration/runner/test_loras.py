"""LoRAs on tiny random weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runner.models.tiny_lora import UNET_LAYERS, write_lora
from tests.fakes.runner import RunnerClient
from tests.integration.runner.diffusion import FOX, VISIBLE, apart, change, draw, running, setup_failure
from tests.integration.runner.lora_files import TEXT_LAYERS, write_kohya_lora

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@pytest.fixture
def loras(tmp_path: Path) -> list[dict[str, str]]:
    """The setting: four for the UNet (one kohya's, one for a wider net), one for the text encoder, one for both."""
    home = tmp_path / "loras"
    write_lora(home / "ink", seed=1)
    write_lora(home / "oil", seed=2)
    write_kohya_lora(home / "chalk", seed=3)
    write_lora(home / "words", TEXT_LAYERS, seed=4)
    write_lora(home / "both", [*UNET_LAYERS, *TEXT_LAYERS], seed=5)
    write_lora(home / "wide", width=64, seed=6)
    return [
        {"folder": str(home / name), "id": f"acme/{name}"} for name in ("ink", "oil", "chalk", "words", "both", "wide")
    ]


@pytest.fixture
async def runner(tiny_models: Path, tmp_path: Path, loras: list[dict[str, str]]) -> AsyncIterator[RunnerClient]:
    """A runner of tiny Stable Diffusion that serves them all."""
    async with running(tiny_models, "sd", tmp_path, loras=loras) as client:
        yield client


async def _refused(client: RunnerClient, loras: dict[str, float]) -> dict[str, Any]:
    last = (await client.run(params=FOX | {"loras": loras})).last
    assert last["event"] == "error"
    return last


@pytest.mark.parametrize("name", ["ink", "chalk", "words", "both"])
async def test_a_lora_changes_the_picture_and_leaves_no_trace(runner: RunnerClient, name: str) -> None:
    """On, off again to the byte, strength 0 is off to the byte, and strength counts."""
    base = await draw(runner)
    on = await draw(runner, loras={f"acme/{name}": 1.0})
    assert apart(on.pixels(), base.pixels()) > VISIBLE / 4
    assert (await draw(runner)).outputs == base.outputs
    assert (await draw(runner, loras={f"acme/{name}": 0.0})).outputs == base.outputs
    assert (await draw(runner, loras={f"acme/{name}": 1.0})).outputs == on.outputs
    assert (await draw(runner, loras={f"acme/{name}": 0.3})).outputs not in (on.outputs, base.outputs)


async def test_several_work_together(runner: RunnerClient) -> None:
    """Two differ from each alone; the order in which a job names them is no matter; one at strength 0 is not there."""
    ink, oil = await draw(runner, loras={"acme/ink": 1.0}), await draw(runner, loras={"acme/oil": 0.5})
    both = await draw(runner, loras={"acme/ink": 1.0, "acme/oil": 0.5})
    assert apart(both.pixels(), ink.pixels()) > VISIBLE / 4
    assert apart(both.pixels(), oil.pixels()) > VISIBLE / 4
    assert (await draw(runner, loras={"acme/oil": 0.5, "acme/ink": 1.0})).outputs == both.outputs
    assert (await draw(runner, loras={"acme/ink": 1.0, "acme/oil": 0.0})).outputs == ink.outputs
    with_words = await draw(runner, loras={"acme/ink": 1.0, "acme/words": 1.0})
    assert apart(with_words.pixels(), ink.pixels()) > VISIBLE / 4


async def test_both_pipelines_have_them(runner: RunnerClient) -> None:
    """Image to image draws with the same nets."""
    base = await change(runner)
    assert apart((await change(runner, loras={"acme/ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4
    assert (await change(runner)).outputs == base.outputs


async def test_info_lists_them_with_their_digests(runner: RunnerClient, loras: list[dict[str, str]]) -> None:
    """By the operator's ids; a path is told to nobody."""
    info = (await runner.http.get("/info")).json()
    assert info["loras"] == [row["id"] for row in loras]
    data = (Path(loras[0]["folder"]) / "lora.safetensors").read_bytes()
    assert info["lora_digests"]["acme/ink"] == hashlib.sha256(data).hexdigest()


async def test_a_lora_may_lie_with_the_model(tiny_models: Path, tmp_path: Path) -> None:
    """Below `loras` in its folder, where it is no part of the model's digest: a container sees no other folder."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_models / "reelnet/tiny-random-sd", folder)
    write_lora(folder / "loras" / "ink", seed=1)
    async with running(tiny_models, str(folder), tmp_path, loras=[{"folder": "ink"}]) as client:
        info = (await client.http.get("/info")).json()
        base = await draw(client)
        assert apart((await draw(client, loras={"ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4
    card = json.loads((tiny_models / "reelnet/tiny-random-sd/reelnet.json").read_text())
    assert info["digest"] == card["digest"]


async def test_an_unknown_one_is_unsupported(runner: RunnerClient, loras: list[dict[str, str]]) -> None:
    """With the nearest known one; a path is just another unknown name. At strength 0 nothing is needed of it."""
    last = await _refused(runner, {"acme/inks": 1.0})
    assert last["class"] == "unsupported"
    assert "did you mean 'acme/ink'?" in last["message"]
    assert (await _refused(runner, {loras[0]["folder"]: 1.0}))["class"] == "unsupported"
    assert (await draw(runner, loras={"acme/inks": 0.0})).outputs == (await draw(runner)).outputs


async def test_one_that_does_not_fit_is_the_user_s_error(runner: RunnerClient) -> None:
    """It says which, and the runner draws as before, with and without the others."""
    base = await draw(runner)
    last = await _refused(runner, {"acme/ink": 1.0, "acme/wide": 1.0})
    assert (last["class"], last["code"]) == ("user", "lora_misfit")
    assert "'acme/wide' was made for another kind of model" in last["message"]
    assert (await draw(runner)).outputs == base.outputs
    assert apart((await draw(runner, loras={"acme/ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4
    assert (await _refused(runner, {"acme/wide": 1.0}))["code"] == "lora_misfit"


async def test_layers_that_the_model_lacks_are_a_misfit(tiny_models: Path, tmp_path: Path) -> None:
    """Libraries drop them in silence: all of them, or some."""
    some = [*UNET_LAYERS, "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q"]
    write_lora(tmp_path / "some", some)
    write_lora(tmp_path / "none", ["transformer.blocks.0.attn.to_q"])
    loras = [{"folder": str(tmp_path / name), "id": name} for name in ("some", "none")]
    async with running(tiny_models, "sd", tmp_path, loras=loras) as client:
        base = await draw(client)
        for name in ("some", "none"):
            assert (await _refused(client, {name: 1.0}))["code"] == "lora_misfit"
        assert (await draw(client)).outputs == base.outputs


async def test_memory_for_loras_has_a_limit(tiny_models: Path, tmp_path: Path, loras: list[dict[str, str]]) -> None:
    """The one unused for longest goes, and comes back to the same picture; more than fit in one job are refused."""
    size = (Path(loras[0]["folder"]) / "lora.safetensors").stat().st_size
    async with running(tiny_models, "sd", tmp_path, loras=loras, lora_bytes=int(2.5 * size)) as client:
        shelf = client.app.state.worker._backend._model.family._extras.loras
        ink = await draw(client, loras={"acme/ink": 1.0})
        await draw(client, loras={"acme/oil": 1.0})
        assert list(shelf.loaded_bytes) == ["acme/ink", "acme/oil"]
        await draw(client, loras={"acme/ink": 1.0})
        await draw(client, loras={"acme/chalk": 1.0})
        assert list(shelf.loaded_bytes) == ["acme/ink", "acme/chalk"]
        await draw(client, loras={"acme/oil": 1.0})
        assert list(shelf.loaded_bytes) == ["acme/chalk", "acme/oil"]
        assert (await draw(client, loras={"acme/ink": 1.0})).outputs == ink.outputs
        last = await _refused(client, {"acme/ink": 1.0, "acme/oil": 1.0, "acme/chalk": 1.0})
        assert (last["class"], last["code"]) == ("unsupported", "lora_bytes")


@pytest.mark.parametrize(
    ("dtype", "stored"), [("bfloat16", "float32"), ("bfloat16", "float16"), ("float32", "float16")]
)
async def test_a_lora_takes_the_model_s_number_format(
    tiny_models: Path, tmp_path: Path, dtype: str, stored: str
) -> None:
    """Whatever it is stored in."""
    write_lora(tmp_path / "ink", [*UNET_LAYERS, *TEXT_LAYERS], seed=1, dtype=stored)
    loras = [{"folder": str(tmp_path / "ink"), "id": "ink"}]
    async with running(tiny_models, "sd", tmp_path, loras=loras, dtype=dtype) as client:
        base = await draw(client)
        assert apart((await draw(client, loras={"ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4
        assert (await draw(client)).outputs == base.outputs


async def test_a_changed_file_is_not_served(runner: RunnerClient, loras: list[dict[str, str]]) -> None:
    """Its digest was told already."""
    write_lora(Path(loras[0]["folder"]), seed=99)
    last = await _refused(runner, {"acme/ink": 1.0})
    assert (last["class"], last["code"]) == ("node", "lora_changed")


async def test_memory_that_is_short_for_a_lora_is_told(runner: RunnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As class `oom`; what was half loaded is gone, and the next job gets it."""
    from diffusers import StableDiffusionPipeline

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    base = await draw(runner)
    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusionPipeline, "load_lora_weights", full)
        assert (await _refused(runner, {"acme/ink": 1.0}))["class"] == "oom"
    assert (await draw(runner)).outputs == base.outputs
    assert apart((await draw(runner, loras={"acme/ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), "there is no such folder"),
        (("a.txt",), "has no safetensors file"),
        (("a.bin",), "its weights are a pickle"),
        (("a.safetensors", "b.safetensors"), "more than one file"),
        (("broken.safetensors",), "not a safetensors file, or damaged"),
    ],
)
async def test_a_lora_that_cannot_be_served_is_a_failed_setup(
    tiny_models: Path, tmp_path: Path, files: tuple[str, ...], reason: str
) -> None:
    """The operator hears it at the start, and no job later."""
    for name in files:
        (tmp_path / "lora").mkdir(exist_ok=True)
        (tmp_path / "lora" / name).write_bytes(b"no weights")
    assert reason in await setup_failure(tiny_models, "sd", tmp_path, loras=[{"folder": str(tmp_path / "lora")}])


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
async def test_other_families_take_loras_too(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """Each in the names of its own nets."""
    layers = {
        "sdxl": [*UNET_LAYERS, *TEXT_LAYERS, TEXT_LAYERS[0].replace("text_encoder", "text_encoder_2")],
        "sd3": [f"transformer.transformer_blocks.0.attn.{part}" for part in ("to_q", "to_k", "to_v")],
        "flux": [f"transformer.transformer_blocks.0.attn.{part}" for part in ("to_q", "to_k", "to_v")],
    }[name]
    write_lora(tmp_path / "ink", layers, seed=1)
    async with running(tiny_models, name, tmp_path, loras=[{"folder": str(tmp_path / "ink"), "id": "ink"}]) as client:
        base = await draw(client)
        assert apart((await draw(client, loras={"ink": 1.0})).pixels(), base.pixels()) > VISIBLE / 4
        assert (await draw(client)).outputs == base.outputs

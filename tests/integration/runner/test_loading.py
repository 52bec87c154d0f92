"""How models are read and laid out: one-file checkpoints, number formats, offload, compilation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reelnet.errors import ConfigError
from runner.settings import RunnerSettings
from tests.integration.runner.checkpoints import write_checkpoint
from tests.integration.runner.diffusion import change, draw, runner_settings, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers


async def test_a_checkpoint_in_one_file_draws_as_its_folder_does(tiny_models: Path, tmp_path: Path) -> None:
    """Read with the folder's own configurations, nothing fetched: the same bytes from both layouts."""
    folder = write_checkpoint(tiny_models / "reelnet/tiny-random-sd", tmp_path / "fine-tuned")
    async with running(tiny_models, "sd", tmp_path) as client:
        base, changed = await draw(client), await change(client)
    async with running(tiny_models, str(folder), tmp_path) as client:
        assert (await draw(client)).outputs == base.outputs
        assert (await change(client)).outputs == changed.outputs


async def test_a_pickled_checkpoint_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """A .ckpt can run code."""
    folder = write_checkpoint(tiny_models / "reelnet/tiny-random-sd", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "model.ckpt")
    assert "only safetensors are read" in await setup_failure(tiny_models, str(folder), tmp_path)


async def test_half_a_checkpoint_is_a_failed_setup(tiny_models: Path, tmp_path: Path) -> None:
    """One without a text encoder does not get a random one."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tiny_models / "reelnet/tiny-random-sd", tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("cond_stage_model")}
    save_file(kept, folder / "model.safetensors")
    assert "cannot be read" in await setup_failure(tiny_models, str(folder), tmp_path)


async def test_a_model_of_the_image_class_serves_that_alone(tiny_models: Path, tmp_path: Path) -> None:
    """As SDXL's refiner, whose class draws nothing from words."""
    folder = tmp_path / "refiner"
    shutil.copytree(tiny_models / "reelnet/tiny-random-sdxl", folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"))
    async with running(tiny_models, str(folder), tmp_path) as client:
        served = (await client.http.get("/info")).json()["pipelines"]
        assert [row["pipeline"] for row in served] == ["image-to-image"]
        await change(client)


@pytest.mark.parametrize(
    ("class_name", "device", "dtype"),
    [
        ("StableDiffusionXLPipeline", "cuda", "float16"),
        ("StableDiffusion3Pipeline", "cuda", "bfloat16"),
        ("FluxPipeline", "cuda", "bfloat16"),
        ("FluxPipeline", "cpu", "float32"),
    ],
)
def test_the_number_format_is_the_one_that_a_class_was_trained_for(class_name: str, device: str, dtype: str) -> None:
    """SD 3 and FLUX leave float16's range."""
    from runner.models.loading import choose_dtype

    assert choose_dtype("auto", torch.device(device), class_name) is getattr(torch, dtype)
    assert choose_dtype("float16", torch.device(device), class_name) is torch.float16


@pytest.mark.parametrize(("offload", "called"), [("model", "model"), ("sequential", "sequential"), ("none", "to")])
def test_nets_go_where_the_setting_says(tmp_path: Path, offload: str, called: str) -> None:
    """Every pipeline of the model is told, because each moves its own nets."""
    from runner.models.memory import place

    options = RunnerSettings(model="./m", models_home=tmp_path, offload=offload, channels_last=False)
    pipes = [_Movable(), _Movable()]
    place(pipes, options, torch.device("cuda", 0))
    assert [pipe.told for pipe in pipes] == [[(called, torch.device("cuda", 0))]] * 2


@pytest.mark.parametrize("name", ["sdxl", "svd", "sd3"])
def test_every_family_can_be_laid_out_for_a_gpu(tiny_models: Path, name: str) -> None:
    """Nets over pictures get channels-last weights; nets over time, which have none, and transformers stay."""
    import diffusers

    from runner.models.memory import lay_out

    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_models / f"reelnet/tiny-random-{name}", dtype=torch.float32)
    lay_out(pipe)
    laid_out = {
        part: net.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        for part, net in pipe.components.items()
        if part == "unet"
    }
    assert laid_out == {"sdxl": {"unet": True}, "svd": {"unet": False}, "sd3": {}}[name]


class _Movable:
    """A pipeline that writes down where it was told to go: there is no GPU here."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def enable_model_cpu_offload(self, device: Any) -> None:
        self.told.append(("model", device))

    def enable_sequential_cpu_offload(self, device: Any) -> None:
        self.told.append(("sequential", device))

    def to(self, device: Any) -> None:
        self.told.append(("to", device))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C compiler as far as a setup can see: with `compile` replaced, nothing calls it."""
    monkeypatch.setenv("CC", "cc")


@pytest.mark.usefixtures("compiler")
def test_compiled_nets_are_warm_before_the_model_is_ready(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net is compiled once for both pipelines, both run, and the kernels are kept where the setting says."""
    from runner.models.digest import survey
    from runner.models.loading import load
    from runner.pipelines.pictures import Pictures

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    compiled: list[str] = []
    drawn: list[str] = []
    draw_one = Pictures._draw

    def drawing(self: Pictures, pipe: Any, *rest: Any) -> Any:
        drawn.append(type(pipe).__name__)
        return draw_one(self, pipe, *rest)

    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compiled.append(type(net).__name__))
    monkeypatch.setattr(Pictures, "_draw", drawing)
    options = runner_settings(tiny_models, "sd", compile=True, compile_cache=tmp_path / "kernels")
    load(survey(options.folder), options)
    assert compiled == ["UNet2DConditionModel"]
    assert drawn == ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "kernels")


@pytest.mark.usefixtures("compiler")
def test_a_video_model_can_be_compiled(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its net over time as well, and what is warm is the size and the frames that the setting names."""
    from runner.models.digest import survey
    from runner.models.loading import load

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    seen: list[tuple[int, ...]] = []

    def compile_it(net: Any, **_: Any) -> None:
        net.register_forward_pre_hook(lambda _, args, kwargs: seen.append(tuple(args[0].shape)), with_kwargs=True)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    options = runner_settings(tiny_models, "svd", compile=True, warmup=["128x64x3"], compile_cache=tmp_path / "kernels")
    load(survey(options.folder), options)
    assert seen == [(2, 3, 8, 8, 16)] * 2, "with and without guidance at once: frames, channels, height, width"


@pytest.mark.usefixtures("compiler")
def test_every_net_of_a_model_is_compiled(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan A14B has one for early steps and one for late ones; its clip is warm in the size that is named."""
    from runner.models.digest import survey
    from runner.models.loading import load

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compiled.append(type(net).__name__))
    options = runner_settings(tiny_models, "wan-a14b", compile=True, warmup=["128x64x5"])
    load(survey(options.folder), options)
    assert compiled == ["WanTransformer3DModel"] * 2


@pytest.mark.parametrize(
    ("name", "size"),
    [("sd", (512, 512)), ("svd", (1024, 576, 14)), ("sd3", (512, 512)), ("flux", (1024, 1024)), ("wan", ())],
)
def test_what_is_warm_is_the_models_own_size(tiny_models: Path, name: str, size: tuple[int, ...]) -> None:
    """Where no size is named, the one that the model was trained for; the pipeline's default where it tells none."""
    import diffusers

    from runner.models.warmup import own_size

    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_models / f"reelnet/tiny-random-{name}", dtype=torch.float32)
    assert own_size(pipe) == size


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("size", "reason"), [("100x64", "warmup: 100x64: width"), ("64x64x99", "num_frames")])
async def test_a_size_that_no_job_can_have_is_not_warmed_up(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, reason: str
) -> None:
    """The setup fails with the size and what is wrong with it."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: None)
    assert reason in await setup_failure(tiny_models, "svd", tmp_path, compile=True, warmup=[size])


async def test_compiling_needs_a_compiler(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the setup fails at once, and says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "needs a C compiler; install gcc" in await setup_failure(tiny_models, "svd", tmp_path, compile=True)


@pytest.mark.parametrize("values", [{"loras": [{"folder": "a"}]}, {"offload": "model"}])
def test_a_compiled_net_stays_as_it_is(values: dict[str, Any]) -> None:
    """What changes a net after it was compiled is refused with the setting."""
    with pytest.raises((ValueError, ConfigError), match="neither LoRAs nor offload"):
        RunnerSettings(model="./m", compile=True, **values)


def test_loras_have_different_names() -> None:
    """A job could not say which one it means."""
    with pytest.raises(ValueError, match="two LoRAs are called 'a/b'"):
        RunnerSettings(model="./m", loras=[{"folder": "a/b"}, {"folder": "c", "id": "a/b"}])

"""True upscalers on tiny random weights, served."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reelnet.clips import probe_clip
from runner.app import build
from runner.cli import cli
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings
from runner.worker import State
from tests.fakes.media import Clip, encoded, pattern
from tests.fakes.runner import Answer, GatedBackend, RunnerClient, collect, serving

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers

ESRGAN, SD_X4 = "reelnet/tiny-random-esrgan", "reelnet/tiny-random-sd-x4"
PARAMS = {"seed": 1}
STEPS = {"seed": 1, "num_inference_steps": 2}
PICTURE = pattern(100, 60)
CLIP = Clip(40, 24, frames=6, sound=True)


def configured(model: str, models: Path | None = None, **values: Any) -> RunnerSettings:
    """A runner's settings for one model."""
    return RunnerSettings(model=model, models_home=models, stop_timeout_s=60, tick_s=0.5, **values)


@contextlib.asynccontextmanager
async def running(
    settings: RunnerSettings, folder: Path, gate: GatedBackend | None = None
) -> AsyncIterator[RunnerClient]:
    """A runner that is ready."""
    async with serving(build(settings, gate), folder) as client:
        health = await client.until(State.READY, State.SETUP_FAILED)
        assert health["state"] == "READY", health["reason"]
        yield client


@pytest.fixture
async def esrgan(tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of a tiny ESRGAN in small tiles."""
    async with running(configured(ESRGAN, tiny_models, tile=64), tmp_path) as client:
        yield client


async def enlarge(runner: RunnerClient, given: Image.Image, kind: str = "PNG") -> Answer:
    """The picture through the runner."""
    return await runner.run(pipeline="upscale", params=PARAMS, image=encoded(given, kind))


def steps(answer: Answer, stage: str = "upscale") -> list[tuple[int, int]]:
    """What progress of a stage was told."""
    return [(row["step"], row["total"]) for row in answer.named("progress") if row["stage"] == stage]


async def test_an_upscaler_serves_pictures_and_clips(esrgan: RunnerClient) -> None:
    """One checkpoint without an index is a model of class Spandrel, of both pipelines."""
    info = (await esrgan.http.get("/info")).json()
    assert [(row["pipeline"], row["class"]) for row in info["pipelines"]] == [
        ("upscale", "Spandrel"),
        ("upscale-video", "Spandrel"),
    ]
    assert info["versions"]["spandrel"]


async def test_tiled_is_untiled(esrgan: RunnerClient, tiny_models: Path, tmp_path: Path) -> None:
    """A picture in many tiles is the picture in one, within two of 255 levels; each tile is a step."""
    (tmp_path / "whole").mkdir()
    async with running(configured(ESRGAN, tiny_models, tile=4096), tmp_path / "whole") as whole:
        one, many = await enlarge(whole, PICTURE), await enlarge(esrgan, PICTURE)
    assert one.pixels().shape == (240, 400, 3)
    assert one.pixels().std() > 1
    assert np.abs(one.pixels() - many.pixels()).max() <= 2
    assert (steps(one)[-1], steps(many)[-1]) == ((1, 1), (4, 4))


async def test_transparency_comes_along(esrgan: RunnerClient) -> None:
    """A picture with an alpha channel has it enlarged; one without has none."""
    given = PICTURE.copy()
    given.putalpha(Image.linear_gradient("L").resize(given.size))
    with Image.open(io.BytesIO((await enlarge(esrgan, given)).outputs[0])) as large:
        assert (large.mode, large.size) == ("RGBA", (400, 240))
        alpha = np.asarray(large.getchannel("A")).astype(int)
    assert np.abs(alpha - np.asarray(given.getchannel("A").resize((400, 240)))).mean() < 2
    with Image.open(io.BytesIO((await enlarge(esrgan, PICTURE)).outputs[0])) as plain:
        assert plain.mode == "RGB"


@pytest.mark.parametrize(("asked", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("jpeg", "RGB")])
async def test_a_picture_comes_in_the_format_that_was_asked(esrgan: RunnerClient, asked: str, mode: str) -> None:
    """PNG and WebP keep every pixel and its transparency; JPEG shows the picture on white."""
    given = PICTURE.copy()
    given.putalpha(Image.linear_gradient("L").resize(given.size))
    base = await enlarge(esrgan, given)
    answer = await esrgan.run(pipeline="upscale", params=PARAMS | {"output_format": asked}, image=encoded(given, "PNG"))
    assert answer.named("output")[0]["media_type"] == f"image/{asked}"
    with Image.open(io.BytesIO(base.outputs[0])) as whole, Image.open(io.BytesIO(answer.outputs[0])) as found:
        assert (found.format, found.mode) == (asked.upper(), mode)
        wanted = whole if mode == "RGBA" else Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
        apart = np.abs(np.asarray(wanted.convert(mode)).astype(int) - np.asarray(found)).mean()
    assert apart <= (4 if asked == "jpeg" else 0)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
async def test_pictures_of_other_modes_are_taken(esrgan: RunnerClient, mode: str) -> None:
    """Grey ones stay grey, whatever colours a model makes of them."""
    pixels = (await enlarge(esrgan, PICTURE.convert(mode))).pixels()
    assert pixels.shape == (240, 400, 3)
    assert (np.ptp(pixels, axis=-1).max() == 0) == (mode != "P")


async def test_a_clip_is_its_frames_enlarged(esrgan: RunnerClient) -> None:
    """Frame for frame what the model makes of pictures, with the sound of the input."""
    given = CLIP.encode()
    answer = await esrgan.run(pipeline="upscale-video", params={"seed": 1}, video=given)
    found = probe_clip(answer.outputs[0])
    assert (found.width, found.height, found.frames) == (160, 96, 6)
    assert found.sound == probe_clip(given).sound != ""
    assert steps(answer)[-1] == (6, 6)
    assert answer.last["event"] == "done"
    assert answer.last["timings_s"]["upscale"] > 0


async def test_a_clip_s_frames_are_tiled_too(esrgan: RunnerClient) -> None:
    """Each tile of each frame is a step."""
    answer = await esrgan.run(pipeline="upscale-video", params={"seed": 1}, video=Clip(96, 48, frames=3).encode())
    assert steps(answer)[-1] == (9, 9)


async def test_a_clip_stops_within_a_frame(tiny_models: Path, tmp_path: Path) -> None:
    """A cancel takes effect at the next tile; the runner then takes another job."""
    settings = configured(ESRGAN, tiny_models)
    gate = GatedBackend(DiffusersBackend(settings), step=3, stage="upscale")
    async with running(settings, tmp_path, gate) as runner:
        async with runner.stream(pipeline="upscale-video", params={"seed": 1}, video=CLIP.encode()) as response:
            await gate.wait_held()
            assert (await runner.http.delete("/jobs/job-1")).status_code == 202
            gate.open()
            answer = await collect(response)
        assert answer.last["class"] == "canceled"
        assert max(step for step, _ in steps(answer)) <= 3
        assert (await enlarge(runner, PICTURE)).last["event"] == "done"


@pytest.mark.parametrize(("fits", "tiles", "ending"), [(40, 15, "done"), (20, 0, "error")])
async def test_short_memory_halves_the_tiles_once(
    esrgan: RunnerClient, monkeypatch: pytest.MonkeyPatch, fits: int, tiles: int, ending: str
) -> None:
    """Tiles of half the side are tried once; when these do not fit either the job is oom, and the runner lives."""
    from runner.models.upscaler import Upscaler

    true = Upscaler._run

    def limited(self: Upscaler, picture: Any) -> Any:
        if max(picture.shape) > fits:
            raise torch.OutOfMemoryError
        return true(self, picture)

    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "_run", limited)
        answer = await enlarge(esrgan, PICTURE)
    assert answer.last["event"] == ending
    if tiles:
        assert steps(answer)[-1][0] == steps(answer)[-1][1] >= tiles
    else:
        assert answer.last["class"] == "oom"
    assert (await enlarge(esrgan, PICTURE)).last["event"] == "done"


async def test_numbers_that_overflow_are_the_node_s_failure(
    esrgan: RunnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black picture is never delivered as a result."""
    worker = esrgan.app.state.worker
    model = worker._backend._model.family._model._model.model
    with torch.no_grad():
        before = model.model[-1].bias.clone()
        model.model[-1].bias.fill_(float("nan"))
    answer = await enlarge(esrgan, PICTURE)
    assert (answer.last["class"], answer.last["code"]) == ("node", "not_finite")
    with torch.no_grad():
        model.model[-1].bias.copy_(before)


async def test_a_diffusion_upscaler_reads_prompt_seed_and_steps(tiny_models: Path, tmp_path: Path) -> None:
    """Four times the size, at any size; seed, prompt and steps change the picture, and nothing else does."""
    async with running(configured(SD_X4, tiny_models), tmp_path) as runner:
        info = (await runner.http.get("/info")).json()
        assert [row["pipeline"] for row in info["pipelines"]] == ["upscale"]

        async def drawn(**params: Any) -> Answer:
            return await runner.run(pipeline="upscale", params=STEPS | params, image=encoded(pattern(50, 33), "PNG"))

        first, same = await drawn(), await drawn()
        assert first.pixels().shape == (132, 200, 3)
        assert first.outputs == same.outputs
        assert steps(first, "denoise")[-1] == (2, 2)
        for other in (await drawn(seed=2), await drawn(prompt="a fox"), await drawn(num_inference_steps=3)):
            assert np.abs(first.pixels() - other.pixels()).mean() > 0.05


def saved(folder: Path, tensors: dict[str, Any]) -> Path:
    """A folder with one checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def why(folder: Path) -> str:
    """The reason for which a runner refuses a folder."""
    from runner.backend import SetupError

    with pytest.raises(SetupError) as caught:
        DiffusersBackend(configured(str(folder))).load()
    return str(caught.value)


def test_what_is_no_upscaler_is_refused_with_a_reason(tmp_path: Path, tiny_models: Path) -> None:
    """Unknown tensors, another factor, a pickle: the operator is told which and what to do."""
    from spandrel.architectures import ESRGAN as architecture  # noqa: N811 - a module's name

    assert "no upscaler" in why(saved(tmp_path / "other", {"weights": torch.zeros(3)}))
    twice = architecture.ESRGAN(num_filters=8, num_blocks=1, scale=2).state_dict()
    assert "enlarges 2 times" in why(saved(tmp_path / "twice", twice))
    (tmp_path / "pickle").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle" / "model.pth")
    assert "pickles" in why(tmp_path / "pickle")
    shutil.copytree(tiny_models / ESRGAN, tmp_path / "indexed")
    (tmp_path / "indexed" / "model_index.json").write_text(json.dumps({"_class_name": "StrangePipeline"}))
    assert "StrangePipeline" in why(tmp_path / "indexed")


def test_settings_that_mean_nothing_to_an_upscaler_are_refused(tiny_models: Path) -> None:
    """A scheduler for a model without one is a mistake that is said."""
    from runner.backend import SetupError

    backend = DiffusersBackend(configured(ESRGAN, tiny_models, scheduler="euler"))
    with pytest.raises(SetupError, match="scheduler"):
        backend.load()


def test_a_pickled_checkpoint_becomes_a_model(tiny_models: Path, tmp_path: Path) -> None:
    """`runner models convert`: the tensors of a trainer's checkpoint, as a folder that a runner serves."""
    from safetensors.torch import load_file

    tensors = load_file(tiny_models / ESRGAN / "model.safetensors")
    torch.save({"params_ema": tensors, "iteration": 7}, tmp_path / "net.pth")
    done = CliRunner().invoke(cli, ["models", "convert", str(tmp_path / "net.pth"), str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert DiffusersBackend(configured(str(tmp_path / "model"))).load().served[0].class_name == "Spandrel"


def test_a_pickle_with_code_in_it_runs_nothing(tmp_path: Path) -> None:
    """What names a function is refused before it is called, and what is no upscaler leaves no file."""
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump(Evil(str(tmp_path / "owned")), file)
    torch.save({"params": {"a": torch.zeros(2)}}, tmp_path / "other.pth")
    for name in ("evil.pth", "other.pth"):
        done = CliRunner().invoke(cli, ["models", "convert", str(tmp_path / name), str(tmp_path / "model")])
        assert done.exit_code == 3
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "model" / "model.safetensors").exists()


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self._path!r}, 'w').close()",)


@pytest.mark.parametrize(("free_gib", "side"), [(100, 1024), (8, 512), (1, 192), (0.01, 64)])
def test_automatic_tiles_take_half_of_the_free_memory(free_gib: float, side: int) -> None:
    """At 12 KiB a pixel; never below the smallest side, which is tried whatever happens."""
    from runner.models.upscaler import tile_for

    assert tile_for(int(free_gib * 2**30), 12 * 2**10) == side


async def test_a_model_of_one_channel_takes_each_colour_by_itself(tmp_path: Path) -> None:
    """It is served like any other."""
    from spandrel.architectures import ESRGAN as architecture  # noqa: N811 - a module's name

    net = architecture.ESRGAN(in_nc=1, out_nc=1, num_filters=8, num_blocks=1, scale=4)
    folder = saved(tmp_path / "grey", net.state_dict())
    async with running(configured(str(folder)), tmp_path) as runner:
        assert (await enlarge(runner, PICTURE)).pixels().shape == (240, 400, 3)

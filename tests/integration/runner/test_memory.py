"""Memory: what jobs are thought to need, against what tiny models truly take, and what happens when it is short."""

from __future__ import annotations

import functools
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from reelnet.clips import probe_clip
from reelnet.pipelines import pipeline_named
from runner.backend import Deaf, InputClip, RunnerJob
from runner.cli import cli
from runner.memory_budget import GIB
from runner.models.digest import survey
from runner.worker import State
from tests.fakes.media import Clip
from tests.integration.runner.diffusion import FOX, draw, runner_settings, running

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
FACTOR = 1.15
"""How far an estimate may be from what was measured, either way."""
LOW: dict[str, Any] = {"prompt": "a fox", "seed": 1, "num_inference_steps": 2}
STILL: dict[str, Any] = {"seed": 1, "num_inference_steps": 1, "width": 128, "height": 64}


FILMED: dict[str, Any] = {"width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 1}


@functools.cache
def loaded(models: Path, name: str, **values: Any) -> Any:
    """A tiny model; jobs leave no trace in it."""
    from runner.models.loading import load

    settings = runner_settings(models, name, **values)
    return load(survey(settings.folder), settings)


def job(pipeline: str, params: dict[str, Any], size: tuple[int, int] = (0, 0)) -> RunnerJob:
    """A job whose input, where there is one, is of a size. `pipeline` may name a family: `image-to-video/wan`."""
    pipeline, _, family = pipeline.partition("/")
    row = pipeline_named(pipeline, family)
    if "video" in row.inputs:
        data = Clip(*size, frames=2).encode()
        return RunnerJob("j", 1, pipeline, row.parse(params), clips={"video": InputClip(data, probe_clip(data))})
    inputs = {name: Image.radial_gradient("L").convert("RGB").resize(size) for name in row.inputs}
    return RunnerJob("j", 1, pipeline, row.parse(params), inputs, family=family)


def measured(model: Any, asked: RunnerJob) -> int:
    """The most that a job's tensors held at one moment, bytes."""
    from runner.models.tracing import LiveBytes

    with LiveBytes() as live:
        for _ in model.family.render(asked, Deaf()):
            pass
    return live.peak


@pytest.mark.parametrize(
    ("model", "pipeline", "params", "size"),
    [
        *(
            (name, "text-to-image", LOW | {"width": 256, "height": 192}, (0, 0))
            for name in ("sd", "sdxl", "sd3", "flux")
        ),
        ("sd", "text-to-image", LOW | {"width": 64, "height": 64}, (0, 0)),
        *((name, "image-to-image", LOW, (200, 256)) for name in ("sd", "flux", "instruct-pix2pix")),
        ("svd", "image-to-video", STILL, (96, 64)),
        ("svd", "image-to-video", STILL | {"num_frames": 4, "decode_chunk_size": 1}, (96, 64)),
        *((name, "image-to-video/wan", LOW | FILMED, (96, 64)) for name in ("wan", "wan-a14b", "wan-ti2v")),
        ("sd-x4", "upscale", {"seed": 1, "num_inference_steps": 1}, (64, 100)),
        ("esrgan", "upscale", {"seed": 1}, (256, 256)),
        ("film", "frame-interpolation", {"seed": 1, "fps": 10}, (160, 128)),
    ],
)
def test_the_estimate_is_what_is_truly_taken(
    tiny_models: Path, model: str, pipeline: str, params: dict[str, Any], size: tuple[int, int]
) -> None:
    """For every family: the traced need is within a factor of what the tensors of a real job held on the CPU."""
    of = loaded(tiny_models, model)
    asked = job(pipeline, params, size)
    taken, need = measured(of, asked), of.estimate.need(asked)
    estimated = need.size_bytes
    if need.phase.flexible:  # tiles of half the side; and the result lies in arrays, which are not seen here
        estimated = 4 * (need.size_bytes - need.phase.held_bytes)
    assert estimated / FACTOR < taken < estimated * FACTOR, need


@pytest.mark.parametrize("model", ["sd", "sdxl", "sd3", "flux", "instruct-pix2pix", "svd", "wan", "wan-ti2v", "sd-x4"])
def test_a_step_takes_what_is_estimated_for_it(tiny_models: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny VAEs hide it in the need as a whole: the net that denoises by itself."""
    from runner.models.tracing import LiveBytes

    of = loaded(tiny_models, model)
    estimate = of.estimate
    kind = of.info.served[0].kind
    side = {"text-to-image": 512, "image-to-video/wan": 64}.get(f"{kind.name}/{kind.family}".removesuffix("/sd"), 128)
    small = LOW | STILL | {"width": side, "height": side, "num_frames": 17}  # sizes that are traced
    params = {name: value for name, value in small.items() if name in kind.params.model_fields}
    asked = job(f"{kind.name}/{kind.family}", params, (side, side))
    pipe = next(iter(of.family._pipes.values())) if hasattr(of.family, "_pipes") else of.family._pipe
    net = getattr(pipe, "unet", None) or pipe.transformer
    peaks: list[int] = []
    true = net.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        with LiveBytes() as live:
            result = true(*args, **kwargs)
        peaks.append(live.peak)
        return result

    monkeypatch.setattr(net, "forward", watched)
    for _ in of.family.render(asked, Deaf()):
        pass
    (step,) = (phase for phase in estimate.needs.phases(asked) if phase.doing == "denoise")
    over = 1.5 if kind.family == "wan" else 1.0  # its estimate is too high: a job may be refused that would fit
    assert max(peaks) / FACTOR < estimate.profile.phase_bytes(step) < max(peaks) * FACTOR * over


def grows(models: Path, model: str, pipeline: str, params: dict[str, Any], sizes: list[dict[str, Any]]) -> list[float]:
    """What each change makes of a job's need, as a factor of the need without it."""
    estimate = loaded(models, model).estimate
    base = estimate.need(job(pipeline, params, (64, 64))).size_bytes
    return [estimate.need(job(pipeline, params | more, (64, 64))).size_bytes / base for more in sizes]


def test_a_picture_s_need_goes_with_its_pixels(tiny_models: Path) -> None:
    """Twice the sides, four times the memory; images are drawn one after the other and take that of one."""
    small = LOW | {"width": 512, "height": 512}
    changes: list[dict[str, Any]] = [{"width": 1024, "height": 1024}, {"num_images_per_prompt": 4}]
    four, same = grows(tiny_models, "sd", "text-to-image", small, changes)
    assert four == pytest.approx(4, rel=0.02)
    assert same == 1


def test_a_clip_s_need_goes_with_pixels_frames_and_chunks(tiny_models: Path) -> None:
    """Chunks are what is decoded at once; where they are small, the denoiser's frames are what counts."""
    small = STILL | {"width": 256, "height": 256, "num_frames": 8, "decode_chunk_size": 8}
    changes: list[dict[str, Any]] = [
        {"width": 512},
        {"decode_chunk_size": 4},
        {"num_frames": 16},
        {"decode_chunk_size": 1},
        {"decode_chunk_size": 1, "num_frames": 16},
    ]
    wide, halved, longer, least, least_longer = grows(tiny_models, "svd", "image-to-video", small, changes)
    assert wide == pytest.approx(2, rel=0.03)
    assert halved == pytest.approx(0.5, rel=0.05)
    assert 1 < longer < 1.1, "frames that are decoded already are kept"
    assert 1.7 < least_longer / least < 2.05


def test_guidance_doubles_a_step_and_the_dtype_halves_it(tiny_models: Path) -> None:
    """A batch of two where guidance asks for it, of three with InstructPix2Pix, of one with FLUX."""

    def step(model: str, dtype: str, guidance: float) -> float:
        estimate = loaded(tiny_models, model, dtype=dtype).estimate
        pipeline = "image-to-image" if model == "instruct-pix2pix" else "text-to-image"
        params = LOW | {"guidance_scale": guidance} | ({"width": 1024, "height": 1024} if "text" in pipeline else {})
        return estimate.by_phase(job(pipeline, params, (1024, 1024)))["denoise"]

    whole = step("sd", "float32", 7.5)
    assert step("sd", "float32", 1) / whole == pytest.approx(1 / 2, rel=0.05)
    assert step("sd", "bfloat16", 7.5) / whole == pytest.approx(1 / 2, rel=0.1)
    assert step("flux", "float32", 7.5) == step("flux", "float32", 1)
    edit = step("instruct-pix2pix", "float32", 7.5)
    assert edit / step("instruct-pix2pix", "float32", 1) == pytest.approx(3, rel=0.05)


def test_tiles_bound_the_decoder(tiny_models: Path) -> None:
    """From the operator's size on, a picture is decoded in tiles of the VAE's own side."""
    large = job("text-to-image", LOW | {"width": 1536, "height": 1536})
    whole, tiled = (
        loaded(tiny_models, "sd", vae_tiling_pixels=pixels).estimate.by_phase(large)["decode"]
        for pixels in (None, 1_000_000)
    )
    assert tiled < whole / 3


def test_film_beside_a_model_counts_for_jobs_that_ask_for_it(tiny_models: Path, tmp_path: Path) -> None:
    """Its turn comes after the clip, and its weights stay on the device."""
    video, film = tmp_path / "video", "reelnet/tiny-random-film"
    shutil.copytree(tiny_models / "reelnet/tiny-random-svd", video, ignore=shutil.ignore_patterns("film"))
    alone = loaded(tiny_models, str(video)).estimate
    beside = loaded(tiny_models, str(video), interpolation=film).estimate
    asked, plain = (
        job("image-to-video", STILL | {"interpolate_to_fps": 24}, (96, 64)),
        job("image-to-video", STILL, (96, 64)),
    )
    assert beside.by_phase(asked).keys() - beside.by_phase(plain).keys() == {"make frames between frames"}
    film_bytes = loaded(tiny_models, "film").estimate.profile.held_bytes
    assert film_bytes > 0
    assert beside.profile.held_bytes == alone.profile.held_bytes + film_bytes


async def test_a_job_over_the_limit_is_refused_before_any_step(tiny_models: Path, tmp_path: Path) -> None:
    """It says what to ask for, the device is not touched for it, and a smaller job runs."""
    async with running(tiny_models, "sd", tmp_path, memory_bytes=60 * 2**20, memory_reserve_bytes=0) as client:
        refused = await client.run(params=FOX | {"width": 512, "height": 512})
        assert [row["event"] for row in refused.events] == ["started", "error"]
        assert (refused.last["class"], refused.last["code"]) == ("oom", "estimate")
        assert "ask for a smaller width or height" in refused.last["message"]
        await draw(client)


async def test_info_has_the_figures(tiny_models: Path, tmp_path: Path) -> None:
    """What the weights take, and a usual job of each pipeline."""
    async with running(tiny_models, "sd", tmp_path) as client:
        memory = (await client.http.get("/info")).json()["memory"]
    assert memory["held_bytes"] == pytest.approx(2.5e6, rel=0.2)
    assert set(memory["usual_job_bytes"]) == {"text-to-image", "image-to-image"}
    assert all(size > 100e6 for size in memory["usual_job_bytes"].values())


@dataclass
class Exhausted:
    """A net's call that fails as an allocator does, with a tensor in its hands, after `calls` that go well."""

    true: Any
    error: Callable[[], Exception]
    calls: int
    held: Any = None

    def install(self, kind: Any, patch: pytest.MonkeyPatch) -> None:
        """Puts it before each net of a class."""
        patch.setattr(kind, "forward", lambda net, *args, **kwargs: self._call(net, *args, **kwargs))

    def _call(self, net: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls -= 1
        if self.calls >= 0:
            return self.true(net, *args, **kwargs)
        large = torch.empty(1000)
        self.held = weakref.ref(large)
        raise self.error()


def full_card() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")


def full_host() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def lost(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: device lost")


def nets() -> tuple[Any, Any]:
    """The net that denoises, and the VAE's decoder."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.autoencoders.vae import Decoder

    return UNet2DConditionModel, Decoder


@pytest.mark.parametrize(
    ("part", "steps", "error", "state"),
    [
        (0, 1, full_card, State.READY),
        (0, 0, full_host, State.READY),
        (1, 0, full_card, State.READY),
        (0, 2, full_card, State.DEFUNCT),
        (1, 0, full_card, State.DEFUNCT),
    ],
)
async def test_memory_that_runs_out_in_a_net(
    tiny_models: Path, tmp_path: Path, part: int, steps: int, error: Callable[[], Exception], state: State
) -> None:
    """The job fails as `oom`, what it held is free, and a small probe decides between READY and DEFUNCT."""
    kind = nets()[part]
    fault = Exhausted(kind.forward, error, steps)
    async with running(tiny_models, "sd", tmp_path) as client:
        with pytest.MonkeyPatch.context() as patch:
            fault.install(kind, patch)
            if state is State.DEFUNCT:
                patch.setattr(torch, "ones", lost)
            answer = await client.run(params=FOX)
        assert (answer.last["class"], answer.last["code"]) == ("oom", "out_of_memory")
        assert fault.held() is None
        assert (await client.health())["state"] == state
        if state is State.READY:
            await draw(client)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("sd15", "--width", "512", "--height", "512"), "weights that stay           2.0 GiB"),
        (("reelnet/tiny-random-svd", "--frames", "4"), "put the frames together"),
        (("reelnet/tiny-random-esrgan",), "enlarge"),
        (("reelnet/tiny-random-film",), "make frames between frames"),
        (("reelnet/tiny-random-sd-x4", "--json"), '"total_bytes"'),
    ],
)
def test_anybody_can_ask_what_a_model_needs(tiny_models: Path, arguments: tuple[str, ...], output: str) -> None:
    """From a well-known name or a folder, without a card."""
    result = CliRunner().invoke(cli, ["models", "estimate", *arguments, "--home", str(tiny_models)])
    assert result.exit_code == 0, result.output
    assert output in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("acme/nothing",), 1, "is none of sd15"),
        (("sd15", "--width", "10"), 2, "width"),
        (("sd15", "--pipeline", "upscale"), 2, "does not serve 'upscale'; it serves text"),
    ],
)
def test_a_mistake_in_the_question_is_told(
    tiny_models: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """One line and a code."""
    result = CliRunner().invoke(cli, ["models", "estimate", *arguments, "--home", str(tiny_models)])
    assert (result.exit_code, message in result.output) == (code, True), result.output


def table_rows() -> dict[str, list[str]]:
    """The rows of the table in docs/runner.md: the figures behind each command."""
    text = (Path(__file__).parents[3] / "docs/runner.md").read_text("utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| `sd", "| `flux", "| `svd"))
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_manual_s_table_is_what_the_command_says() -> None:
    """Weights, then all of it with each kind of offload, in GiB: for the row that is traced the fastest."""
    (command, figures), *_ = [(command, row) for command, row in table_rows().items() if command.startswith("sd15")]
    told: list[str] = []
    for offload in ("none", "model", "sequential"):
        arguments = ["models", "estimate", *command.split(), "--offload", offload, "--json"]
        answer = json.loads(CliRunner().invoke(cli, arguments).stdout)
        told += [answer["held_bytes"], answer["total_bytes"]] if offload == "none" else [answer["total_bytes"]]
    assert [f"{int(size) / GIB:.1f}" for size in told] == figures


def test_what_an_allocator_says_is_known() -> None:
    """Only CUDA's has an error of its own; a mistake of shapes is no lack of memory."""
    from runner.pipelines.family import is_out_of_memory

    with pytest.raises(RuntimeError) as short:
        torch.empty(2**48)
    with pytest.raises(RuntimeError) as misshapen:
        torch.ones(2) @ torch.ones(3)
    assert is_out_of_memory(short.value)
    assert not is_out_of_memory(misshapen.value)

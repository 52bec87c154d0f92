"""Models of full size: their architecture, how they are written, and what their jobs cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reelnet.errors import ConfigError
from reelnet.pipelines import PIPELINES
from runner.backend import SetupError
from runner.models import full, tiny
from runner.models.manifest import differences, read_manifest
from runner.models.store import StoreError
from tests.integration.runner.diffusion import draw, running

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers
NETS = {
    full.SD15: {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    full.SDXL: {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    full.SVD_XT: {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800},
}


@pytest.mark.parametrize("model", full.MODELS.values())
def test_a_full_model_is_as_large_as_the_published_one(model: str) -> None:
    """Each net has the published number of parameters, and none of them takes memory."""
    from runner.models.full_nets import build

    nets = {name: part for name, part in build(model).components.items() if isinstance(part, torch.nn.Module)}
    assert {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()} == NETS[model]
    assert {p.device.type for name, net in nets.items() for p in net.parameters() if p.numel() > 1} == {"meta"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called full-size is tiny: writing it is what is tested."""
    from runner.models import full_nets, tiny_nets

    monkeypatch.setattr(full_nets, "build", lambda name: tiny_nets.build(tiny.SD))


@pytest.fixture
def written(small: None, tmp_path: Path) -> Path:
    """The folder of a model that was made."""
    return full.make(tmp_path, [full.SD15])[0]


def test_a_written_model_says_what_it_is(written: Path) -> None:
    """Its folder is whole by its own manifest, which names its licence and that it is random."""
    manifest = read_manifest(written)
    assert manifest is not None
    assert (manifest.model, manifest.licence.id, manifest.source["kind"]) == (full.SD15, "Apache-2.0", "random")
    assert list(differences(written, manifest)) == []


async def test_a_written_model_is_served(written: Path, tmp_path: Path) -> None:
    """As any other, and its pictures are no flat colour."""
    async with running(tmp_path, str(written), tmp_path) as client:
        assert (await draw(client)).pixels().std() > 10


@pytest.mark.usefixtures("small")
def test_a_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Made once; made anew when a file is cut short."""
    (folder,) = full.make(tmp_path, [full.SD15])
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    full.make(tmp_path, [full.SD15])
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(weights.read_bytes()[:-1])
    full.make(tmp_path, [full.SD15])
    assert weights.stat().st_mtime_ns != before


@pytest.mark.usefixtures("small")
def test_weights_are_random_and_the_same_each_time(tmp_path: Path) -> None:
    """Two folders are equal to the byte; no two rows of a matrix are."""
    from safetensors.torch import load_file

    first, second = (full.make(tmp_path / name, [full.SD15])[0] for name in "ab")
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    matrices = [weights for weights in load_file(first / name).values() if weights.dim() == 2]
    assert matrices
    assert all(len(rows.unique(dim=0)) == len(rows) and rows.dtype == torch.float16 for rows in matrices)


def test_room_is_looked_for_before_anything_is_written(tmp_path: Path) -> None:
    """All that is to come has to fit, with some to spare."""
    with pytest.raises(StoreError, match=r"2\.1 GB are to come, 2\.2 GB are free; name fewer: --only sd15"):
        full.make(tmp_path, [full.SD15], free=lambda folder: 2_200_000_000)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_told() -> None:
    """With those that there are."""
    assert full.parse_names("sdxl,sd15") == (full.SDXL, full.SD15)
    with pytest.raises(ConfigError, match=r"expected some of sd15, sdxl, svd-xt; found 'sd3'"):
        full.parse_names("sd3")


@pytest.mark.parametrize(
    ("model", "pipeline", "params", "forward", "calls"),
    [
        (full.SD15, "text-to-image", {"prompt": "x", "width": 512, "height": 512}, 2 * 0.80e12, 51),
        (full.SDXL, "text-to-image", {"prompt": "x", "width": 1024, "height": 1024, "num_inference_steps": 30},
         2 * 6.76e12, 30),
        (full.SVD_XT, "image-to-video", {"num_frames": 25}, 2 * 80e12, 25),
    ],
)  # fmt: skip
def test_operations_are_counted_on_the_nets(
    tmp_path: Path, model: str, pipeline: str, params: dict[str, Any], forward: float, calls: int
) -> None:
    """As they were found by hand (twice a net's, for guidance), and as often as the scheduler calls: PNDM once more."""
    from runner.models.flops import count
    from runner.models.full_nets import build

    pipe = build(model)
    pipe.save_config(tmp_path)
    for name in ("unet", "vae", "scheduler"):
        pipe.components[name].save_config(tmp_path / name)
    counted = count(tmp_path, PIPELINES[pipeline].parse(params))
    assert counted.forward == pytest.approx(forward, rel=0.01)
    assert counted.forwards == calls
    assert 0 < counted.decode < 0.1 * counted.total


def test_without_guidance_a_step_costs_half(tiny_models: Path) -> None:
    """The net runs for one input instead of two."""
    from runner.models.flops import count

    folder, pipeline = tiny_models / tiny.SD, PIPELINES["text-to-image"]
    both, one = (count(folder, pipeline.parse({"prompt": "x", "guidance_scale": scale})) for scale in (7.5, 1.0))
    assert both.forward == 2 * one.forward
    assert both.decode == one.decode


@pytest.mark.parametrize("model", [tiny.SD3, tiny.ESRGAN])
def test_what_cannot_be_counted_is_told(tiny_models: Path, model: str) -> None:
    """A model of another class is an error, not a figure."""
    from runner.models.flops import count

    with pytest.raises(SetupError):
        count(tiny_models / model, PIPELINES["text-to-image"].parse({"prompt": "x"}))

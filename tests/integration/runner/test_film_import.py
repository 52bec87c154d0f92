"""The published FILM file, as a file that this test writes with its layout, by the command that operators use."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.cli import cli
from tests.integration.runner.diffusion import running

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers

LAYOUT: dict[str, list[int]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "film_layout.json").read_text("utf-8")
)
SVD = "reelnet/tiny-random-svd"


@pytest.fixture
def home(tiny_models: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of models with the tiny model of video, and no FILM beside it."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_models / SVD, folder / SVD, ignore=shutil.ignore_patterns("film"))
    yield folder
    shutil.rmtree(folder)


def imported(home: Path, file: Path) -> tuple[int, str]:
    """Exit code and output of the documented command."""
    words = ["models", "import", str(file), "--as", "film", "--for", SVD, "--licence", "Apache-2.0"]
    done = CliRunner().invoke(cli, [*words, "--commercial", "yes", "--reserve", "0", "--home", str(home)])
    return done.exit_code, done.output


async def test_the_published_layout_goes_beside_a_model(home: Path, tmp_path: Path) -> None:
    """82 tensors in 32 bits, read from TorchScript, are what the model's runner has for `interpolation` then."""
    from safetensors.torch import load_file

    from tests.fakes.torchscript import script

    file = script({name: torch.full(shape, 0.01) for name, shape in LAYOUT.items()}, tmp_path / "film_net.pt")
    code, output = await asyncio.to_thread(imported, home, file)
    assert code == 0, output
    stored = load_file(home / SVD / "film" / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in stored.items()} == LAYOUT
    assert all(bool((tensor == 0.01).all()) for tensor in stored.values())
    async with running(home, "svd", tmp_path) as client:
        info = (await client.http.get("/info")).json()
    assert info["pipelines"][0]["features"] == ["interpolation"]
    assert info["interpolation"] == json.loads((home / SVD / "film" / "reelnet.json").read_text())["digest"]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("fuse.output_conv.weight", None, "fuse.output_conv.weight is missing"),
        ("fuse.output_conv.weight", (3, 32, 1, 1), "fuse.output_conv.weight has shape 3×32×1×1 instead of 3×64×1×1"),
    ],
)
def test_another_layout_is_refused_by_the_tensors_name(
    home: Path, tmp_path: Path, name: str, shape: tuple[int, ...] | None, said: str
) -> None:
    """And nothing is stored."""
    from tests.fakes.torchscript import script

    tensors = {key: torch.zeros(size) for key, size in LAYOUT.items() if key != name}
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    code, output = imported(home, script(tensors, tmp_path / "film_net.pt"))
    assert code == 1
    assert said in output
    assert not (home / SVD / "film").exists()

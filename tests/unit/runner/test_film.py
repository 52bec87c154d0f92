"""FILM: the published layout, what the network computes, and the files it is read from."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from runner.backend import Frames, SetupError
from runner.models import film_folder, tiny_film
from runner.models.digest import survey
from runner.models.film import Film, layout, warp
from runner.models.film_folder import CLASS, FilmFrames, check_layout, load_film, padded, read_shape
from runner.models.tiny import FILM
from runner.models.torchscript import read_tensors
from tests.fakes.torchscript import script

pytestmark = pytest.mark.diffusers

PUBLISHED = json.loads((Path(__file__).parents[2] / "fixtures" / "film_layout.json").read_text("utf-8"))
PARAMETERS = 34_436_667
NARROW = tiny_film.SHAPE
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def film() -> Film:
    """A narrow network with random weights."""
    torch.manual_seed(3)
    return Film(NARROW).eval().requires_grad_(False)


@pytest.fixture
def blender() -> Film:
    """A narrow network that follows no flow and mixes both pictures evenly: its weights are set by hand."""
    made = Film(NARROW).eval().requires_grad_(False)
    for tensor in made.state_dict().values():
        tensor.zero_()
    _, join, refine = made.fuse.convs[-1]
    second = 3 + NARROW.features(0)  # the second picture comes after the first one and its features
    for colour in range(3):
        join[0].weight[colour, colour, 1, 1] = 0.5
        join[0].weight[colour, second + colour, 1, 1] = 0.5
        refine[0].weight[colour, colour, 1, 1] = 1
        made.fuse.output_conv.weight[colour, colour, 0, 0] = 1
    return made


def frames_of(film: Film) -> FilmFrames:
    return FilmFrames(film, CPU, torch.float32)


def picture(height: int, width: int, seed: int = 0) -> Frames:
    made: Frames = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return made


def test_names_and_shapes_are_the_published_ones() -> None:
    """82 tensors, 34,436,667 parameters."""
    assert {name: list(shape) for name, shape in layout().items()} == PUBLISHED
    assert len(PUBLISHED) == 82
    assert sum(math.prod(shape) for shape in PUBLISHED.values()) == PARAMETERS


def test_warp_reads_at_the_flow() -> None:
    """Channel 0 is x: a flow of (1, 0) shows the right neighbour, and beyond the edge the edge."""
    row = torch.arange(4.0).expand(1, 1, 3, 4)
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert torch.allclose(warp(row, right)[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]), atol=1e-5)
    half_down = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 4, 3)
    assert torch.allclose(warp(row.mT, half_down)[0, 0, :, 0], torch.tensor([0.5, 1.5, 2.5, 3.0]), atol=1e-5)


def test_half_precision_reads_at_the_same_place() -> None:
    """Places are computed in 32 bits, so the far end of a wide picture is not off."""
    wide = (torch.arange(2048.0) % 7).expand(1, 1, 1, 2048)
    still = torch.zeros(1, 2, 1, 2048)
    assert torch.equal(warp(wide.half(), still.half()).float().round(), wide)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 72), (7, 130), (1, 1)])
def test_any_size_comes_back(blender: Film, height: int, width: int) -> None:
    """Sides are padded to what the pyramid needs and cut again: the mix of two frames is exact to the edge."""
    first, second = picture(height, width, 1), picture(height, width, 2)
    made = frames_of(blender).between(first, second).at(0.5)
    expected = (first.astype(int) + second) / 2
    assert made.shape == first.shape
    assert np.abs(made - expected).max() <= 0.51


@pytest.mark.parametrize("t", [0.25, 0.5, 0.75])
def test_each_frame_is_read_along_the_flow_by_its_distance(blender: Film, t: float) -> None:
    """A network that sees 4 pixels to the left from the first to the second frame moves the first by t × 4."""
    predictor = blender.predict_flow._predictors[-1]
    other = blender.predict_flow._predictors[0]
    assert predictor._convs[-1][0].bias.shape == (2,)
    predictor._convs[-1][0].bias[0] = -4.0  # the same in both directions: each frame is read to its left
    ramp = torch.arange(128.0).expand(1, 3, 64, 128) / 256
    made = blender(ramp, ramp, t)
    middle = slice(16, 112)
    assert torch.allclose(made[..., middle], ramp[..., middle] - (4 * t + 4 * (1 - t)) / 2 / 256, atol=1e-5)
    predictor._convs[-1][0].bias[0] = 0
    other._convs[-1][0].bias[0] = -1.0  # a pixel two levels coarser is four of the finest
    assert torch.allclose(blender(ramp, ramp, t)[..., middle], ramp[..., middle] - 2 / 256, atol=1e-5)


def test_the_moment_decides_how_far_each_frame_is_moved(blender: Film) -> None:
    """At t the first frame is read t of the way, the second 1 - t of it."""
    join = blender.fuse.convs[-1][1]
    join[0].weight[:3, 3 + NARROW.features(0) :] = 0  # the second frame is left out
    blender.predict_flow._predictors[-1]._convs[-1][0].bias[0] = -4.0
    ramp = torch.arange(128.0).expand(1, 3, 64, 128) / 256
    for t in (0.25, 0.75):
        shown = 2 * blender(ramp, ramp, t)[..., 16:112]
        assert torch.allclose(shown, ramp[..., 16:112] - 4 * t / 256, atol=1e-5)


def test_moments_of_one_pair_share_what_was_compared(film: Film) -> None:
    """Comparing once and asking twice gives what two whole passes give."""
    first, second = torch.rand(2, 1, 3, 64, 128).unbind()
    motion = film.relate(first, second)
    for t in (0.2, 0.7):
        assert torch.equal(film.at(motion, t), film(first, second, t))
    assert not torch.equal(film.at(motion, 0.2), film.at(motion, 0.7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same_frame(film: Film, dtype: torch.dtype) -> None:
    """What moves where is summed in 32 bits, whatever the layers compute in."""
    first, second = picture(64, 128, 1), picture(64, 128, 2)
    exact = frames_of(film).between(first, second).at(0.3)
    half = FilmFrames(copy.deepcopy(film).to(dtype), CPU, dtype).between(first, second)
    assert {flow.dtype for flow in (*half.motion.to_first, *half.motion.to_second)} == {torch.float32}
    assert np.abs(exact.astype(int) - half.at(0.3)).mean() < 4


def test_padding_repeats_the_edges() -> None:
    """A black margin would be drawn into the picture by the convolutions."""
    assert torch.equal(padded(torch.full((1, 3, 5, 64), 0.5), 64), torch.full((1, 3, 64, 64), 0.5))


def test_frames_of_different_size_are_refused(film: Film) -> None:
    """Nothing moves between them."""
    with pytest.raises(ValueError, match="cannot be compared"):
        frames_of(film).between(picture(64, 64), picture(64, 65))


def test_the_tiny_model_is_a_model(tiny_models: Path) -> None:
    """The folder that make-tiny writes is surveyed, loaded and draws something."""
    folder = tiny_models / FILM
    assert survey(folder).class_name == CLASS
    film = load_film(folder, CPU, torch.float32)
    made = film.between(picture(48, 80, 1), picture(48, 80, 2)).at(0.5)
    assert made.shape == (48, 80, 3)
    assert made.std() > 10


# The published file


def test_the_published_layout_becomes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TorchScript file becomes safetensors with equal values; torch's own loader is not asked."""
    monkeypatch.setattr(torch.jit, "load", None)
    tensors = {name: torch.rand(shape) for name, shape in layout(NARROW).items()}
    folder = tmp_path / "film"
    film_folder.convert(script(tensors, tmp_path / "film.pt"), folder, NARROW)
    assert survey(folder).class_name == CLASS
    loaded = load_film(folder, CPU, torch.float32).film.state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("fuse.output_conv.bias"), "fuse.output_conv.bias is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is unknown"),
        (
            lambda t: t.update({"fuse.output_conv.weight": torch.zeros(3, 5, 1, 1)}),
            "fuse.output_conv.weight has shape 3×5×1×1 instead of 3×4×1×1",
        ),
        (
            lambda t: t.update({"fuse.output_conv.bias": torch.zeros(3, dtype=torch.int32)}),
            "fuse.output_conv.bias holds torch.int32 instead of floating-point numbers",
        ),
        (lambda t: t.clear(), "and 77 more"),
    ],
)
def test_another_network_is_refused_by_name(change: Callable[[dict[str, Tensor]], Any], said: str) -> None:
    """The operator learns which tensor is missing, unknown or of another shape."""
    tensors = {name: torch.zeros(shape) for name, shape in layout(NARROW).items()}
    change(tensors)
    with pytest.raises(SetupError) as caught:
        check_layout(tensors, NARROW, "film.pt")
    assert said in str(caught.value)


def test_strided_and_half_tensors_are_read(tmp_path: Path) -> None:
    """A transposed tensor and one of 16 bits have the values that torch itself reads."""
    tensors = {"a.weight": torch.rand(3, 4).T, "b": torch.rand(5).half(), "c.d.e": torch.tensor(2.5)}
    read = read_tensors(script(tensors, tmp_path / "m.pt"), 10_000)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert read["b"].dtype == torch.float16


def archive(path: Path, tree: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("m/data.pkl", tree)
        zipped.writestr("m/constants.pkl", b"\x80\x02).")
        for name, content in more.items():
            zipped.writestr(f"m/data/{name.removeprefix('_')}", content)
    return path


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("attacked"),))


def test_a_file_with_code_in_its_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pickle names besides modules and tensors is not called."""
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "m.pt", pickle.dumps(Attack(), protocol=2))
    with pytest.raises(SetupError, match="neither a module nor a tensor"):
        read_tensors(path, 1000)
    assert not (tmp_path / "attacked").exists()


def tensor_pickle(storage: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A module with one tensor `w`, as TorchScript writes it."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value[1:] if isinstance(value, tuple) and value[:1] == ("PID",) else None

    class Rebuilt:
        def __reduce__(self) -> Any:
            pid = ("PID", "storage", torch.FloatStorage, storage, "cpu", 4)
            return (torch._utils._rebuild_tensor_v2, (pid, offset, shape, stride, False, None))

    out = io.BytesIO()
    Writer(out, protocol=2).dump(Rebuilt())
    tensor = out.getvalue().removeprefix(b"\x80\x02").removesuffix(b".")
    return b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00w" + tensor + b"sb."


def test_a_tensor_is_read_from_its_storage(tmp_path: Path) -> None:
    """The hand-made file of the next test is right but for its faults."""
    data = np.arange(4, dtype=np.float32).tobytes()
    read = read_tensors(archive(tmp_path / "m.pt", tensor_pickle("0", 0, (2, 2), (1, 2)), _0=data), 16)
    assert read["w"].tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("storage", "offset", "shape", "stride", "limit"),
    [
        ("0", 1, (4,), (1,), 16),
        ("0", -1, (2,), (1,), 16),
        ("0", 0, (5,), (1,), 16),
        ("0", 0, (1 << 20, 1 << 20), (0, 0), 16),
        ("0", 0, (2,), (1, 1), 16),
        ("0", 0, (-2,), (1,), 16),
        ("1", 0, (2,), (1,), 16),
        ("../constants.pkl", 0, (1,), (1,), 16),
        ("0", 0, (2,), (1,), 15),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, storage: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], limit: int
) -> None:
    """Offsets, shapes and strides come from the file, and are believed only within its bytes."""
    path = archive(tmp_path / "m.pt", tensor_pickle(storage, offset, shape, stride), _0=bytes(16))
    with pytest.raises(SetupError, match="damaged"):
        read_tensors(path, limit)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x02N."])
def test_what_is_no_torchscript_is_refused(tmp_path: Path, content: bytes) -> None:
    """A pickle checkpoint, an empty file, half a zip."""
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(SetupError, match="not a TorchScript file"):
        read_tensors(path, 1000)


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        '{"flow_filters": 3}',
        '{"flow_filters": [4, 4], "levels": 2}',
        '{"flow_filters": [4], "wings": 2}',
        '{"flow_filters": [4], "fused_levels": 2, "levels": 60}',
    ],
)
def test_a_shape_that_is_none_is_refused(tmp_path: Path, config: str) -> None:
    """config.json decides how much memory is taken."""
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SetupError, match="not the shape of a FILM network"):
        read_shape(tmp_path)

"""What can be imported or pulled can be served: over the ways in which weights lie in a model's folder."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
import diffusers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from reelnet.jobs import Licence  # noqa: E402
from runner.backend import SetupError  # noqa: E402
from runner.models import tiny  # noqa: E402
from runner.models.choice import Wish, choose  # noqa: E402
from runner.models.copying import Import, import_model  # noqa: E402
from runner.models.digest import component_names, read_json, survey  # noqa: E402
from runner.models.families import _read  # noqa: E402
from runner.models.meter import Lines  # noqa: E402
from runner.models.store import ModelStore, StoreError  # noqa: E402
from tests.integration.runner.checkpoints import write_checkpoint  # noqa: E402

pytestmark = pytest.mark.diffusers
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Stable Diffusion as diffusers saves it."""
    home = tmp_path_factory.mktemp("plain")
    folder = tiny.make(home, tiny.SD)
    (folder / "reelnet.json").unlink(missing_ok=True)
    return folder


def _weights(part: Path) -> Path:
    (path,) = part.glob("*.safetensors")
    return path


def _named(variant: str) -> Callable[[Path], None]:
    def rename(part: Path) -> None:
        path = _weights(part)
        path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))

    return rename


def _both(part: Path) -> None:
    path = _weights(part)
    shutil.copy(path, path.with_name(f"{path.stem}.fp16.safetensors"))


def _sharded(variant: str = "") -> Callable[[Path], None]:
    def split(part: Path) -> None:
        path = _weights(part)
        tensors, ending = load_file(path), f".{variant}" if variant else ""
        halves = dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])
        files = [f"{path.stem}{ending}-{number:05d}-of-00002.safetensors" for number in (1, 2)]
        for name, half in zip(files, halves, strict=True):
            save_file(half, part / name, metadata={"format": "pt"})
        shards = {key: name for name, half in zip(files, halves, strict=True) for key in half}
        index = part / f"{path.name}.index{ending}.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}))
        path.unlink()

    return split


def _odd(part: Path) -> None:
    _weights(part).rename(part / "weights.safetensors")


def _with_notes(part: Path) -> None:
    (part / "LICENSE").write_text("a file without an ending")
    _named("fp16")(part)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "plain": lambda _: None,
    "fp16": _named("fp16"),
    "bf16": _named("bf16"),
    "non_ema": _named("non_ema"),
    "both": _both,
    "sharded": _sharded(),
    "sharded-fp16": _sharded("fp16"),
    "odd": _odd,
    "fp16-with-notes": _with_notes,
}
EVERY = sorted(itertools.product(LAYOUTS, repeat=len(PARTS)))
SAMPLE = [("fp16", "plain", "fp16"), ("bf16", "bf16", "bf16"), *random.Random(11).sample(EVERY, 14)]
"""The layouts of unet, VAE and text encoder that are loaded; of all of them it is known what is read."""


def _laid(plain: Path, folder: Path, layouts: tuple[str, ...]) -> Path:
    shutil.copytree(plain, folder)
    for part, layout in zip(PARTS, layouts, strict=True):
        LAYOUTS[layout](folder / part)
    return folder


def _nets(folder: Path) -> dict[str, Any]:
    pipe = _read(diffusers.AutoPipelineForText2Image, survey(folder), torch.float32)
    return {f"{part}.{key}": value for part in PARTS for key, value in getattr(pipe, part).state_dict().items()}


def _same(found: dict[str, Any], meant: dict[str, Any]) -> bool:
    return found.keys() == meant.keys() and all(torch.equal(found[key], meant[key]) for key in meant)


@pytest.mark.parametrize("layouts", SAMPLE, ids="-".join)
def test_what_is_imported_is_served_with_its_weights(plain: Path, tmp_path: Path, layouts: tuple[str, ...]) -> None:
    """Each part in a layout of its own; every number is that of the plain folder."""
    source = _laid(plain, tmp_path / "source", layouts)
    store = ModelStore(tmp_path / "home")
    order = Import(source, "acme/model", Licence("MIT", "yes"), reserve_bytes=0)
    folder, _ = import_model(order, store, Lines(lambda _: None))
    assert _same(_nets(folder), _nets(plain))


@pytest.mark.parametrize("layouts", EVERY[:: len(EVERY) // 60], ids="-".join)
def test_what_a_pull_chooses_is_whole(plain: Path, tmp_path: Path, layouts: tuple[str, ...]) -> None:
    """With and without a variant, what is chosen of a repository can be read; or the pull says what to ask for."""
    source = _laid(plain, tmp_path / "source", layouts)
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    for wish in (Wish(), Wish("fp16"), Wish("bf16")):
        try:
            chosen = choose(names, component_names(read_json(source / "model_index.json")), wish)
        except StoreError as error:
            assert "--variant" in str(error)  # noqa: PT017 - one of several wishes
            continue
        target = tmp_path / f"chosen-{wish.variant}"
        for name in chosen:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
        assert set(survey(target).layout.components) == set(PARTS)


def test_a_variant_that_some_parts_lack_is_pulled_with_the_others_plain(plain: Path, tmp_path: Path) -> None:
    """As diffusers loads it."""
    source = _laid(plain, tmp_path / "source", ("both", "plain", "both"))
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    chosen = choose(names, PARTS, Wish("fp16"))
    assert [name for name in chosen if name.endswith(".safetensors")] == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def _two_odd(part: Path) -> None:
    shutil.copy(_weights(part), part / "a.safetensors")
    _weights_named(part).rename(part / "b.safetensors")


def _weights_named(part: Path) -> Path:
    return next(part.glob("diffusion_pytorch_model*"))


def _without_a_shard(part: Path) -> None:
    _sharded()(part)
    next(part.glob("*-00002-of-00002*")).unlink()


def _without_an_index(part: Path) -> None:
    _sharded()(part)
    next(part.glob("*.index.json")).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: _weights(part).unlink(), "unet: has no safetensors weights"),
        (_two_odd, "no library reads its weights by these names"),
        (_without_a_shard, "00002-of-00002.safetensors: missing"),
        (_without_an_index, "no library reads its weights by these names"),
    ],
)
def test_what_cannot_be_served_is_not_imported(
    plain: Path, tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    """It says which part, and what was expected."""
    source = _laid(plain, tmp_path / "source", ("plain", "plain", "plain"))
    change(source / "unet")
    with pytest.raises(SetupError, match=reason):
        import_model(
            Import(source, "acme/model", Licence("MIT", "yes"), reserve_bytes=0),
            ModelStore(tmp_path / "home"),
            Lines(lambda _: None),
        )


def _without(folder: Path, start: str) -> None:
    path = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not key.startswith(start)}, path)


def _vae_folder(plain: Path, folder: Path) -> None:
    shutil.copy(_weights(plain / "vae"), folder / "vae")


def _vae_folder_of_a_variant(plain: Path, folder: Path) -> None:
    _vae_folder(plain, folder)
    _named("fp16")(folder / "vae")


def _vae_file(plain: Path, folder: Path) -> None:
    shutil.copy(_weights(plain / "vae"), folder / "vae.safetensors")


def _vae_file_of_its_trainers(_: Path, folder: Path) -> None:
    whole = load_file(folder / "whole")
    start = "first_stage_model."
    tensors = {key.removeprefix(start): value for key, value in whole.items() if key.startswith(start)}
    save_file(tensors, folder / "sd-vae.safetensors")


@pytest.mark.parametrize("put", [_vae_folder, _vae_folder_of_a_variant, _vae_file, _vae_file_of_its_trainers])
def test_a_checkpoint_without_a_vae_takes_the_one_beside_it(
    plain: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    """A folder or a file, in diffusers' names or the original ones."""
    folder = write_checkpoint(plain, tmp_path / "one-file")
    shutil.copy(folder / "model.safetensors", folder / "whole")
    _without(folder, "first_stage_model.")
    put(plain, folder)
    assert _same(_nets(folder), _nets(plain))


def test_a_vae_beside_a_whole_checkpoint_is_taken(plain: Path, tmp_path: Path) -> None:
    """Who puts one there wants it."""
    folder = write_checkpoint(plain, tmp_path / "one-file")
    tensors = load_file(_weights(plain / "vae"))
    save_file({key: value + 1 for key, value in tensors.items()}, folder / "vae.safetensors")
    found = _nets(folder)
    assert torch.equal(found["vae.decoder.conv_in.weight"], tensors["decoder.conv_in.weight"] + 1)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("first_stage_model.", "the file has no vae in it, and none lies beside it; .* vae.safetensors"),
        ("cond_stage_model.", "the file has no text_encoder in it, and none lies beside it; put one there"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_says_how(plain: Path, tmp_path: Path, start: str, reason: str) -> None:
    """Before anything is loaded, also when it is imported."""
    folder = write_checkpoint(plain, tmp_path / "one-file")
    _without(folder, start)
    with pytest.raises(SetupError, match=reason):
        survey(folder)


def test_two_checkpoints_are_named(plain: Path, tmp_path: Path) -> None:
    """Which of them is meant is the operator's to say."""
    folder = write_checkpoint(plain, tmp_path / "one-file")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(SetupError, match=r"expected one checkpoint at its top .*model.safetensors, other.safetensors"):
        survey(folder)


def test_a_file_alone_is_imported_where_it_can_be_served(plain: Path, tmp_path: Path) -> None:
    """An upscaler or a LoRA; a checkpoint needs its configurations, and a LoHa is none."""
    store = ModelStore(tmp_path / "home")

    def stored(path: Path) -> Path:
        order = Import(path, f"acme/{path.stem}", Licence("MIT", "yes"), reserve_bytes=0)
        return import_model(order, store, Lines(lambda _: None))[0]

    lora = {f"unet.a.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    save_file(lora, tmp_path / "lora.safetensors")
    assert stored(tmp_path / "lora.safetensors").is_dir()
    xlabs = {f"double_blocks.0.processor.qkv_lora1.{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    save_file(xlabs, tmp_path / "xlabs.safetensors")
    assert stored(tmp_path / "xlabs.safetensors").is_dir()
    save_file({f"unet.a.hada_w1_{side}": torch.ones(4, 4) for side in "ab"}, tmp_path / "loha.safetensors")
    with pytest.raises(SetupError, match="is a LoHa"):
        stored(tmp_path / "loha.safetensors")
    checkpoint = write_checkpoint(plain, tmp_path / "one-file") / "model.safetensors"
    with pytest.raises(SetupError, match="checkpoint, and what its nets are stands in no file"):
        stored(checkpoint)

"""The folder of models: ids, drafts, manifests, and what is imported into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reelnet.errors import ConfigError
from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.cli import cli
from runner.models import copying
from runner.models.copying import Import, import_model
from runner.models.digest import survey
from runner.models.licences import licence_of, spdx
from runner.models.manifest import differences, read_manifest
from runner.models.meter import Lines
from runner.models.store import ModelStore, StoreError, checked_id
from tests.fakes.hub import tensors

FREE = Licence("MIT", "yes")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "home").mkdir()
    return ModelStore(tmp_path / "home")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model, with things beside that are none of it."""
    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline", "unet": ["diffusers", "UNet"]}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(tensors())
    (folder / "unet" / "weights.bin").write_bytes(b"pickle")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "state.json").write_text("{}")
    return folder


def brought(order: Import, store: ModelStore, free: int = 1 << 50) -> Path:
    return import_model(order, store, Lines(lambda _: None), lambda _: free)[0]


def test_a_folder_is_imported_with_its_digest(store: ModelStore, model: Path) -> None:
    """Its model files alone, under the same digest, with a manifest that lists them."""
    folder = brought(Import(model, "acme/mine", FREE), store)
    files = survey(folder)
    assert files.digest() == survey(model).digest()
    assert files.licence == FREE
    manifest = read_manifest(folder)
    assert manifest
    assert manifest.digest == files.digest()
    assert sorted(manifest.files) == ["model_index.json", "unet/config.json", "unet/weights.safetensors"]
    assert not (folder / "unet" / "weights.bin").exists()
    (found,) = store.models()
    assert (found.id, found.class_name, found.size) == ("acme/mine", "FluxPipeline", manifest.size)


def test_a_single_file_is_imported(store: ModelStore, tmp_path: Path) -> None:
    """An upscaler or a LoRA is a folder with one file."""
    file = tmp_path / "x4.safetensors"
    file.write_bytes(tensors())
    folder = brought(Import(file, "acme/x4", FREE), store)
    assert (folder / "x4.safetensors").read_bytes() == file.read_bytes()


def test_a_link_takes_no_space(store: ModelStore, model: Path) -> None:
    """And asks for none."""
    folder = brought(Import(model, "acme/mine", FREE, link=True), store, free=0)
    assert (folder / "unet/weights.safetensors").samefile(model / "unet/weights.safetensors")


def test_too_little_space_is_said_first(store: ModelStore, model: Path) -> None:
    """Nothing is copied."""
    with pytest.raises(StoreError, match="are free"):
        brought(Import(model, "acme/mine", FREE, reserve_bytes=1000), store, free=1000)
    assert not list(store.models())


@pytest.mark.parametrize("name", ["w.ckpt", "w.pt", "w.onnx"])
def test_a_file_that_is_no_safetensors_is_refused(store: ModelStore, tmp_path: Path, name: str) -> None:
    """A pickle runs code when it is read."""
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(StoreError, match=r"pickle|neither"):
        brought(Import(tmp_path / name, "acme/w", FREE), store)


def test_a_folder_of_pickles_is_refused(store: ModelStore, model: Path) -> None:
    """By the name of one."""
    (model / "unet" / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"unet/weights\.bin"):
        brought(Import(model, "acme/mine", FREE), store)


def test_damaged_weights_are_refused(store: ModelStore, model: Path) -> None:
    """A broken copy does not become a model."""
    (model / "unet" / "weights.safetensors").write_bytes(tensors()[:-1])
    with pytest.raises(SetupError, match="download it again"):
        brought(Import(model, "acme/mine", FREE), store)
    assert not list(store.models())


def test_a_licence_has_to_be_known_or_accepted(store: ModelStore, model: Path) -> None:
    """As for a pull."""
    order = Import(model, "acme/mine")
    with pytest.raises(ConfigError, match="--accept-licence"):
        brought(order, store)
    brought(replace(order, accept_licence=True), store)


def test_a_model_is_not_replaced_by_accident(store: ModelStore, model: Path) -> None:
    """It has to be said; then the old one is gone as a whole."""
    order = Import(model, "acme/mine", FREE)
    brought(order, store)
    with pytest.raises(StoreError, match="--replace"):
        brought(order, store)
    (model / "unet" / "more.txt").write_text("x")
    folder = brought(replace(order, replace=True), store)
    assert (folder / "unet" / "more.txt").exists()
    assert not list((store.home / ".pulling").glob("*@*"))


def test_two_commands_do_not_store_the_same_model(store: ModelStore) -> None:
    """The second one says so instead of mixing its files in."""
    with (
        store.draft("acme/mine", "a"),
        pytest.raises(StoreError, match="another command"),
        store.draft("acme/mine", "b"),
    ):
        pass


def test_differences_name_the_file(store: ModelStore, model: Path) -> None:
    """Changed, cut, missing and added ones; what no digest counts does not matter."""
    folder = brought(Import(model, "acme/mine", FREE), store)
    manifest = read_manifest(folder)
    assert manifest
    assert not list(differences(folder, manifest))
    (folder / "README.md").write_text("x")
    (folder / "unet" / "config.json").write_text("[]")
    (folder / "model_index.json").write_text("{} ")
    (folder / "unet" / "weights.safetensors").unlink()
    (folder / "new.json").write_text("{}")
    size = manifest.files["model_index.json"].size
    assert list(differences(folder, manifest)) == [
        f"model_index.json: 3 bytes instead of {size}",
        "unet/config.json: its content differs",
        "unet/weights.safetensors: missing",
        "new.json: was added",
    ]


@pytest.mark.parametrize("card", ["{", '{"files": 3}', '{"files": {"a": {"size": "x"}}, "model": "m", "licence": {}}'])
def test_a_damaged_manifest_is_said(tmp_path: Path, card: str) -> None:
    """Not taken for an absent one."""
    (tmp_path / "reelnet.json").write_text(card)
    with pytest.raises(SetupError):
        read_manifest(tmp_path)


def test_a_damaged_manifest_hides_no_other_model(store: ModelStore, model: Path) -> None:
    """It is listed with what is wrong, fails verify, and can be removed."""
    brought(Import(model, "acme/good", FREE), store)
    brought(Import(model, "acme/mine", FREE), store)
    (store.home / "acme/mine/reelnet.json").write_text("{")
    good, bad = store.models()
    assert good.fault == ""
    assert "cannot be read" in bad.fault
    done = CliRunner().invoke(cli, ["models", "verify", "--home", str(store.home)])
    assert done.exit_code == 1
    assert "acme/good: as stored" in done.stdout
    assert "acme/mine: DIFFERS" in done.stdout
    assert "! " in CliRunner().invoke(cli, ["models", "list", "--home", str(store.home)]).stdout
    store.remove("acme/mine")
    assert [found.id for found in store.models()] == ["acme/good"]


def test_the_list_is_not_wrapped_in_a_pipe(store: ModelStore, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few columns the terminal has: a model is a line, with its whole name."""
    monkeypatch.setenv("COLUMNS", "80")
    name = f"{'a' * 60}/{'b' * 59}"
    brought(Import(model, name, FREE), store)
    lines = CliRunner().invoke(cli, ["models", "list", "--home", str(store.home)]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["MODEL", name]
    assert lines[1].rstrip().endswith("text-to-image, image-to-image")


def test_removing_takes_what_pulls_have_left(store: ModelStore, model: Path) -> None:
    """And an organisation's folder when it is empty."""
    brought(Import(model, "acme/mine", FREE), store)
    brought(Import(model, "acme/other", FREE), store)
    (store.home / ".pulling" / "acme--mine@0123").mkdir()
    store.remove("acme/mine")
    assert [found.id for found in store.models()] == ["acme/other"]
    assert not list((store.home / ".pulling").glob("acme--mine@*"))
    store.remove("acme/other")
    assert not (store.home / "acme").exists()
    with pytest.raises(StoreError, match="no such model"):
        store.remove("acme/other")


@pytest.mark.parametrize("name", ["..", "a/..", "/a", "a/b/c", "a//b", "", ".hidden/x", "a b", "a/b\n", "~/x", "a..b"])
def test_what_leads_out_is_no_id(name: str) -> None:
    """An id becomes a path."""
    with pytest.raises(ConfigError):
        checked_id(name)


@given(st.text(max_size=20))
def test_an_id_stays_in_the_home(name: str) -> None:
    """Whatever is taken for an id lies one or two folders below."""
    home = Path("/models")
    try:
        folder = ModelStore(home).folder(name)
    except ConfigError:
        return
    assert folder.resolve().is_relative_to(home)
    assert 1 <= len(folder.relative_to(home).parts) <= 2


@pytest.mark.parametrize(
    ("tag", "name", "licence"),
    [
        ("apache-2.0", None, Licence("Apache-2.0", "yes")),
        ("openrail++", None, Licence("LicenseRef-openrail-plus-plus", "conditional")),
        ("cc-by-nc-sa-4.0", None, Licence("CC-BY-NC-SA-4.0", "no")),
        ("other", "flux-1-dev-non-commercial-license", Licence("LicenseRef-flux-1-dev-non-commercial-license", "no")),
        ("other", "stabilityai-ai-community", Licence("LicenseRef-stabilityai-ai-community", "conditional")),
        ("other", "house-rules", Licence("LicenseRef-house-rules", "unknown")),
        ("other", None, Licence()),
        (None, None, Licence()),
        (["mit"], None, Licence("LicenseRef-mit", "unknown")),
    ],
)
def test_a_hub_s_tag_becomes_a_licence(tag: object, name: object, licence: Licence) -> None:
    """What is not known for certain is never called free."""
    assert licence_of(tag, name) == licence


def test_an_operator_s_spelling_becomes_an_id() -> None:
    """Known ones in SPDX's own spelling."""
    assert [spdx(text) for text in ("apache-2.0", "MIT", "LicenseRef-x", "my own!")] == [
        "Apache-2.0",
        "MIT",
        "LicenseRef-x",
        "LicenseRef-my-own",
    ]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A folder that looks like FILM."""
    folder = tmp_path / "its-film"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "FilmInterpolation"}')
    (folder / "model.safetensors").write_bytes(tensors(b"film"))
    return folder


def _of_class(model: Path, name: str) -> Path:
    (model / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return model


def test_film_is_imported_beside_a_video_model(store: ModelStore, model: Path, film: Path) -> None:
    """Into its folder, with a manifest of its own; the model stays the model that it was."""
    svd = brought(Import(_of_class(model, "StableVideoDiffusionPipeline"), "acme/svd", FREE), store)
    before = survey(svd).digest()
    folder = brought(Import(film, "acme/film", FREE, beside="acme/svd"), store)
    assert folder == svd / "film"
    manifest = read_manifest(folder)
    assert manifest
    assert manifest.digest == survey(folder).digest() == survey(film).digest()
    assert survey(svd).digest() == before
    assert [found.id for found in store.models()] == ["acme/svd"]
    with pytest.raises(StoreError, match="--replace"):
        brought(Import(film, "acme/film", FREE, beside="acme/svd"), store)
    brought(Import(film, "acme/film", FREE, beside="acme/svd", replace=True), store)


@pytest.mark.parametrize("name", ["FluxPipeline", "FilmInterpolation", ""])
def test_film_goes_with_models_of_video_alone(store: ModelStore, model: Path, film: Path, name: str) -> None:
    """With another one it would never be asked; a model that is not there is named."""
    with pytest.raises(StoreError, match="no such model"):
        brought(Import(film, "acme/film", FREE, beside="acme/mine"), store)
    brought(Import(_of_class(model, name), "acme/mine", FREE), store)
    with pytest.raises(StoreError, match="makes no clips of pictures"):
        brought(Import(film, "acme/film", FREE, beside="acme/mine"), store)


def test_nothing_but_film_lies_beside_a_model(store: ModelStore, model: Path) -> None:
    """A runner would refuse it at its start."""
    svd = brought(Import(_of_class(model, "StableVideoDiffusionPipeline"), "acme/svd", FREE), store)
    with pytest.raises(StoreError, match="not a FILM network"):
        brought(Import(_of_class(model, "FluxPipeline"), "acme/flux", FREE, beside="acme/svd"), store)
    assert not (svd / "film").exists()


def test_what_lies_beside_a_model_outlives_it(store: ModelStore, model: Path, film: Path) -> None:
    """A newer copy of the model takes its place; LoRAs and FILM stay."""
    order = Import(_of_class(model, "StableVideoDiffusionPipeline"), "acme/svd", FREE)
    svd = brought(order, store)
    brought(Import(film, "acme/film", FREE, beside="acme/svd"), store)
    (svd / "loras" / "ink").mkdir(parents=True)
    (svd / "loras" / "ink" / "ink.safetensors").write_bytes(tensors())
    (model / "unet" / "config.json").write_text('{"new": true}')
    brought(replace(order, replace=True), store)
    assert (svd / "unet" / "config.json").read_text() == '{"new": true}'
    assert survey(svd / "film").digest() == survey(film).digest()
    assert (svd / "loras" / "ink" / "ink.safetensors").exists()


def test_film_is_verified_with_its_model(store: ModelStore, model: Path, film: Path) -> None:
    """By the command that put it there, and by its own manifest."""
    home = ["--home", str(store.home)]
    brought(Import(_of_class(model, "StableVideoDiffusionPipeline"), "acme/svd", FREE), store)
    imported = CliRunner().invoke(
        cli, ["models", "import", str(film), "--for", "acme/svd", "--licence", "mit", "--commercial", "yes", *home]
    )
    assert imported.exit_code == 0, imported.output
    assert str(store.home / "acme/svd/film") in imported.stdout
    assert CliRunner().invoke(cli, ["models", "verify", *home]).exit_code == 0
    (store.home / "acme/svd/film/model.safetensors").write_bytes(tensors(b"mlif"))
    done = CliRunner().invoke(cli, ["models", "verify", *home])
    assert done.exit_code == 1
    assert "film/model.safetensors: its content differs" in done.stdout


def test_the_command_imports(store: ModelStore, model: Path) -> None:
    """With JSON for programs, and exit code 2 for a file that is not there."""
    arguments = ["models", "import", "--home", str(store.home), "--reserve", "0", "--commercial", "yes", "--json"]
    done = CliRunner().invoke(cli, [*arguments, str(model), "--licence", "mit"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "local/mine"
    assert json.loads(done.stdout)["licence"] == {"id": "MIT", "commercial": "yes"}
    assert CliRunner().invoke(cli, [*arguments, str(model / "none")]).exit_code == 2


def test_a_model_that_nobody_stored_cannot_be_verified(store: ModelStore, model: Path) -> None:
    """It is listed, and verify says why it has no answer."""
    (store.home / "acme").mkdir()
    model.rename(store.home / "acme" / "mine")
    done = CliRunner().invoke(cli, ["models", "verify", "--home", str(store.home)])
    assert done.exit_code == 1
    assert "nothing to compare with" in done.stdout


def test_converting_without_torch_says_what_to_install(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, as for every missing library."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(copying.importlib, "import_module", missing)
    command = [
        "models",
        "import",
        "--as",
        "film",
        "--accept-licence",
        "--home",
        str(store.home),
        str(tmp_path / "f.pt"),
    ]
    assert CliRunner().invoke(cli, command).exit_code == 3

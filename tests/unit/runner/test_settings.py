"""The runner's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelnet.errors import ConfigError
from reelnet.settings import load
from runner.settings import RunnerSettings


def test_every_field_says_what_it_is() -> None:
    """Each has a sentence, and each but the model a default."""
    for name, field in RunnerSettings.model_fields.items():
        assert field.description, name
        assert name == "model" or not field.is_required(), name


def test_environment_over_file_and_flags_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One YAML file < environment < flags."""
    file = tmp_path / "runner.yaml"
    file.write_text("model: acme/a\ncrf: 20\npng_level: 3\nsynthetic: {unit_s: 0.5}\n")
    monkeypatch.setenv("REELNET_RUNNER_CRF", "21")
    monkeypatch.setenv("REELNET_RUNNER_PNG_LEVEL", "4")
    settings = load(RunnerSettings, file, {"png_level": 5})
    assert (settings.model, settings.crf, settings.png_level, settings.synthetic.unit_s) == ("acme/a", 21, 5, 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"pipelines": ["image-to-vide"]}, "did you mean 'image-to-video'"),
        ({"tcp": {"host": "0.0.0.0", "port": 1}}, "not a loopback address"),
        ({"tick": 3}, "tick: unknown key; did you mean 'tick_s'"),
        ({"synthetic": {"unit": 3}}, "did you mean 'unit_s'"),
        ({"synthetic": {"families": {"image-to-video": "wam"}}}, "image-to-video has no family 'wam'"),
        ({"warmup": ["large"]}, "'large' is no size: expected 1024x576"),
        ({"model": None}, "model: Field required"),
    ],
)
def test_mistakes_say_what_to_do(flags: dict[str, object], message: str) -> None:
    """A wrong key, name or address is one line that names the right one."""
    with pytest.raises(ConfigError, match=message):
        load(RunnerSettings, None, {"model": "acme/a", **flags} if "model" not in flags else {})


@pytest.mark.parametrize(
    ("model", "model_id", "advertised"),
    [("acme/sdxl", None, "acme/sdxl"), ("/srv/models/sdxl", None, "sdxl"), ("/srv/models/x", "acme/sdxl", "acme/sdxl")],
)
def test_advertised_id(model: str, model_id: str | None, advertised: str) -> None:
    """The id that was given, else the one that was meant, else the folder's name."""
    assert RunnerSettings(model=model, model_id=model_id).advertised_id == advertised


def test_film_lies_beside_its_model_or_is_named(tmp_path: Path) -> None:
    """`film` in the model's folder is taken unasked; a name is a folder there, else an id, or a path."""
    model = tmp_path / "acme/svd"

    def found(interpolation: str | None = None) -> Path | None:
        return RunnerSettings(model="acme/svd", models_home=tmp_path, interpolation=interpolation).interpolation_folder

    assert found() is None
    assert found("acme/film") == tmp_path / "acme/film"
    assert found(str(tmp_path / "x")) == tmp_path / "x"
    (model / "film").mkdir(parents=True)
    assert found() == found("film") == model / "film"
    assert found("acme/film") == tmp_path / "acme/film", "what is named is what is taken"


def test_models_lie_under_their_home(tmp_path: Path) -> None:
    """An id is a folder under the models' folder; a path is itself."""
    assert RunnerSettings(model="acme/sdxl", models_home=tmp_path).folder == tmp_path / "acme/sdxl"
    assert RunnerSettings(model=str(tmp_path / "x")).folder == tmp_path / "x"

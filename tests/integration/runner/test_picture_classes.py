"""Each class of pictures is served right, or refused when the runner starts: on tiny random weights, from a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")

from reelnet.errors import UnsupportedError  # noqa: E402
from reelnet.model_classes import pipelines_of  # noqa: E402
from reelnet.pipelines import PIPELINES  # noqa: E402
from runner.backend import RunnerJob, SetupError  # noqa: E402
from runner.models.digest import survey  # noqa: E402
from runner.models.loading import LoadedModel, load  # noqa: E402
from runner.settings import RunnerSettings  # noqa: E402
from tests.fakes import picture_classes  # noqa: E402
from tests.fakes.runner import picture  # noqa: E402

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SERVED = ("pixart_alpha", "pixart_sigma", "latent_consistency", "qwen_image", "sana", "z_image", "aura_flow")
STEPS = 4


class Silent:
    """A reporter that notes the steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def step(self, stage: str, step: int, total: int) -> None:
        self.steps.append((stage, step, total))

    def sketch(self, _: object) -> None:
        pass

    def warn(self, _: object) -> None:
        pass


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """A class's tiny model, read from a folder as a runner does."""
    known: dict[str, LoadedModel] = {}

    def model(name: str) -> LoadedModel:
        if name not in known:
            folder = tmp_path_factory.mktemp(name) / "model"
            getattr(picture_classes, name)().save_pretrained(folder)
            settings = RunnerSettings(model=str(folder), device="cpu", safety="off", threads=1)
            known[name] = load(survey(folder), settings)
        return known[name]

    return model


def _draw(model: LoadedModel, pipeline: str = "text-to-image", **changes: Any) -> tuple[Any, Silent]:
    values: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": STEPS}
    inputs = {}
    if pipeline == "text-to-image":
        values |= {"width": 64, "height": 72}
    else:
        inputs["image"] = Image.open(BytesIO(picture(64, 72))).convert("RGB")
    params = PIPELINES[pipeline].parse(values | {"seed": 1} | changes)
    said = Silent()
    (rendered,) = model.render(RunnerJob("j", 1, pipeline, params, inputs), said)
    return np.asarray(rendered.frames), said


def _calls(model: LoadedModel, **changes: Any) -> int:
    """How many pictures' worth of work the net does: its calls, each by its batch."""
    pipe = model.family._pipes["text-to-image"]
    net, rows = getattr(pipe, "transformer", None) or pipe.unet, []

    def counted(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = given[0] if given else named["hidden_states"]
        rows.append(len(first))

    handle = net.register_forward_pre_hook(counted, with_kwargs=True)
    try:
        _draw(model, **changes)
    finally:
        handle.remove()
    return sum(rows)


@pytest.mark.parametrize("name", SERVED)
def test_each_parameter_changes_the_picture_or_is_refused_by_its_name(
    loaded: Callable[[str], LoadedModel], name: str
) -> None:
    """At the size that was asked for, in the steps that were asked for, and the same again."""
    model = loaded(name)
    base, said = _draw(model)
    assert base.shape == (1, 72, 64, 3)
    assert [row for row in said.steps if row[0] == "denoise"] == [("denoise", n, STEPS) for n in range(1, STEPS + 1)]
    assert np.array_equal(_draw(model)[0], base)
    changes: dict[str, Any] = {
        "prompt": "two red cars", "seed": 2, "num_inference_steps": 3, "guidance_scale": 3.0,
        "negative_prompt": "a black square",
    }  # fmt: skip
    for key, value in changes.items():
        try:
            drawn, _ = _draw(model, **{key: value})
        except UnsupportedError as error:
            assert error.loc == (key,)  # noqa: PT017 - either is right
            assert (name, key) == ("latent_consistency", "negative_prompt")
        else:
            assert not np.array_equal(drawn, base), key


@pytest.mark.parametrize("name", [name for name in SERVED if name != "latent_consistency"])
def test_guidance_costs_a_second_pass_and_none_costs_one(loaded: Callable[[str], LoadedModel], name: str) -> None:
    """Also where it is the default: 4 steps are 8 passes, in one batch of two or in two calls."""
    model = loaded(name)
    assert _calls(model) == 2 * STEPS
    none = 0.0 if name == "z_image" else 1.0  # whose scale counts from nothing
    assert _calls(model, guidance_scale=none) == STEPS


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "latent_consistency"])
def test_the_same_nets_change_pictures(loaded: Callable[[str], LoadedModel], name: str) -> None:
    """With a strength that counts, and guidance as well."""
    model = loaded(name)
    base, said = _draw(model, "image-to-image")
    assert base.shape == (1, 72, 64, 3)
    assert len([row for row in said.steps if row[0] == "denoise"]) == int(STEPS * 0.8)
    changes: dict[str, Any] = {"strength": 0.4, "guidance_scale": 3.0}
    if name != "latent_consistency":
        changes["negative_prompt"] = "a black square"
    for key, value in changes.items():
        assert not np.array_equal(_draw(model, "image-to-image", **{key: value})[0], base), key


def test_a_job_of_an_older_callback_can_be_stopped(loaded: Callable[[str], LoadedModel]) -> None:
    """PixArt tells its steps as diffusers did before."""

    class Stop(Exception):
        """What a canceled job raises."""

    class Stopping(Silent):
        def step(self, stage: str, step: int, total: int) -> None:
            super().step(stage, step, total)
            if step == 2:
                raise Stop

    model, said = loaded("pixart_alpha"), Stopping()
    params = PIPELINES["text-to-image"].parse(
        {"prompt": "a fox", "width": 64, "height": 64, "seed": 1, "num_inference_steps": 5}
    )
    with pytest.raises(Stop):
        list(model.render(RunnerJob("j", 1, "text-to-image", params), said))
    assert said.steps == [("denoise", 1, 5), ("denoise", 2, 5)]


def test_well_known_classes_need_no_trial() -> None:
    """These tests are theirs; of another class a runner draws small pictures before it says that it is ready."""
    for name in ("PixArtAlpha", "PixArtSigma", "LatentConsistencyModel", "QwenImage", "Sana"):
        assert pipelines_of(f"{name}Pipeline")
    assert not pipelines_of("ZImagePipeline")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as context:
        yield context


def test_the_classes_without_a_trial_are_those_with_a_test() -> None:
    """A row that is added wants a tiny model in the tests."""
    from diffusers.pipelines import auto_pipeline as auto

    from runner.models.families import _is_tried

    kinds = (*auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values(), *auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values())
    draws = {name: f"{name}Pipeline" for name in ("PixArtAlpha", "PixArtSigma", "Sana")}
    changes = (
        "StableDiffusion",
        "StableDiffusionXL",
        "StableDiffusion3",
        "Flux",
        "LatentConsistencyModel",
        "QwenImage",
    )
    both = {f"{name}{kind}Pipeline" for name in changes for kind in ("", "Img2Img")}
    assert {kind.__name__ for kind in kinds if _is_tried(kind.__name__)} == {*draws.values(), *both}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"in_channels": 9}, "its UNet takes 9 channels, and a LatentConsistencyModelPipeline gives it 4"),
        ({"time_cond_proj_dim": None}, "its UNet reads no guidance"),
    ],
)
def test_a_net_of_another_class_is_a_failed_setup(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """As an inpainting model under the name of a plain one, or a plain one under that of a consistency model."""
    from diffusers import UNet2DConditionModel

    pipe = picture_classes.latent_consistency()
    shape = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    pipe.unet = UNet2DConditionModel(**shape | change)
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(SetupError, match=reason):
        load(survey(tmp_path / "model"), RunnerSettings(model=str(tmp_path / "model"), device="cpu", safety="off"))


def test_a_class_that_cannot_draw_from_words_alone_is_a_failed_setup(loaded: Callable[[str], LoadedModel]) -> None:
    """ControlNet's wants a picture; it said so in the first job."""
    with pytest.raises(SetupError, match="StableDiffusionControlNetPipeline cannot draw a picture here"):
        loaded("controlled")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_inference_steps": 2}, "in 2 steps where"),
        ({"height": 64}, "drew 128×64 in 3 steps where 128×128"),
        ({"prompt": "one thing"}, "draws the same whatever the prompt"),
    ],
)
def test_a_class_that_does_not_draw_as_asked_is_a_failed_setup(
    loaded: Callable[[str], LoadedModel], patched: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    """What its signature says is not believed."""
    from runner.pipelines.arguments import Arguments

    family = loaded("aura_flow").family
    pipe = family._pipes["text-to-image"]
    named = Arguments.named
    patched.setattr(Arguments, "named", lambda self, asked: named(self, asked) | change)
    patched.setattr(family, "_pipes", {"text-to-image": pipe})
    with pytest.raises(SetupError, match=reason):
        family.try_out()


def test_a_parameter_without_effect_is_refused_by_its_name(
    loaded: Callable[[str], LoadedModel], patched: pytest.MonkeyPatch
) -> None:
    """A distilled model may take guidance and leave it aside."""
    from runner.pipelines.arguments import Arguments

    family = loaded("aura_flow").family
    before = dict(family._arguments)
    named = Arguments.named
    patched.setattr(Arguments, "named", lambda self, asked: named(self, asked) | {"guidance_scale": 1.0})
    family.try_out()
    patched.undo()
    try:
        with pytest.raises(UnsupportedError, match="guidance_scale: a AuraFlowPipeline"):
            _draw(loaded("aura_flow"), guidance_scale=3.0)
    finally:
        family._arguments = before

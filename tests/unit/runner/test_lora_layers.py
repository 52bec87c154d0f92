"""A LoRA goes into a model's nets as its file says: each layer, with its own scale; or nothing of it does.

The reference is arithmetic: a layer's output grows by strength × scale × up · down · input, in each spelling.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
from safetensors.torch import save_file  # noqa: E402

from reelnet.errors import UserError  # noqa: E402
from runner.models import tiny  # noqa: E402
from runner.models.digest import sha256_of  # noqa: E402
from runner.models.lora import LoraShelf  # noqa: E402
from runner.models.lora_files import LoraFile  # noqa: E402
from runner.models.lora_kinds import check_kind  # noqa: E402

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
GENERATOR = torch.Generator().manual_seed(5)
NETS: dict[str, Any] = {}
Q, K, OUT = (f"down_blocks.1.attentions.0.transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_k", "to_out.0"))
CONV = "mid_block.resnets.0.conv1"
PROJ = "down_blocks.1.attentions.0.proj_in"
WORDS = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """The nets are made once; each test leaves them as they were."""
    yield
    for pipe in NETS.values():
        pipe.unload_lora_weights()


def _pipe(name: str = tiny.SD) -> Any:
    from runner.models.tiny_nets import build

    if name not in NETS:
        NETS[name] = build(name)
    return NETS[name]


def _layer(net: Any, name: str) -> Any:
    """Also of a text encoder whose own names lack the first part."""
    name = (
        name if hasattr(net, "text_model") or not name.startswith("text_model.") else name.removeprefix("text_model.")
    )
    return net.get_submodule(name)


class Case:
    """A LoRA over layers of one net: its matrices by layer, as numbers."""

    def __init__(self, net: Any, layers: dict[str, int]) -> None:
        """`layers`: name → rank."""
        self.net = net
        self.down, self.up = {}, {}
        for name, rank in layers.items():
            layer = _layer(net, name)
            weight = getattr(layer, "base_layer", layer).weight
            self.down[name] = torch.randn(rank, *weight.shape[1:], generator=GENERATOR)
            self.up[name] = torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=GENERATOR)

    def kohya(self, start: str, alphas: dict[str, float] | None = None) -> dict[str, Any]:
        """In kohya's spelling, with these alphas."""
        tensors: dict[str, Any] = {}
        for name in self.down:
            key = start + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": self.down[name], f"{key}.lora_up.weight": self.up[name]}
            if alphas and name in alphas:
                tensors[f"{key}.alpha"] = torch.tensor(alphas[name])
        return tensors

    def peft(self, start: str = "unet.") -> dict[str, Any]:
        """In peft's spelling."""
        return {f"{start}{name}.lora_A.weight": down for name, down in self.down.items()} | {
            f"{start}{name}.lora_B.weight": up for name, up in self.up.items()
        }

    def check(self, scales: dict[str, float], strength: float = 1.0) -> None:
        """Each layer adds what its matrices say."""
        for name, scale in scales.items():
            layer = _layer(self.net, name)
            assert layer.scaling["lora_0"] == pytest.approx(scale * strength), name
            shape = (2, layer.base_layer.weight.shape[1], *(8 for _ in layer.base_layer.weight.shape[2:]))
            given = torch.randn(shape, generator=GENERATOR)
            added = layer(given) - layer.base_layer(given)
            assert torch.allclose(added, self._added(name, layer.base_layer, given) * scale * strength, atol=1e-3), name

    def _added(self, name: str, base: Any, given: Any) -> Any:
        if given.dim() == 2:
            return given @ self.down[name].T @ self.up[name].T
        thin = torch.nn.functional.conv2d(given, self.down[name], stride=base.stride, padding=base.padding)
        return torch.nn.functional.conv2d(thin, self.up[name])


def _shelf(pipe: Any, folder: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> LoraShelf:
    path = folder / "lora.safetensors"
    save_file({key: value.clone() for key, value in tensors.items()}, path, metadata=metadata)
    check_kind(path)
    return LoraShelf(pipe, [LoraFile("ink", path, sha256_of(path))], 10**9)


def _misfit(pipe: Any, folder: Path, tensors: dict[str, Any]) -> str:
    """Why it does not fit; the nets have no trace of it."""
    before = {
        name: dict(getattr(pipe, name).named_parameters())
        for name in pipe._lora_loadable_modules
        if getattr(pipe, name, None)
    }
    with pytest.raises(UserError) as refused:
        _shelf(pipe, folder, tensors).apply({"ink": 1.0})
    assert refused.value.code == "lora_misfit"
    assert refused.value.loc == ("loras", "ink")
    for name, parameters in before.items():
        after = dict(getattr(pipe, name).named_parameters())
        assert not [key for key in after if "lora_" in key]
        assert {key.replace(".base_layer", "") for key in after} == set(parameters)
    return refused.value.message


RANKS = {Q: 4, K: 8, OUT: 4, CONV: 2, PROJ: 4}
ALPHAS = [
    pytest.param({Q: 4.0, K: 8.0, OUT: 4.0, CONV: 2.0, PROJ: 4.0}, id="alpha-is-rank"),
    pytest.param(dict.fromkeys(RANKS, 1.0), id="one-alpha"),
    pytest.param({Q: 1.0, K: 16.0, OUT: 3.0, CONV: 0.5, PROJ: 2.0}, id="each-its-own"),
    pytest.param({Q: 1.0, CONV: 8.0}, id="some-have-none"),
    pytest.param({}, id="none"),
    pytest.param({Q: 0.0, K: 8.0}, id="zero"),
]


@pytest.mark.parametrize("alphas", ALPHAS)
def test_kohyas_scale_is_alpha_through_rank_in_every_layer(tmp_path: Path, alphas: dict[str, float]) -> None:
    """Whatever the layers' ranks are, and where a layer has no alpha: then its rank stands for it."""
    pipe = _pipe()
    case = Case(pipe.unet, RANKS)
    shelf = _shelf(pipe, tmp_path, case.kohya("lora_unet_", alphas))
    shelf.apply({"ink": 1.0})
    scales = {name: alphas.get(name, rank) / rank for name, rank in RANKS.items()}
    case.check(scales)
    shelf.apply({"ink": 0.25})
    case.check(scales, strength=0.25)
    shelf.apply({})
    given = torch.ones(1, 32)
    assert torch.equal(_layer(pipe.unet, Q)(given), _layer(pipe.unet, Q).base_layer(given))


@pytest.mark.parametrize("start", ["unet.", "", "base_model.model.", "base_model.model.unet."])
def test_pefts_spelling_with_any_beginning(tmp_path: Path, start: str) -> None:
    """Of a whole pipeline, of one net saved alone, and as peft itself saves it."""
    pipe = _pipe()
    case = Case(pipe.unet, RANKS)
    _shelf(pipe, tmp_path, case.peft(start)).apply({"ink": 1.0})
    case.check(dict.fromkeys(RANKS, 1.0))


def test_kohyas_names_of_sdxl(tmp_path: Path) -> None:
    """It trains SDXL by the original names of its blocks."""
    pipe = _pipe(tiny.SDXL)
    case = Case(pipe.unet, {Q: 4})
    start = f"lora_unet_input_blocks_{pipe.unet.config.layers_per_block + 2}_1_transformer_blocks_0_attn1_to_q"
    tensors = {f"{start}.lora_down.weight": case.down[Q], f"{start}.lora_up.weight": case.up[Q]}
    _shelf(pipe, tmp_path, tensors | {f"{start}.alpha": torch.tensor(1.0)}).apply({"ink": 1.0})
    case.check({Q: 0.25})
    mixed = tensors | {key.replace("_input_blocks_3_1_", "_down_blocks_7_"): value for key, value in tensors.items()}
    pipe.unload_lora_weights()
    assert "of its 2 layers" in _misfit(pipe, tmp_path, mixed)


def test_older_diffusers_spelling(tmp_path: Path) -> None:
    """Layers as attention processors."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4, OUT: 4})
    tensors = {}
    for name, short in ((Q, "to_q"), (OUT, "to_out")):
        start = f"unet.{name.rsplit('.attn1', 1)[0]}.attn1.processor.{short}_lora"
        tensors |= {f"{start}.down.weight": case.down[name], f"{start}.up.weight": case.up[name]}
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    case.check({Q: 1.0, OUT: 1.0})


def test_alphas_beside_pefts_names_count(tmp_path: Path) -> None:
    """Diffusers reads none there."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4, K: 4})
    _shelf(pipe, tmp_path, case.peft() | {f"unet.{Q}.alpha": torch.tensor(2.0)}).apply({"ink": 1.0})
    case.check({Q: 0.5, K: 1.0})


@pytest.mark.parametrize(
    ("said", "scales"),
    [
        ({"r": 4, "lora_alpha": 2}, {Q: 0.5, K: 0.25}),
        (
            {"r": 4, "lora_alpha": 4, "alpha_pattern": {"attn1.to_k": 32}, "rank_pattern": {"attn1.to_k": 8}},
            {Q: 1.0, K: 4.0},
        ),
        ({"r": 4, "lora_alpha": 4, "use_rslora": True}, {Q: 2.0, K: 4 / 8**0.5}),
    ],
)
def test_the_scale_in_a_file_of_diffusers(tmp_path: Path, said: dict[str, Any], scales: dict[str, float]) -> None:
    """Its metadata has peft's settings by net: alphas for some layers, and the scale by the root of the rank."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4, K: 8})
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
    _shelf(pipe, tmp_path, case.peft(), metadata).apply({"ink": 1.0})
    case.check(scales)


@pytest.mark.parametrize(("name", "parts"), [(tiny.SD, ["te"]), (tiny.SD, ["te1"]), (tiny.SDXL, ["te1", "te2"])])
def test_kohyas_text_encoders(tmp_path: Path, name: str, parts: list[str]) -> None:
    """The first one's name has two spellings; SDXL has two encoders."""
    pipe = _pipe(name)
    nets = {"te": pipe.text_encoder, "te1": pipe.text_encoder, "te2": getattr(pipe, "text_encoder_2", None)}
    cases = [(part, Case(nets[part], {WORDS: 4})) for part in parts]
    tensors = Case(pipe.unet, {}).kohya("lora_unet_")
    for part, case in cases:
        tensors |= case.kohya(f"lora_{part}_", {WORDS: 2.0})
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    for _, case in cases:
        case.check({WORDS: 0.5})


def test_layers_of_an_encoder_that_the_model_lacks_are_counted(tmp_path: Path) -> None:
    """An SDXL file on SD 1.5."""
    pipe = _pipe()
    tensors = Case(pipe.unet, {Q: 4, K: 4}).kohya("lora_unet_") | Case(pipe.text_encoder, {WORDS: 4}).kohya("lora_te2_")
    said = _misfit(pipe, tmp_path, tensors)
    assert "2 of 3 layers fit this model" in said
    assert "lora_te2_" in said


def test_sixteen_of_forty_eight_layers(tmp_path: Path) -> None:
    """A file that fits in part is refused by its count, with some of the layers that do not fit, and why."""
    pipe = _pipe()
    fitting = Case(pipe.unet, {Q: 4, K: 4, OUT: 4, CONV: 2})
    wide = {f"unet.{PROJ}.lora_A.weight": torch.ones(4, 64), f"unet.{PROJ}.lora_B.weight": torch.ones(32, 4)}
    foreign = fitting.peft("unet.elsewhere.")
    said = _misfit(pipe, tmp_path, fitting.peft() | wide | foreign)
    assert said.startswith("loras: 'ink' 4 of 9 layers fit this model (")
    assert "the model has no such layer" in said
    assert f"unet.{PROJ}: made for 64 inputs, the model has 32" in said


def test_another_kind_of_model_s(tmp_path: Path) -> None:
    """Where no layer fits it says so."""
    pipe = _pipe()
    said = _misfit(pipe, tmp_path, Case(pipe.unet, {Q: 4}).peft("transformer.single_blocks.0."))
    assert "was made for another kind of model: none of its 1 layers fits" in said
    flux = _pipe(tiny.FLUX)
    said = _misfit(flux, tmp_path, Case(pipe.unet, {Q: 4}).peft())
    assert "was made for another kind of model" in said


def test_a_norm_has_no_lora(tmp_path: Path) -> None:
    """The model has that layer, but it is none that can have one."""
    tensors = {
        "unet.conv_norm_out.lora_A.weight": torch.ones(4, 16),
        "unet.conv_norm_out.lora_B.weight": torch.ones(16, 4),
    }
    assert "none of its 1 layers fits" in _misfit(_pipe(), tmp_path, tensors)


def _dora(case: Case, name: str, magnitude: Any, scale: float, given: Any) -> Any:
    """Liu and others, 2024: magnitude · (W + s·BA) / ‖W + s·BA‖, the norm over each output's row."""
    base = _layer(case.net, name).base_layer
    delta = (case.up[name].flatten(1) @ case.down[name].flatten(1)).reshape(base.weight.shape)
    weight = base.weight + scale * delta
    norm = weight.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in weight.shape[1:]))
    weight = magnitude.reshape(norm.shape) * weight / norm
    if given.dim() == 2:
        return torch.nn.functional.linear(given, weight, base.bias)
    return torch.nn.functional.conv2d(given, weight, base.bias, base.stride, base.padding)


@pytest.mark.parametrize("spelling", ["kohya", "peft"])
def test_dora_is_drawn_as_its_paper_says(tmp_path: Path, spelling: str) -> None:
    """With a magnitude for each output, in both spellings, with kohya's scale, for convolutions too."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4, OUT: 4, CONV: 2})
    magnitudes = {name: torch.rand(up.shape[0], generator=GENERATOR) * 3 for name, up in case.up.items()}
    if spelling == "kohya":
        tensors, scale = case.kohya("lora_unet_", {Q: 2.0, OUT: 2.0, CONV: 1.0}), 0.5
        for name, magnitude in magnitudes.items():
            shape = (-1, *(1 for _ in case.down[name].shape[1:]))
            tensors[f"lora_unet_{name.replace('.', '_')}.dora_scale"] = magnitude.reshape(shape)
    else:
        tensors, scale = case.peft(), 1.0
        tensors |= {f"unet.{name}.lora_magnitude_vector": magnitude for name, magnitude in magnitudes.items()}
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    for name, magnitude in magnitudes.items():
        layer = _layer(pipe.unet, name)
        given = torch.randn(
            2, layer.base_layer.weight.shape[1], *([8] * (case.down[name].dim() - 2)), generator=GENERATOR
        )
        assert torch.allclose(layer(given), _dora(case, name, magnitude, scale, given), atol=1e-3), name


def test_dora_in_a_text_encoder(tmp_path: Path) -> None:
    """Diffusers has another way into it."""
    pipe = _pipe()
    case = Case(pipe.text_encoder, {WORDS: 4})
    magnitude = torch.rand(32, generator=GENERATOR) * 3
    key = f"lora_te_{WORDS.replace('.', '_')}"
    _shelf(pipe, tmp_path, case.kohya("lora_te_") | {f"{key}.dora_scale": magnitude[:, None]}).apply({"ink": 1.0})
    given = torch.randn(2, 32, generator=GENERATOR)
    assert torch.allclose(_layer(pipe.text_encoder, WORDS)(given), _dora(case, WORDS, magnitude, 1.0, given), atol=1e-4)


@pytest.mark.parametrize("layer", ["mlp.fc1", "self_attn.out_proj"])
def test_any_layer_of_a_text_encoder_alone(tmp_path: Path, layer: str) -> None:
    """Diffusers tells the spelling by layers that a file need not have."""
    pipe = _pipe()
    name = f"text_model.encoder.layers.0.{layer}"
    case = Case(pipe.text_encoder, {name: 4})
    _shelf(pipe, tmp_path, case.kohya("lora_te_", {name: 1.0})).apply({"ink": 1.0})
    case.check({name: 0.25})
    pipe.unload_lora_weights()
    _shelf(pipe, tmp_path, case.peft("text_encoder.")).apply({"ink": 1.0})
    case.check({name: 1.0})


def test_dora_of_some_layers_is_refused(tmp_path: Path) -> None:
    """Peft would take all layers for DoRA's."""
    pipe = _pipe()
    tensors = Case(pipe.unet, {Q: 4, K: 4}).kohya("lora_unet_")
    tensors[f"lora_unet_{Q.replace('.', '_')}.dora_scale"] = torch.ones(32, 1)
    assert "is a DoRA in 1 of 2 layers" in _misfit(pipe, tmp_path, tensors)


def test_fluxs_names_of_kohya(tmp_path: Path) -> None:
    """One matrix there is three layers here; the scale is the file's in each of them."""
    pipe = _pipe(tiny.FLUX)
    width = pipe.transformer.transformer_blocks[0].attn.to_q.weight.shape[0]
    down = torch.randn(4, width, generator=GENERATOR)
    up = torch.randn(3 * width, 4, generator=GENERATOR)
    start = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up, f"{start}.alpha": torch.tensor(2.0)}
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    given = torch.randn(2, width, generator=GENERATOR)
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        layer = pipe.transformer.transformer_blocks[0].attn.get_submodule(name)
        assert layer.scaling["lora_0"] == 0.5
        meant = given @ down.T @ up[index * width : (index + 1) * width].T * 0.5
        assert torch.allclose(layer(given) - layer.base_layer(given), meant, atol=1e-3)


@pytest.mark.parametrize("spelling", ["lora_down", "lora_A"])
def test_wans_original_names(tmp_path: Path, spelling: str) -> None:
    """As its own trainers write them, with an alpha."""
    pipe = _pipe(tiny.WAN)
    layer = pipe.transformer.blocks[0].attn1.to_q
    width = layer.weight.shape[0]
    down, up = torch.randn(4, width, generator=GENERATOR), torch.randn(width, 4, generator=GENERATOR)
    other = {"lora_down": "lora_up", "lora_A": "lora_B"}[spelling]
    start = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{start}.{spelling}.weight": down, f"{start}.{other}.weight": up, f"{start}.alpha": torch.tensor(1.0)}
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    layer, given = pipe.transformer.blocks[0].attn1.to_q, torch.randn(2, width, generator=GENERATOR)
    assert torch.allclose(layer(given) - layer.base_layer(given), given @ down.T @ up.T * 0.25, atol=1e-3)


@pytest.mark.parametrize(
    ("start", "sides"),
    [
        ("transformer.transformer_blocks.0.attn.to_q", ("lora_A", "lora_B")),
        ("diffusion_model.transformer_blocks.0.attn.to_q", ("lora_A", "lora_B")),
        ("transformer_blocks.0.attn.to_q", ("lora_A", "lora_B")),
        ("transformer_blocks.0.attn.to_q", ("lora_down", "lora_up")),
        ("lora_unet_transformer_blocks_0_attn_to_q", ("lora_down", "lora_up")),
    ],
)
def test_qwens_names(tmp_path: Path, start: str, sides: tuple[str, str]) -> None:
    """Of five trainers, each with an alpha."""
    from tests.fakes.picture_classes import qwen_image

    pipe = NETS["qwen"] = NETS.get("qwen") or qwen_image()
    width = pipe.transformer.transformer_blocks[0].attn.to_q.weight.shape[0]
    down, up = torch.randn(4, width, generator=GENERATOR), torch.randn(width, 4, generator=GENERATOR)
    tensors = {
        f"{start}.{sides[0]}.weight": down,
        f"{start}.{sides[1]}.weight": up,
        f"{start}.alpha": torch.tensor(1.0),
    }
    _shelf(pipe, tmp_path, tensors).apply({"ink": 1.0})
    layer, given = pipe.transformer.transformer_blocks[0].attn.to_q, torch.randn(2, width, generator=GENERATOR)
    assert torch.allclose(layer(given) - layer.base_layer(given), given @ down.T @ up.T * 0.25, atol=1e-3)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_format_of_numbers_is_read(tmp_path: Path, dtype: Any) -> None:
    """Eight bits too: they are rounded, and drawn as rounded."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4})
    for side in (case.down, case.up):
        side[Q] = side[Q].to(dtype)
    _shelf(pipe, tmp_path, case.kohya("lora_unet_", {Q: 2.0})).apply({"ink": 1.0})
    for side in (case.down, case.up):
        side[Q] = side[Q].float()
    case.check({Q: 0.5})


def test_two_at_once_and_a_change_of_both(tmp_path: Path) -> None:
    """Each keeps its own scale beside the other's."""
    pipe = _pipe()
    files = []
    cases = [Case(pipe.unet, {Q: 4}), Case(pipe.unet, {Q: 8})]
    for number, (case, alpha) in enumerate(zip(cases, (2.0, 2.0), strict=True)):
        (tmp_path / str(number)).mkdir()
        _shelf(pipe, tmp_path / str(number), case.kohya("lora_unet_", {Q: alpha}))
        path = tmp_path / str(number) / "lora.safetensors"
        files.append(LoraFile(str(number), path, sha256_of(path)))
    shelf = LoraShelf(pipe, files, 10**9)
    for first, second in ((1.0, 1.0), (0.5, 2.0)):
        shelf.apply({"0": first, "1": second})
        layer, given = _layer(pipe.unet, Q), torch.randn(2, 32, generator=GENERATOR)
        meant = sum(
            given @ case.down[Q].T @ case.up[Q].T * scale
            for case, scale in zip(cases, (0.5 * first, 0.25 * second), strict=True)
        )
        assert torch.allclose(layer(given) - layer.base_layer(given), meant, atol=1e-3)


def test_differences_of_zero_leave_nothing(tmp_path: Path) -> None:
    """Some trainers write them for each norm."""
    pipe = _pipe()
    case = Case(pipe.unet, {Q: 4})
    _shelf(pipe, tmp_path, case.kohya("lora_unet_") | {"lora_unet_norm.diff": torch.zeros(32)}).apply({"ink": 1.0})
    case.check({Q: 1.0})

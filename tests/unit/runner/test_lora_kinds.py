"""What is no LoRA, or no LoRA that is served right, is refused from its file alone, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runner.backend import SetupError
from runner.models.lora_files import survey_loras
from runner.models.lora_kinds import check_kind
from runner.settings import Lora, RunnerSettings

LAYER = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
RANDOM = np.random.default_rng(3)
WIDTH, RANK = 32, 4


def _numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


PAIR = {
    f"{LAYER}.lora_down.weight": _numbers(RANK, WIDTH),
    f"{LAYER}.lora_up.weight": _numbers(WIDTH, RANK),
    f"{LAYER}.alpha": np.array(RANK, np.float32),
}
LOHA = {f"{LAYER}.hada_w{i}_{side}": _numbers(WIDTH, RANK) for i in (1, 2) for side in "ab"}
LOKR = {f"{LAYER}.lokr_w1": _numbers(4, 4), f"{LAYER}.lokr_w2_a": _numbers(8, 4), f"{LAYER}.lokr_w2_b": _numbers(4, 8)}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("empty", {}, "has no tensors"),
    ("loha", LOHA | {f"{LAYER}.alpha": np.array(4.0)}, "is a LoHa"),
    ("loha beside a lora", PAIR | {key.replace("to_q", "to_k"): value for key, value in LOHA.items()}, "is a LoHa"),
    ("lokr", LOKR, "is a LoKr"),
    ("tucker", PAIR | {f"{LAYER}.lora_mid.weight": _numbers(RANK, RANK, 3, 3)}, "Tucker"),
    ("glora", {f"{LAYER}.{name}.weight": _numbers(4, 4) for name in ("a1", "a2", "b1", "b2")}, "is a GLoRA"),
    ("oft", {f"{LAYER}.oft_blocks": _numbers(4, 8, 8), f"{LAYER}.alpha": np.array(1.0)}, "is an OFT or BOFT"),
    ("boft", {"unet.mid.to_q.boft_R": _numbers(2, 4, 8, 8)}, "is an OFT or BOFT"),
    ("ia3 of peft", {"base_model.model.to_k.ia3_l": _numbers(1, 32)}, "is an IA³"),
    ("ia3 of lycoris", {f"{LAYER}.weight": _numbers(32), f"{LAYER}.on_input": np.array(1)}, "is an IA³"),
    ("norms", PAIR | {"lora_unet_norm.w_norm": _numbers(32), "lora_unet_norm.b_norm": _numbers(32)}, "trained norms"),
    ("full differences", {f"{LAYER}.diff": _numbers(WIDTH, WIDTH)}, r"full differences of weights \(.diff\)"),
    ("a full difference beside", PAIR | {"lora_unet_norm.diff": _numbers(WIDTH)}, "full differences"),
    ("a bias difference beside", PAIR | {f"{LAYER}.diff_b": _numbers(WIDTH)}, "full differences"),
    ("bundled embedding", PAIR | {"bundle_emb.ink.string_to_param.*": _numbers(1, 32)}, "textual inversion"),
    ("embedding", PAIR | {"emb_params": _numbers(1, 32)}, "textual inversion"),
    ("an embedding alone", {"clip_l": _numbers(1, 32), "clip_g": _numbers(1, 32)}, "textual inversion"),
    ("an embedding by its word", {"<ink>": _numbers(1, 32)}, "textual inversion"),
    ("vera", {"base_model.vera_A": _numbers(4, 32)}, "is a VeRA"),
    ("control lora", PAIR | {"lora_controlnet": _numbers(1)}, "Control-LoRA"),
    ("a checkpoint", {"model.diffusion_model.out.2.weight": _numbers(4, 4)}, "is a model's checkpoint"),
    ("whole layers", PAIR | {"transformer.norm.weight": _numbers(32)}, "whole weights of layers"),
    ("scales of fp8", PAIR | {f"{LAYER}.scale_weight": _numbers(1)}, "quantised"),
    ("whatever", PAIR | {"surprise": _numbers(1)}, "tensors that no LoRA has: surprise"),
    ("integers", PAIR | {f"{LAYER}.lora_up.weight": np.ones((WIDTH, RANK), np.int8)}, "format I8"),
    ("half", {f"{LAYER}.lora_down.weight": _numbers(RANK, WIDTH)}, "one of two matrices"),
    ("a row", PAIR | {f"{LAYER}.lora_up.weight": _numbers(WIDTH)}, "a row of numbers"),
    ("two ranks", PAIR | {f"{LAYER}.lora_up.weight": _numbers(WIDTH, 8)}, "different ranks"),
    ("an alpha alone", PAIR | {f"{LAYER}_2.alpha": np.array(1.0)}, "no matrices for"),
    ("dora across", PAIR | {f"{LAYER}.dora_scale": _numbers(1, WIDTH)}, "magnitude for each input"),
    ("dora of a convolution across", {
        f"{LAYER}.lora_down.weight": _numbers(4, 8, 3, 3), f"{LAYER}.lora_up.weight": _numbers(16, 4, 1, 1),
        f"{LAYER}.dora_scale": _numbers(1, 8, 1, 1),
    }, "magnitude for each input"),
]  # fmt: skip


def _written(folder: Path, tensors: dict[str, Any]) -> Path:
    path = folder / "lora.safetensors"
    save_file({key: np.asarray(value) for key, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize(("tensors", "reason"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_is_no_lora_is_refused_with_its_name(tmp_path: Path, tensors: dict[str, Any], reason: str) -> None:
    """By what it is, not as a LoRA of another model; the file is named."""
    path = _written(tmp_path, tensors)
    with pytest.raises(SetupError, match=reason) as refused:
        check_kind(path)
    assert str(path) in str(refused.value)


DORA = {f"{LAYER}.dora_scale": _numbers(WIDTH, 1)}
PEFT = {"unet.a.to_q.lora_A.weight": _numbers(4, 32), "unet.a.to_q.lora_B.weight": _numbers(32, 4)}
SERVED: list[tuple[str, dict[str, Any]]] = [
    ("kohya", PAIR),
    ("kohya without alpha", {key: value for key, value in PAIR.items() if "alpha" not in key}),
    ("kohya, an alpha of one element", PAIR | {f"{LAYER}.alpha": np.array([4.0], np.float32)}),
    ("an alpha as an integer", PAIR | {f"{LAYER}.alpha": np.array(4)}),
    ("dora", PAIR | DORA),
    ("peft", PEFT),
    ("peft with its adapter's name", {key.replace(".weight", ".default.weight"): v for key, v in PEFT.items()}),
    ("peft with magnitudes", PEFT | {"unet.a.to_q.lora_magnitude_vector": _numbers(32)}),
    ("peft with a bias", PEFT | {"unet.a.to_q.lora_B.bias": _numbers(32)}),
    ("older diffusers", {"unet.a.processor.to_q_lora.down.weight": _numbers(4, 32),
                         "unet.a.processor.to_q_lora.up.weight": _numbers(32, 4)}),
    ("older text encoder", {"text_encoder.a.q_proj.lora_linear_layer.down.weight": _numbers(4, 32),
                            "text_encoder.a.q_proj.lora_linear_layer.up.weight": _numbers(32, 4)}),
    ("differences of zero", PAIR | {"lora_unet_norm.diff": np.zeros(32, np.float32)}),
    ("half precision", {key: value.astype(np.float16) for key, value in PAIR.items()}),
]  # fmt: skip


@pytest.mark.parametrize("tensors", [pytest.param(row[1], id=row[0]) for row in SERVED])
def test_a_lora_in_any_spelling_passes(tmp_path: Path, tensors: dict[str, Any]) -> None:
    """Kohya's, peft's and older diffusers'."""
    check_kind(_written(tmp_path, tensors))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_found_before_any_job(tmp_path: Path, dtype: str, value: float) -> None:
    """In every format; the largest number of each passes."""
    torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
    from safetensors.torch import save_file as save

    kind = getattr(torch, dtype)
    up = torch.full((WIDTH, RANK), torch.finfo(kind).max, dtype=torch.float64).to(kind)
    path = tmp_path / "lora.safetensors"
    tensors = {f"{LAYER}.lora_down.weight": torch.ones(RANK, WIDTH).to(kind), f"{LAYER}.lora_up.weight": up}
    save(tensors, path)
    check_kind(path)
    broken = up.to(torch.float64)
    broken[3, 2] = float("nan") if dtype == "float8_e4m3fn" else value  # that format has no infinity
    save(tensors | {f"{LAYER}.lora_up.weight": broken.to(kind)}, path)
    with pytest.raises(SetupError, match=r"lora_up.weight has values that are no numbers"):
        check_kind(path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"r": 4, "lora_alpha": 4}, None),
        ({"r": 4, "lora_alpha": 8}, "lora_alpha"),
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_q": 8}}, "lora_alpha"),
        ({"r": 4, "lora_alpha": 4, "use_rslora": True}, "lora_alpha"),
        ({"r": 4, "lora_alpha": 4, "peft_type": "IA3"}, "IA3"),
    ],
)
def test_a_scale_that_lies_beside_the_file_is_refused(tmp_path: Path, said: dict[str, Any], reason: str | None) -> None:
    """The file's digest is the LoRA's name: a scale in another file would draw two pictures under one name."""
    path = tmp_path / "adapter_model.safetensors"
    save_file(PEFT, path)
    path.with_name("adapter_config.json").write_text(json.dumps(said))
    if reason is None:
        check_kind(path)
        return
    with pytest.raises(SetupError, match=reason):
        check_kind(path)


def test_a_runner_refuses_it_at_its_set_up(tmp_path: Path) -> None:
    """When it looks for its LoRAs, before there is a job."""
    _written(tmp_path, LOHA)
    settings = RunnerSettings(model="acme/model", loras=(Lora(folder=str(tmp_path)),))
    with pytest.raises(SetupError, match="is a LoHa"):
        survey_loras(settings)

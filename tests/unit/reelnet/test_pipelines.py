"""Each pipeline's parameters: what the published clients send, and what is refused."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from reelnet.errors import UserError
from reelnet.parameters import (
    INTERPOLATION,
    MAX_FIELDS,
    MAX_IMAGES,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MOST_STEPS,
    SAFETY,
    SAFETY_POLICIES,
    ImageEdit,
    ImageToImage,
    ImageToVideo,
    Params,
    SafetyPolicy,
    TextToImage,
    Upscale,
    strictest,
)
from reelnet.pipelines import (
    FAMILIES,
    MAX_COMPARED,
    MAX_LISTED,
    MAX_NAME_CHARS,
    MAX_ROW_CHARS,
    MAX_ROWS,
    PIPELINES,
    MediaSpec,
    details,
    did_you_mean,
    explain,
    families_of,
    pipeline_named,
    pipeline_of,
)

# The bodies of the published clients, without `model_id`, which the broadcaster takes out.
T2I_JSON = {
    "prompt": "a fox", "loras": "", "height": 576, "width": 1024, "guidance_scale": 7.5, "negative_prompt": "",
    "safety_check": True, "num_inference_steps": 50, "num_images_per_prompt": 1,
}  # fmt: skip
I2I_FORM = {
    "prompt": "a fox", "loras": "", "strength": "0.8", "guidance_scale": "7.5", "image_guidance_scale": "1.5",
    "negative_prompt": "", "safety_check": "true", "num_inference_steps": "100", "num_images_per_prompt": "1",
}  # fmt: skip
I2V_FORM = {
    "height": "576", "width": "1024", "fps": "6", "motion_bucket_id": "127", "noise_aug_strength": "0.02",
    "safety_check": "true", "num_inference_steps": "25",
}  # fmt: skip
UPSCALE_FORM = {"prompt": "a fox", "safety_check": "true", "num_inference_steps": "75"}


def parse(pipeline: str, **raw: Any) -> Params:
    """Parameters from a request's fields."""
    return PIPELINES[pipeline].parse(raw)


def refusal(pipeline: str, **raw: Any) -> tuple[list[dict[str, Any]], str]:
    """The 422 rows and the one-line text of parameters that are not valid."""
    with pytest.raises(ValidationError) as caught:
        parse(pipeline, **raw)
    model = PIPELINES[pipeline].params
    return details(caught.value, model), explain(caught.value, model)


@pytest.mark.parametrize(
    ("pipeline", "body", "expected"),
    [
        ("text-to-image", T2I_JSON, TextToImage(prompt="a fox")),
        ("image-to-image", I2I_FORM, ImageToImage(prompt="a fox")),
        ("image-to-video", I2V_FORM, ImageToVideo()),
        ("upscale", UPSCALE_FORM, Upscale(prompt="a fox")),
    ],
)
def test_the_clients_defaults_are_ours(pipeline: str, body: dict[str, Any], expected: Params) -> None:
    """What the published clients send when their user names nothing is what we fill in; text is read as numbers."""
    assert parse(pipeline, **body) == expected


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_an_empty_string_is_an_absent_value(pipeline: str) -> None:
    """HTML forms send absent values as empty strings: every field but the prompts takes its default."""
    fields = PIPELINES[pipeline].params.model_fields
    empty = {name: "" for name, field in fields.items() if name not in ("prompt", "negative_prompt")}
    assert len(empty) >= 2
    assert parse(pipeline, prompt="x", **empty) == parse(pipeline, prompt="x") if "prompt" in fields else (
        parse(pipeline, **empty) == parse(pipeline)
    )  # fmt: skip


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True), ("0", False)])
def test_booleans_arrive_as_text(text: str, value: bool) -> None:
    """A multipart form has only text."""
    assert parse("upscale", safety_check=text).safety_check is value


@pytest.mark.parametrize("loras", ['{"a/b": 0.8, "c": 1}', {"a/b": 0.8, "c": 1}, {"a/b": "0.8", "c": "1"}])
def test_loras_are_an_object_or_its_text(loras: object) -> None:
    """The clients send a JSON object in a string."""
    params = parse("text-to-image", prompt="x", loras=loras)
    assert isinstance(params, TextToImage)
    assert params.loras == {"a/b": 0.8, "c": 1.0}


@pytest.mark.parametrize(
    "loras",
    ["{", "[]", '"a"', "7", '{"": 1}', '{"a": NaN}', '{"a": "strong"}', json.dumps(dict.fromkeys("abcdefghi", 1))],
)
def test_other_loras_are_refused(loras: str) -> None:
    """No object, an empty name, no finite strength, or more than eight."""
    rows, _ = refusal("text-to-image", prompt="x", loras=loras)
    assert all(row["loc"][0] == "loras" for row in rows)


def test_deeply_nested_loras_are_refused() -> None:
    """A text that no JSON parser nests into is the user's fault like any other, not a fault of the program."""
    rows, _ = refusal("text-to-image", prompt="x", loras="[" * 100_000)
    assert rows[0]["loc"] == ["loras"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 0), ("num_inference_steps", 10_000), ("num_inference_steps", "x"),
        ("num_inference_steps", 2.5), ("width", 1001), ("height", 8), ("width", 4104), ("width", -512),
        ("num_images_per_prompt", 0), ("num_images_per_prompt", MAX_IMAGES + 1),
        ("guidance_scale", -0.1), ("guidance_scale", 31), ("guidance_scale", "nan"), ("guidance_scale", "inf"),
        ("seed", -1), ("seed", MAX_SEED + 1), ("seed", 1.5), ("safety_check", "maybe"),
        ("prompt", ""), ("prompt", " \n\t"), ("prompt", 7), ("prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("prompt", "\ud800"), ("negative_prompt", "x" * (MAX_PROMPT_CHARS + 1)),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(field: str, value: object) -> None:
    """A refusal names the field, and shows neither the value nor anything else that the user wrote."""
    rows, text = refusal("text-to-image", **{"prompt": "SECRET", field: value})
    assert [row["loc"] for row in rows] == [[field]]
    assert set(rows[0]) == {"loc", "msg", "type"}
    assert text.startswith(f"{field}: ")
    assert "SECRET" not in text
    assert "xxx" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_frames", 1), ("num_frames", 26), ("fps", 0), ("fps", 61), ("motion_bucket_id", 0),
     ("motion_bucket_id", 256), ("noise_aug_strength", -1), ("decode_chunk_size", 0)],
)  # fmt: skip
def test_video_values_out_of_bounds_are_refused(field: str, value: object) -> None:
    """The model has no such clip."""
    assert refusal("image-to-video", **{field: value})[0][0]["loc"] == [field]


@pytest.mark.parametrize("strength", [0, 1.01, -1, "nan"])
def test_strength_is_a_share(strength: object) -> None:
    """A strength of nothing would change nothing, more than one is none."""
    assert refusal("image-to-image", prompt="x", strength=strength)[0][0]["loc"] == ["strength"]


def test_a_picture_has_a_largest_area() -> None:
    """Each side may be long, not both."""
    assert parse("text-to-image", prompt="x", width=4096, height=1024)
    _, text = refusal("text-to-image", prompt="x", width=4096, height=4096)
    assert "4096×4096 is 16777216 pixels" in text


def test_a_required_prompt_is_required() -> None:
    """Words are the input of text-to-image; upscale can do without."""
    assert refusal("text-to-image")[0] == [{"loc": ["prompt"], "msg": "Field required", "type": "missing"}]
    assert parse("upscale") == Upscale()


def test_an_unknown_parameter_names_the_nearest_known_one() -> None:
    """Dropping a misspelt parameter in silence would be a wrong picture for money."""
    rows, text = refusal("image-to-video", num_frame=20)
    assert rows[0]["loc"] == ["num_frame"]
    assert "did you mean 'num_frames'?" in text
    assert "motion_bucket_id" in text, "the known ones are listed"


def test_a_pipeline_is_named_or_guessed() -> None:
    """An unknown pipeline is the request's fault, with the nearest name."""
    assert pipeline_named("upscale") is PIPELINES["upscale"]
    with pytest.raises(UserError, match="did you mean 'image-to-video'") as caught:
        pipeline_named("img-to-video")
    assert caught.value.loc == ("pipeline",)
    assert did_you_mean("zzz", {"b": 1, "a": 1}) == " (known: a, b)"


def test_errors_are_told_within_bounds() -> None:
    """So many rows, each so long, the known names once: what is sent wrong must not decide what an answer costs."""
    rows, text = refusal("text-to-image", prompt="x", **{f"{i}-{'x' * 10_000}": i for i in range(MAX_FIELDS - 1)})
    assert [row["type"] for row in rows] == ["extra_forbidden"] * MAX_ROWS + ["more_errors"]
    assert rows[-1]["msg"].startswith(f"{MAX_FIELDS - 1 - MAX_ROWS} more errors")
    assert max(len(row["loc"][0]) for row in rows[:-1]) == MAX_NAME_CHARS
    assert max(len(row["msg"]) for row in rows) <= MAX_ROW_CHARS
    assert sum("known:" in row["msg"] for row in rows) == 1
    assert len(text) < 4000


def test_more_parameters_than_anything_has_are_one_error() -> None:
    """They are counted before anything is said of each; so are LoRAs, as an object and as text."""
    rows, _ = refusal("text-to-image", prompt="x", **dict.fromkeys(map(str, range(20_000)), 1))
    assert rows == [{"loc": [], "msg": f"20001 parameters; at most {MAX_FIELDS} are read", "type": "value_error"}]
    loras = dict.fromkeys(map(str, range(20_000)), "no number")
    for value in (loras, json.dumps(loras)):
        rows, _ = refusal("text-to-image", prompt="x", loras=value)
        assert [(row["loc"], row["msg"]) for row in rows] == [(["loras"], "20000 LoRAs; at most 8 are applied")]


@pytest.mark.parametrize("name", ["\ud800", "a\x00b\x1b[31m", "\u202etxt", "é" * 10_000])
def test_an_error_shows_printable_names(name: str) -> None:
    """A name goes into a terminal, a log and UTF-8: a lone surrogate would make an answer a fault of ours."""
    for raw in ({name: 1}, {"loras": {name: "x"}}, {"loras": json.dumps({name: 1e999})}):
        rows, text = refusal("text-to-image", prompt="x", **raw)
        shown = "".join(map(str, rows[0]["loc"])) + rows[0]["msg"] + text
        assert shown.isprintable()
        assert len(shown) < 3 * MAX_ROW_CHARS
    with pytest.raises(UserError) as caught:
        pipeline_named(name)
    assert caught.value.message.isprintable()


def test_a_hint_is_bounded_by_what_is_known() -> None:
    """A pool has models by the thousand, with names of a stranger's choice: a hint lists some, and counts the rest."""
    known = [f"{'y' * 300}\x1b{i:05}" for i in range(5000)]
    hint = did_you_mean("x" * 2**24, known)
    assert hint.endswith(f" and {5000 - MAX_LISTED} more)")
    assert len(hint) < (MAX_LISTED + 1) * (MAX_NAME_CHARS + 2)
    assert hint.isprintable()
    assert did_you_mean("acme/0001", [f"acme/{i:04}" for i in range(5000)]).startswith("; did you mean 'acme/0001'?")


def test_the_nearest_name_is_looked_for_among_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing costs as much as both names are long, for each of them."""
    compared: list[tuple[int, int]] = []

    def count(name: str, known: Iterable[str], **_: object) -> list[str]:
        compared.append((len(name), len(list(known))))
        return []

    monkeypatch.setattr("reelnet.pipelines.difflib.get_close_matches", count)
    did_you_mean("x" * 2**24, map(str, range(5000)))
    assert compared == [(MAX_NAME_CHARS, MAX_COMPARED)]


def test_no_number_without_an_end_is_a_parameter() -> None:
    """Infinity and NaN, however they are written, and integers that are no float, are refused by every number."""
    for pipeline in FAMILIES.values():
        for name, field in pipeline.params.model_fields.items():
            if field.annotation not in (int, float, int | None):
                continue
            for value in (float("inf"), float("nan"), "inf", "nan", "1e999", 10**400, [], {"a": 1}):
                with pytest.raises(ValidationError) as caught:
                    pipeline.parse({"prompt": "x", name: value})
                assert name in {row["loc"][0] for row in details(caught.value, pipeline.params) if row["loc"]}


def test_a_deep_value_for_another_family_is_an_error_like_any() -> None:
    """It is not written out to be compared with what the other family takes for nothing."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    kept = PIPELINES["image-to-video"].without_foreign({"prompt": deep, "loras": {}, "negative_prompt": ""})
    assert list(kept) == ["prompt"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"prompt": "x", "seed": "one"}', b"\xff", b"[" * 100_000]
)
def test_a_tickets_parameters_are_checked(body: bytes) -> None:
    """A node reads a stranger's bytes: whatever is wrong with them is a UserError."""
    with pytest.raises(UserError) as caught:
        PIPELINES["text-to-image"].parse_json(body)
    assert caught.value.code == "params"


def test_a_tickets_parameters_come_back_whole() -> None:
    """What a broadcaster writes is what a node reads, value by value."""
    for pipeline in PIPELINES.values():
        words = {"prompt": "ünï 🦊"} if "prompt" in pipeline.params.model_fields else {}
        params = pipeline.parse({**words, "seed": MAX_SEED})
        assert pipeline.parse_json(params.model_dump_json().encode()) == params


def test_parameters_without_a_seed_are_not_complete() -> None:
    """The seed is drawn by the broadcaster: no node draws one."""
    with pytest.raises(UserError, match="seed is missing") as caught:
        PIPELINES["upscale"].parse_json(Upscale().model_dump_json().encode())
    assert caught.value.loc == ("seed",)


class Later(TextToImage):
    """Text-to-image as version 3 of its schema might have it."""

    eta: float = Field(0.0, json_schema_extra={"since": 2, "neutral": 0.0})
    clip_skip: int | None = Field(None, json_schema_extra={"since": 3, "neutral": None})


@pytest.mark.parametrize(
    ("more", "version"),
    [({}, 1), ({"eta": 0}, 1), ({"eta": 0.5}, 2), ({"clip_skip": 2}, 3), ({"eta": 1, "clip_skip": 1}, 3)],
)
def test_a_job_asks_for_the_version_of_what_it_uses(more: dict[str, Any], version: int) -> None:
    """A parameter at its neutral value needs no newer node; the newest that is used decides."""
    assert Later(prompt="x", **more).required_version() == version


@pytest.mark.parametrize("pipeline", FAMILIES.values(), ids=lambda p: p.schema)
def test_todays_parameters_are_version_one(pipeline: Any) -> None:
    """A parameter that a later version brings says so; a schema's name carries its version."""
    assert pipeline.schema == f"{pipeline.name}/{pipeline.family}@{pipeline.version}"
    newest = [_since(field) for each in FAMILIES.values() for field in each.params.model_fields.values()]
    assert max(newest) == pipeline.version, "versions count all schemas together"


def _since(field: FieldInfo) -> int:
    extra = field.json_schema_extra
    return int(str(extra.get("since", 1))) if isinstance(extra, dict) else 1


@pytest.mark.parametrize("pipeline", FAMILIES.values(), ids=lambda p: p.schema)
def test_a_neutral_parameter_of_a_later_version_is_left_out(pipeline: Any) -> None:
    """An older node would refuse its name; its default is its neutral value, so that leaving it out asks the same."""
    raw = {"prompt": "x"} if "prompt" in pipeline.params.model_fields else {}
    params = pipeline.parse(raw)
    later = {name for name, field in pipeline.params.model_fields.items() if _since(field) > 1}
    assert params.required_version() == params.since
    assert not later & params.model_dump().keys()
    assert not later & json.loads(params.model_dump_json()).keys()
    assert pipeline.parse(params.model_dump()) == params


def test_a_later_parameter_that_is_used_is_kept() -> None:
    """And asks for a node of that version."""
    params = PIPELINES["text-to-image"].parse({"prompt": "x", "scheduler": "euler"})
    assert params.required_version() == 2
    assert params.model_dump()["scheduler"] == "euler"
    assert "output_format" not in params.model_dump()


def test_a_schema_names_its_pipeline() -> None:
    """By both its names, whatever its version; one that is not known is refused."""
    assert pipeline_of("image-to-video/wan@9") is FAMILIES["image-to-video", "wan"]
    assert pipeline_of("image-to-video/svd@1") is PIPELINES["image-to-video"] is pipeline_named("image-to-video")
    for schema in ("image-to-video/film@1", "image-to-video", "image-to-video/@1", "nothing/sd@1"):
        with pytest.raises(UserError):
            pipeline_of(schema)


def test_another_familys_defaults_ask_for_nothing() -> None:
    """The published clients send SVD's defaults, as JSON or as a form, whichever model they name."""
    wan = FAMILIES["image-to-video", "wan"]
    sent = {"motion_bucket_id": "127", "noise_aug_strength": 0.02, "fps": 6, "prompt": "waves"}
    assert wan.without_foreign(sent) == {"fps": 6, "prompt": "waves"}
    kept = wan.without_foreign({**sent, "motion_bucket_id": 40})
    with pytest.raises(ValidationError):
        wan.parse(kept)
    assert PIPELINES["image-to-video"].without_foreign({"prompt": "", "loras": "", "fps": 6}) == {"fps": 6, "loras": ""}
    edit = FAMILIES["image-to-image", "pix2pix"]
    assert edit.parse(edit.without_foreign(I2I_FORM)) == ImageEdit(prompt="a fox")
    with pytest.raises(ValidationError):
        edit.parse(edit.without_foreign(I2I_FORM | {"strength": "0.5"}))


@pytest.mark.parametrize(
    ("more", "features"),
    [({}, set()), ({"interpolate_to_fps": 24}, {INTERPOLATION}), ({"safety": "flag", "fit": "pad"}, {SAFETY})],
)
def test_a_parameter_may_need_a_feature(more: dict[str, Any], features: set[str]) -> None:
    """Only where it is not neutral."""
    params = parse("image-to-video", **more)
    assert params.required_features() == features
    assert {params.asking_for(feature) for feature in features} <= more.keys()


@pytest.mark.parametrize(("frames", "near"), [(16, "13 and 17"), (80, "77 and 81"), (6, "5 and 9")])
def test_a_prompted_clip_has_groups_of_four_frames(frames: int, near: str) -> None:
    """And one more; the refusal names the nearest."""
    wan = FAMILIES["image-to-video", "wan"]
    with pytest.raises(ValidationError, match=near):
        wan.parse({"num_frames": frames})
    assert wan.parse({"num_frames": 81})


def test_interpolation_drops_no_frame_of_the_model() -> None:
    """A rate under the model's would throw away what was paid."""
    with pytest.raises(ValidationError, match="less than the model's fps"):
        parse("image-to-video", fps=12, interpolate_to_fps=8)


@given(st.permutations(SAFETY_POLICIES), st.lists(st.sampled_from(SAFETY_POLICIES), min_size=1))
def test_the_strictest_policy_is_the_same_in_every_order(order: list[SafetyPolicy], some: list[SafetyPolicy]) -> None:
    """Empty, flag, blur, refuse; to add a voice never loosens what was asked."""
    assert strictest(*order) == "refuse"
    ranks = [SAFETY_POLICIES.index(policy) for policy in some]
    assert strictest(*some) == strictest(*reversed(some)) == SAFETY_POLICIES[max(ranks)]


def test_an_output_has_the_bytes_that_its_pixels_can_need() -> None:
    """A picture 4⅛ bytes a pixel and 64 KiB, a clip 3 a pixel of each frame and 1 MiB; noise fits."""
    assert MediaSpec("image", 64, 64).most_bytes == 4 * 64 * 64 + 64 * 64 // 8 + 65_536
    assert MediaSpec("video", 64, 48, 14, 6).most_bytes == 3 * 64 * 48 * 14 + 2**20
    out = io.BytesIO()
    noise = random.Random(0).randbytes(4 * 256 * 256)
    Image.frombytes("RGBA", (256, 256), noise).save(out, "PNG", compress_level=0)
    assert len(out.getvalue()) <= MediaSpec("image", 256, 256).most_bytes


@pytest.mark.parametrize("pipeline", ["text-to-image", "image-to-image"])
@pytest.mark.parametrize("name", MOST_STEPS)
def test_a_consistency_scheduler_has_few_steps(pipeline: str, name: str) -> None:
    """More than it was trained for is an error that names the bound, also where the steps are the default."""
    asked = {"prompt": "a fox", "scheduler": name}
    assert parse(pipeline, **asked, num_inference_steps=50)
    for family in families_of(pipeline):
        with pytest.raises(ValidationError, match=f"60 is more than the scheduler {name} has; ask for 1 to 50"):
            family.parse({**asked, "num_inference_steps": 60})
    with pytest.raises(ValidationError, match=r"100 \(the default\) is more"):
        parse("image-to-image", **asked)


def test_a_clips_guidance_is_on_or_off() -> None:
    """Off at its end and on at its beginning is what the class cannot do; it rises, falls, or is off."""
    with pytest.raises(ValidationError, match="max_guidance_scale: 1 turns guidance off, and min_guidance_scale is 2"):
        parse("image-to-video", min_guidance_scale=2, max_guidance_scale=1)
    for least, most in ((1, 3), (3, 2), (1, 0.5), (0, 1)):
        assert parse("image-to-video", min_guidance_scale=least, max_guidance_scale=most)


@pytest.mark.parametrize("strength", [1e30, -1e30, 10.001, "1e400", float("inf"), float("nan")])
def test_a_loras_strength_has_a_bound(strength: float) -> None:
    """Numbers overflow far beyond it, and the picture would be black."""
    assert parse("text-to-image", prompt="a fox", loras={"acme/ink": -10})
    with pytest.raises(ValidationError, match=r"less than or equal to 10|greater than or equal to -10|finite number"):
        parse("text-to-image", prompt="a fox", loras={"acme/ink": strength})

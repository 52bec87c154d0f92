"""What the command line may ask for, and what becomes of it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from benchmark.cli import cli
from benchmark.inputs import draw
from benchmark.scenario import WARMUP_SEEDS, Request, choose_model, parse_pipeline, parse_size, plan
from reelnet.clips import ClipLimits, probe_clip
from reelnet.errors import ConfigError, StartError
from reelnet.parameters import MAX_SEED
from reelnet.pipelines import PIPELINES, ClipSize, Size

TEXT, VIDEO, UPSCALE = PIPELINES["text-to-image"], PIPELINES["image-to-video"], PIPELINES["upscale"]
OFFERS = {("text-to-image", "acme/a"): 1, ("text-to-image", "acme/b"): 3, ("upscale", "acme/up"): 1}


@given(st.integers(0, 99_999), st.integers(0, 99_999), st.sampled_from("xX×"))
def test_a_size_is_width_and_height(width: int, height: int, sign: str) -> None:
    """WIDTHxHEIGHT reads back as what was written."""
    assert parse_size(f" {width}{sign}{height} ") == Size(width, height)


@given(st.text(max_size=20).filter(lambda text: "x" not in text.lower() and "×" not in text))
def test_anything_else_is_no_size(text: str) -> None:
    """Another form is an error that shows the right one."""
    with pytest.raises(ConfigError, match="1024x576"):
        parse_size(text)


def test_a_misspelt_pipeline_names_the_nearest() -> None:
    """The operator is told what was meant."""
    with pytest.raises(ConfigError, match="did you mean 'image-to-video'"):
        parse_pipeline("image-to-vide")


def test_the_pipelines_own_defaults_hold() -> None:
    """Nothing asked: the size and steps that an app gets that asks for nothing."""
    scenario = plan(Request(TEXT), "acme/sdxl")
    assert scenario.promises[0].width == 1024
    assert scenario.work.pixel_steps == 1024 * 576 * 50


def test_tiny_models_get_small_jobs_unless_told() -> None:
    """Random weights on a CPU are for seconds; what is asked still counts."""
    tiny = "reelnet/tiny-random-svd"
    assert plan(Request(VIDEO), tiny).promises[0].width == 128
    assert plan(Request(VIDEO, size=Size(512, 320)), tiny).promises[0].height == 320
    assert plan(Request(VIDEO, steps=9), tiny).work.pixel_steps == 128 * 128 * 14 * 9


def test_a_job_is_complete_but_for_the_prompts_nothing() -> None:
    """A broadcaster's own defaults cannot change a benchmark: every parameter is sent, the seed of the run included."""
    job = plan(Request(VIDEO, frames=5), "acme/svd").job(77)
    assert job.params["seed"] == 77
    assert job.params["num_frames"] == 5
    assert {"fps", "decode_chunk_size", "width", "max_guidance_scale"} <= job.params.keys()
    assert job.model == "acme/svd"
    assert job.files.keys() == {"image"}


def test_an_upscaled_picture_is_as_large_as_its_input_says() -> None:
    """Of a pipeline without a size of its own, --size is the input picture's."""
    scenario = plan(Request(UPSCALE, size=Size(100, 60)), "acme/up")
    assert (scenario.promises[0].width, scenario.promises[0].height) == (400, 240)
    assert Image.open(io.BytesIO(scenario.picture(0) or b"")).size == (100, 60)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(TEXT, frames=4), "--frames"),
        (Request(TEXT, size=Size(63, 64)), "multiple of 8"),
        (Request(TEXT, steps=0), "greater than or equal to 1"),
        (Request(UPSCALE, size=Size(0, 0)), "--size"),
        (Request(UPSCALE, size=Size(99_999, 99_999)), "--size"),
        (Request(TEXT, seed=MAX_SEED), "--seed"),
        (Request(PIPELINES["upscale-video"], size=Size(63, 64)), "--size"),
        (Request(PIPELINES["frame-interpolation"], frames=1), "--frames"),
    ],
)
def test_what_a_pipeline_does_not_allow_is_a_usage_error(request_: Request, message: str) -> None:
    """A wrong option is found before anything is started."""
    with pytest.raises(ConfigError, match=message):
        plan(request_, "acme/x")


def test_jobs_are_the_same_each_time_and_differ_by_seed() -> None:
    """Two runs of a benchmark send the same bytes; two jobs of one have nothing in common but their work."""
    scenario = plan(Request(PIPELINES["image-to-image"], size=Size(64, 48)), "acme/x")
    assert scenario.job(1) == scenario.job(1)
    assert draw(Size(64, 48), 1) == scenario.picture(1)
    jobs = [scenario.job(seed) for seed in range(20)]
    assert len({job.params["seed"] for job in jobs}) == len({job.files["image"] for job in jobs}) == 20
    assert len({job.params["prompt"] for job in jobs}) > 15
    assert scenario.complete(7).model_dump()["seed"] == 7


def test_the_model_is_the_one_asked_or_the_one_most_nodes_serve() -> None:
    """A name is taken at its word."""
    assert choose_model(TEXT, None, OFFERS) == "acme/b"
    assert choose_model(TEXT, "acme/a", OFFERS) == "acme/a"


@pytest.mark.parametrize(
    ("pipeline", "asked", "message"),
    [(TEXT, "acme/c", "did you mean"), (VIDEO, None, "it serves text-to-image, upscale"), (VIDEO, "x", "it serves")],
)
def test_what_the_pool_does_not_serve_cannot_be_measured(pipeline: Any, asked: str | None, message: str) -> None:
    """The operator is told what there is instead."""
    with pytest.raises(StartError, match=message):
        choose_model(pipeline, asked, OFFERS)


def test_warm_up_has_noise_of_its_own() -> None:
    """Model libraries take the lower 32 bits of a seed: no warm-up job shares them with a job that counts."""
    assert 10**6 < WARMUP_SEEDS % 2**32 < 2**32 - 10**6


@pytest.mark.parametrize(
    "words",
    [
        ["--pipeline", "image-to-vide"],
        ["--pipeline", "text-to-image", "--size", "big"],
        ["--pipeline", "text-to-image", "--backend", "huge"],
        ["--pipeline", "text-to-image", "--runs", "0"],
        ["--pipeline", "text-to-image", "--runs", "5", "--duration", "10"],
        ["--pipeline", "text-to-image", "--duration", "-1"],
        ["--pipeline", "text-to-image", "--target", "everything"],
        ["--pipeline", "text-to-image", "--speeds", "fast"],
        ["--pipeline", "text-to-image", "--reference", "0"],
        ["--pipeline", "text-to-image", "--concurrency", "0"],
        ["--pipeline", "text-to-image", "--json", "no/such/folder/report.json"],
        [],
    ],
)
def test_a_usage_error_exits_with_2(words: list[str]) -> None:
    """Before a pool is looked for or started."""
    assert CliRunner().invoke(cli, words).exit_code == 2


def test_help_has_an_example() -> None:
    """The first thing that a newcomer copies."""
    assert "Example: benchmark --pipeline" in CliRunner().invoke(cli, ["--help"]).output


@pytest.mark.parametrize("name", ["upscale-video", "frame-interpolation"])
def test_a_clip_is_what_the_work_is_counted_by(name: str) -> None:
    """Sizes, frames and rate as a node finds them in it; --frames is its length."""
    scenario = plan(Request(PIPELINES[name], frames=6), "reelnet/tiny-x")
    assert isinstance(scenario.source, ClipSize)
    ((input_name, (_, data)),) = scenario.job(3).files.items()
    found = probe_clip(data, ClipLimits())
    assert (input_name, found, found.frames) == ("video", scenario.source, 6)
    assert scenario.job(3) == scenario.job(3) != scenario.job(4)
    assert scenario.noun == "clips"


def test_the_family_is_the_models() -> None:
    """What its nodes speak decides which parameters there are; a family of a later version is told."""
    scenario = plan(Request(VIDEO, steps=3), "reelnet/tiny-random-wan", "image-to-video/wan@3")
    assert (scenario.pipeline.family, scenario.promises[0].frames) == ("wan", 9)
    assert scenario.job(1).params["prompt"]
    with pytest.raises(ConfigError, match="does not know"):
        plan(Request(VIDEO), "acme/next", "image-to-video/next@1")

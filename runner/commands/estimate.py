"""`runner models estimate`: what a model and a job need of a card's memory, without a card and without weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from reelnet.errors import ConfigError
from reelnet.operating.console import print_json
from reelnet.pipelines import Pipeline, Size, explain
from runner.commands.exit_codes import exit_codes
from runner.commands.models import Home, Json, import_library
from runner.memory_budget import gib

NOTE = "Estimated from the architecture, not measured on a card. CUDA itself takes some 0.3 to 0.6 GiB beside it."


def estimate_model(
    model: Annotated[str, typer.Argument(help="sd15, sdxl, svd-xt, sd3-medium, flux-dev, an id or a folder.")],
    pipeline: Annotated[str | None, typer.Option(help="Pipeline; default: the model's first.")] = None,
    width: Annotated[int, typer.Option(help="Pixels, of the output or of the input.", min=1)] = 1024,
    height: Annotated[int, typer.Option(help="Pixels.", min=1)] = 1024,
    frames: Annotated[int | None, typer.Option(help="num_frames of a clip.")] = None,
    decode_chunk_size: Annotated[int | None, typer.Option(help="Frames decoded at once.")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale; 0 needs the least.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"], typer.Option(help="Number format; auto: as on a GPU.")
    ] = "auto",
    offload: Annotated[Literal["none", "model", "sequential"], typer.Option(help="As the setting.")] = "none",
    vae_tiling_pixels: Annotated[int | None, typer.Option(help="As the setting.", min=1)] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tells what a job needs of a card's memory, phase by phase. Nothing is loaded, nothing is computed."""
    with exit_codes():
        unloaded, estimate = import_library("runner.models.unloaded"), import_library("runner.models.estimate")
        found = unloaded.outline(unloaded.Question(model, home, dtype, offload, vae_tiling_pixels))
        name = pipeline or next(iter(found.pipelines))
        if name not in found.pipelines:
            raise ConfigError(f"{model} does not serve {name!r}; it serves {', '.join(found.pipelines)}")
        asked = {
            "width": width,
            "height": height,
            "num_frames": frames,
            "decode_chunk_size": decode_chunk_size,
            "guidance_scale": guidance,
            "max_guidance_scale": guidance,
        }
        job = _job(estimate, found.pipelines[name], Size(width, height), asked)
        answer = _answer(found, job) | {"model": model, "pipeline": name, "offload": offload}
        print_json(answer) if as_json else _show(answer)


def _job(estimate: Any, pipeline: Pipeline, size: Size, asked: dict[str, Any]) -> Any:
    fields = pipeline.params.model_fields
    params = {name: value for name, value in asked.items() if name in fields and value is not None}
    try:
        return estimate.usual_job(pipeline, size, **params)
    except ValidationError as error:
        raise ConfigError(f"{pipeline.name}: {explain(error, pipeline.params)}") from None


def _answer(found: Any, job: Any) -> dict[str, Any]:
    need, held = found.estimate.need(job), found.estimate.profile.held_bytes
    return {
        "dtype": found.dtype,
        "held_bytes": held,
        "phases": found.estimate.by_phase(job),
        "job_bytes": need.size_bytes,
        "total_bytes": held + need.size_bytes,
        "most_in": need.phase.doing,
    }


def _show(answer: dict[str, Any]) -> None:
    typer.echo(f"{answer['model']}: {answer['pipeline']}, {answer['dtype']}, offload {answer['offload']}")
    rows = {"weights that stay": answer["held_bytes"]} | answer["phases"] | {"in all": answer["total_bytes"]}
    for name, size in rows.items():
        typer.echo(f"  {name:24} {gib(size):>10}{'  most' if name == answer['most_in'] else ''}")
    typer.echo(NOTE)

"""`python -m runner.bench`: what pictures and clips cost to code, and whether a long clip takes memory.

Ratios are of one round, so that a busy machine slows both sides. See docs/benchmarks.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from reelnet.operating.console import to_terminal
from runner.bench import films, report
from runner.bench.coding import Round, measure_round, ways
from runner.bench.likeness import likeness
from runner.bench.memory import Curve, long_clip
from runner.commands.exit_codes import exit_codes
from runner.settings import RunnerSettings

CODECS = ("h264", "av1", "vp9")
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(epilog="Example: python -m runner.bench --rounds 3 --frames 0")
def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of coding.")] = 5,
    frames: Annotated[int, typer.Option(min=0, help="Frames of the long clip; 0: none, no model library.")] = 600,
    picture: Annotated[Path, typer.Option(help="The photograph that films are made of.")] = films.PICTURE,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    strict: Annotated[bool, typer.Option(help="Fail when an aim is missed.")] = False,
) -> None:
    """Codes the same frames as PNG, WebP, JPEG and MP4 in turns, and enlarges a long clip."""
    with exit_codes():
        measured = _measure(films.opened(picture), rounds, frames)
    report.show(measured, to_terminal(report.WIDTH))
    if json_file:
        json_file.write_text(json.dumps(report.document(measured), indent=1) + "\n", "utf-8")
    missed = report.missed(measured)
    for line in missed:
        sys.stderr.write(f"missed: {line}\n")
    raise typer.Exit(1 if strict and missed else 0)


def _measure(picture: Image.Image, rounds: int, frames: int) -> report.Measured:
    say = to_terminal(stderr=True).print
    settings = RunnerSettings(model="unused")
    some = ways(settings.png_level, settings.jpeg_quality, settings.clip_output)
    coded, like = dict[str, list[Round]](), {}
    for film in films.FILMS:
        shots = film.frames(picture)
        coded[film.name] = []
        for number in range(rounds):
            say(f"{film.name}, round {number + 1} of {rounds}")
            coded[film.name].append(measure_round(shots, some, number))
        say(f"{film.name}, codecs")
        like[film.name] = [likeness(shots, settings.clip_output, codec) for codec in CODECS]
    return report.Measured(coded, like, _long(picture, frames, settings) if frames else None, settings.png_level)


def _long(picture: Image.Image, frames: int, settings: RunnerSettings) -> Curve:
    to_terminal(stderr=True).print(f"enlarging a clip of {frames} frames")
    with tempfile.TemporaryDirectory(prefix="reelnet-bench-") as folder:
        return long_clip(picture, frames, Path(folder), settings.clip_output)


if __name__ == "__main__":
    cli()

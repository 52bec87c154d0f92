"""Asks the models of the toy world for many things, and counts what is right.

python scripts/toyworld/measure.py picture MODEL [--sheet FILE.png]
python scripts/toyworld/measure.py clip MODEL [--sheet FILE.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, WanImageToVideoPipeline
from PIL import Image

from runner.toyworld.scenes import FACTORS, SIDE, Pixels, Scene, any_scene, is_new
from runner.toyworld.scenes import draw as draw_truly
from runner.toyworld.sight import follow, look
from runner.toyworld.words import MOVES, say

COUNT, NEW_COUNT, CLIPS = 200, 100, 40
STEPS, GUIDANCE = 12, 2.5
CLIP = {"num_frames": 9, "num_inference_steps": 8, "guidance_scale": 2.0}
SEED = 99
COLUMNS = 10
Counts = dict[str, float]


def pictures(model: Path, sheet: Path | None) -> None:
    """Prints the table of `reelnet/toy-world`: of any scenes, and of combinations that were never trained on."""
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    rows, drawn = [], []
    for title, count, wanted in (
        ("any scenes", COUNT, lambda _: True),
        ("combinations never trained on", NEW_COUNT, is_new),
    ):
        began = time.process_time()
        scenes = _scenes(count, wanted)
        pages = [_draw(pipe, scene, at) for at, scene in enumerate(scenes)]
        rows.append((f"{count} {title}", _score(scenes, pages)))
        drawn += pages[:50]
        print(f"{(time.process_time() - began) / count:.2f} CPU-seconds a picture")
    _print(("", *FACTORS, "all"), rows)
    if sheet:
        _save(sheet, drawn, COLUMNS)


def clips(model: Path, sheet: Path | None) -> None:
    """Prints the table of `reelnet/toy-world-clip`: clips of true pictures, ten for each way."""
    pipe = WanImageToVideoPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rows: list[Counts] = []
    frames: list[Pixels] = []
    for at, scene in enumerate(_scenes(CLIPS, lambda _: True)):
        move = list(MOVES)[at % len(MOVES)]
        first = draw_truly(scene)
        clip = list(_film(pipe, first, f"the {scene.shape} {_goes(move)}", at))
        walk = follow(clip)
        rows.append(
            {
                "begins with the picture": float(np.abs(clip[0] - first).mean() * 255 < 16),
                "shape": walk.shape == scene.shape,
                "colour": walk.colour == scene.colour,
                "ground": walk.ground == scene.ground,
                "way": walk.heading == move,
                "moves in each frame": bool(walk.heading) and min(walk.steps) > -0.01,
            }
        )
        rows[-1]["all"] = all(rows[-1].values())
        frames += [first, *clip] if at < 16 else []
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    _print(("", *means), [(f"{CLIPS} clips", means)])
    if sheet:
        _save(sheet, frames, 10)


def _goes(move: str) -> str:
    return f"moves {move}" if move in ("up", "down") else f"moves to the {move}"


def _scenes(count: int, wanted: Callable[[Scene], bool]) -> list[Scene]:
    random = np.random.default_rng(SEED)
    return [any_scene(random, wanted) for _ in range(count)]


def _draw(pipe: StableDiffusionPipeline, scene: Scene, seed: int) -> Pixels:
    """As a job draws it: alone, with a seed of its own."""
    size = {"width": SIDE, "height": SIDE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    return pipe(say(scene), generator=torch.Generator().manual_seed(seed), output_type="np", **size).images[0]


def _film(pipe: WanImageToVideoPipeline, first: Pixels, prompt: str, seed: int) -> Iterable[Pixels]:
    image = Image.fromarray((first * 255).round().astype(np.uint8))
    noise = torch.Generator().manual_seed(seed)
    return pipe(image, prompt, height=SIDE, width=SIDE, generator=noise, output_type="np", **CLIP).frames[0]


def _score(scenes: list[Scene], drawn: list[Pixels]) -> Counts:
    seen = [look(page) for page in drawn]
    right = {
        name: [getattr(a, name) == getattr(b, name) for a, b in zip(scenes, seen, strict=True)] for name in FACTORS
    }
    right["all"] = [all(row) for row in zip(*right.values(), strict=True)]
    return {name: float(np.mean(column)) for name, column in right.items()}


def _print(names: Iterable[str], rows: list[tuple[str, Counts]]) -> None:
    names = list(names)
    print("|".join(["", *(f" {name} " for name in names), ""]))
    print("|" + "---|" * len(names))
    for title, row in rows:
        print(f"| {title} | " + " | ".join(f"{row[name] * 100:.1f}%" for name in names[1:]) + " |")


def _save(file: Path, pages: list[Pixels], columns: int) -> None:
    blank = [np.full((SIDE, SIDE, 3), 0.5)] * (-len(pages) % columns)
    pages = [np.pad(page, ((2, 2), (2, 2), (0, 0)), constant_values=0.5) for page in [*pages, *blank]]
    rows = [np.concatenate(pages[at : at + columns], axis=1) for at in range(0, len(pages), columns)]
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(file)


def main() -> None:
    """Measures one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("picture", "clip"))
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("--sheet", type=Path, help="a PNG for some of what was drawn")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    {"picture": pictures, "clip": clips}[asked.kind](asked.model, asked.sheet)


if __name__ == "__main__":
    main()

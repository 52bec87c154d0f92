"""The media benchmark's tables, at most 100 columns wide, and its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from reelnet.operating.console import headline
from runner.bench.coding import AIMS, CLIP, JPEG, PNG, PNG_6, WEBP, Aim, Compared, Round, compared
from runner.bench.films import FILMS
from runner.bench.likeness import Likeness
from runner.bench.memory import Curve

WIDTH = 100
MB = 1e6
AIM_BASE = PNG_6
"""What aims are ratios to: PNG as libraries write it when nobody chooses. Our own faster one is shown beside it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured: rounds and codecs by film, and the memory of a long clip, if it was asked."""

    rounds: Mapping[str, list[Round]]
    codecs: Mapping[str, list[Likeness]]
    curve: Curve | None
    png_level: int


def show(measured: Measured, console: Console) -> None:
    """Prints costs, ratios with what is asked of them, codecs, and the memory."""
    grain = ", ".join(f"{film.name} {film.grain:g}" for film in FILMS)
    console.print("25 frames of 576×1024: a photograph under a moving camera, with grain of some levels of 255:")
    console.print(f"{grain}. Seconds are CPU of all threads together. Aims are beside {AIM_BASE},")
    console.print(
        f"which libraries write when nobody chooses; {PNG} alone is level {measured.png_level}, this runner's own."
    )
    tables = [costs(measured), ratios(measured), codecs(measured)]
    for table in tables + ([memory(measured.curve)] if measured.curve else []):
        console.print(table)


def costs(measured: Measured) -> Table:
    """Median seconds and the bytes of each way of coding."""
    table = _table("film", "coded as", right=("CPU s", "frames/s", "MB"))
    for film, rounds in measured.rounds.items():
        for name in (PNG, PNG_6, WEBP, JPEG, CLIP):
            spent = median(row[name].cpu_s for row in rounds)
            table.add_row(film, name, f"{spent:.3f}", f"{25 / spent:.0f}", f"{rounds[0][name].size / MB:.2f}")
    return table


def ratios(measured: Measured) -> Table:
    """Of seconds and bytes to PNG's, and whether they are what is asked."""
    table = _table("film", "ratio", right=("time", "range", "at most", "bytes", "at most", ""))
    for film, rounds in measured.rounds.items():
        for aim in AIMS:
            for base in (AIM_BASE, PNG):
                found = compared(rounds, aim.name, base)
                seconds = (f"{found.seconds:.2f}", f"{found.low:.2f}–{found.high:.2f}")
                most, bound, met = _judged(aim, found) if base == AIM_BASE else ("", "", "")
                table.add_row(film, f"{aim.name} / {base}", *seconds, most, f"{found.size:.2f}", bound, met)
    return table


def codecs(measured: Measured) -> Table:
    """Pace, bytes and likeness of each codec at the runner's own quality."""
    table = _table("film", "codec", right=("frames/s", "MB", "PSNR dB", "SSIM"))
    for film, found in measured.codecs.items():
        for row in found:
            figures = (f"{row.rate:.0f}", f"{row.size / MB:.3f}", f"{row.psnr:.2f}", f"{row.ssim:.4f}")
            table.add_row(film, row.codec, *figures)
    return table


def memory(curve: Curve) -> Table:
    """Frames that are done, resident memory, and the most frames that were held."""
    title = (
        f"{curve.frames} frames, {curve.whole_bytes / MB:.0f} MB in all: "
        f"{curve.growth() / MB:+.0f} MB behind the first tenth"
    )
    table = _table("frames done", right=("resident MB", "frames held", ""), title=title)
    highest = max(mark.resident for mark in curve.marks)
    for mark in curve.table():
        bar = "█" * round(30 * mark.resident / highest)
        table.add_row(str(mark.frames), f"{mark.resident / MB:.0f}", str(mark.held), bar)
    return table


def missed(measured: Measured) -> list[str]:
    """The aims that are not met."""
    every = ((film, aim, rounds) for film, rounds in measured.rounds.items() for aim in AIMS)
    found = ((film, aim, compared(rounds, aim.name, AIM_BASE)) for film, aim, rounds in every)
    return [
        f"{aim.name}, {film}: {ratio.seconds:.2f} × PNG's time, {ratio.size:.2f} × its bytes; {_asked(aim)} is asked"
        for film, aim, ratio in found
        if not aim.met(ratio.seconds, ratio.size)
    ]


def document(measured: Measured) -> dict[str, Any]:
    """Everything as JSON."""
    curve = measured.curve
    return {
        "png_level": measured.png_level,
        "rounds": {
            film: [{name: asdict(cost) for name, cost in row.items()} for row in rows]
            for film, rows in measured.rounds.items()
        },
        "codecs": {film: [asdict(row) for row in rows] for film, rows in measured.codecs.items()},
        "memory": {**asdict(curve), "growth": curve.growth()} if curve else None,
        "missed": missed(measured),
    }


def _judged(aim: Aim, found: Compared) -> tuple[str, str, str]:
    bytes_ = f"{aim.most_bytes:g}" if aim.most_bytes else ""
    return f"{aim.most:g}", bytes_, "met" if aim.met(found.seconds, found.size) else "missed"


def _asked(aim: Aim) -> str:
    return f"≤ {aim.most:g}" + (", no more bytes" if aim.most_bytes else "")


def _table(*left: str, right: tuple[str, ...], title: str | None = None) -> Table:
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=headline(title) if title else None, title_justify="left"
    )
    for head in left:
        table.add_column(head, no_wrap=True)
    for head in right:
        table.add_column(head, justify="right")
    return table

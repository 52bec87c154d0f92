"""What no honest node delivers although it decodes: found by comparing a run's outputs with inputs and with each other.

Every run has a seed, a prompt and a picture of its own, so that no two honest outputs of one node look the same. What
these checks can see, and what they cannot, is measured in docs/benchmark.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.examination import Facts
from benchmark.look import Thumb, mirrored, rms, signature

CONSTANT, STILL, INPUT, REPEATED_FRAMES, REPLAYED = "constant", "still", "input", "repeated_frames", "replayed"
REASONS = {
    CONSTANT: "one colour all over",
    STILL: "a clip in which nothing moves",
    INPUT: "the input picture sent back",
    REPEATED_FRAMES: "frames that only repeat the one before",
    REPLAYED: "an output that was delivered before, for another job",
}
"""What each finding says, for people."""
INPUT_RMS = 4.0
"""Grey levels within which every kept frame is the input.

Coding changes a thumbnail by at most 3.0 (JPEG at quality 50, x264 at crf 18); moving it by 1 % of its width, by 7.5.
"""
REPLAY_CORRELATION = 0.97
"""JPEG at quality 30 leaves 0.98; outputs of the tiny models for two seeds have at most 0.08."""
REPEATED_SHARE = 0.25
"""Most frames of a clip that may repeat the one before."""
MAX_COMPARED = 1000
"""How many deliveries before it a look is compared with; bytes are compared with all."""
AGREEMENT = 0.9
"""Correlation from which on two nodes' outputs for the same job are taken for the same picture."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One delivered output that passed the hard checks. `place` numbers the run's deliveries in their order.

    `source` is the thumbnail of the job's input picture, where an output must not be the input.
    """

    place: int
    node: str
    seed: int
    index: int
    facts: Facts
    source: Thumb | None = None


def findings(outputs: Sequence[Seen]) -> dict[int, tuple[str, ...]]:
    """The findings by `place`; a delivery without any is left out."""
    found: dict[int, list[str]] = {}
    for output in outputs:
        found.setdefault(output.place, []).extend(_alone(output))
    for place in _replayed(outputs):
        words = found.setdefault(place, [])
        words += [] if words else [REPLAYED]  # what is constant or the input needs no second reason
    return {place: tuple(dict.fromkeys(words)) for place, words in found.items() if words}


def agreement(outputs: Sequence[Seen]) -> dict[str, float]:
    """By node: the share of its jobs whose output looks like what another node delivered for the same job.

    Only jobs count on which at least two nodes agree: of two that differ, nobody knows who is right.
    """
    jobs: dict[tuple[int, int], dict[str, NDArray[np.float32]]] = {}
    for output in outputs:
        jobs.setdefault((output.seed, output.index), {})[output.node] = signature(output.facts.look)
    votes: dict[str, list[bool]] = {}
    for looks in jobs.values():
        agreed = {node for node in looks if any(_agree(looks[node], looks[other]) for other in looks if other != node)}
        for node in looks if agreed else ():
            votes.setdefault(node, []).append(node in agreed)
    return {node: sum(agreed) / len(agreed) for node, agreed in votes.items()}


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return float(one @ other) >= AGREEMENT


def _alone(output: Seen) -> list[str]:
    """What one output shows by itself. A constant clip is still too: the first reason is enough."""
    facts, look = output.facts, output.facts.look
    if facts.constant and (len(look.thumbs) == 1 or facts.still):
        return [CONSTANT]
    if output.source is not None and all(rms(frame, output.source) <= INPUT_RMS for frame in look.thumbs):
        return [INPUT]
    if facts.still:
        return [STILL]
    return [REPEATED_FRAMES] if look.repeated > REPEATED_SHARE else []


def _replayed(outputs: Sequence[Seen]) -> set[int]:
    """Deliveries whose bytes or look were delivered before for another job; the earlier one is the original."""
    ordered = sorted(outputs, key=lambda output: output.place)
    return {output.place for output in (*_same_bytes(ordered), *_same_look(ordered))}


def _same_bytes(ordered: Sequence[Seen]) -> Iterator[Seen]:
    first: dict[str, tuple[int, int]] = {}
    for output in ordered:
        job = (output.seed, output.index)
        if first.setdefault(output.facts.sha256, job) != job:
            yield output


def _same_look(ordered: Sequence[Seen]) -> Iterator[Seen]:
    if not ordered:
        return
    looks = np.stack([signature(output.facts.look) for output in ordered])
    jobs = np.array([(output.seed, output.index) for output in ordered])
    for number, output in enumerate(ordered):
        before = slice(max(0, number - MAX_COMPARED), number)
        same = looks[before] @ looks[number], looks[before] @ signature(mirrored(output.facts.look))
        others = (jobs[before] != jobs[number]).any(axis=1)
        if ((np.maximum(*same) >= REPLAY_CORRELATION) & others).any():
            yield output

"""The faults of a soak: which job has which, drawn from a seed before the first job."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping


class Fault(enum.StrEnum):
    """What goes wrong. `RUNNER` and `NODE` strike whatever is there; the rest belong to one job."""

    RUNNER = "runner killed"
    NODE = "node killed"
    DIE = "job kills its runner"
    POISON = "job kills every runner"
    HANG = "job hangs"
    OOM = "job runs out of memory"
    LEAVE = "client leaves"


PROMPTS = {
    Fault.DIE: "!die once",
    Fault.POISON: "!die",
    Fault.HANG: "!hang once",
    Fault.OOM: "!oom",
}
"""How a job asks the synthetic backend for its fault; `once` spares the second node."""
OF_JOBS = frozenset({*PROMPTS, Fault.LEAVE})
NODE_KILL_SHARE = 300
"""One node is killed for so many jobs: it is down for seconds, and a soak is to be more than that."""


def draw(jobs: int, every: int, seed: int) -> Mapping[int, Fault]:
    """The fault of each job that has one, by its number: every `every`-th, each kind about as often as the others.

    Of kills of a node there are few, and one at least where there are faults enough for every kind.
    """
    rng, numbers = random.Random(seed), range(every, jobs, every)  # noqa: S311  (a schedule, not a secret)
    others: list[Fault] = [fault for fault in Fault if fault is not Fault.NODE]
    drawn: list[Fault] = [
        fault for _ in range(0, len(numbers), len(others)) for fault in rng.sample(others, len(others))
    ]
    faults: dict[int, Fault] = dict(zip(numbers, drawn, strict=False))
    kills = max(jobs // NODE_KILL_SHARE, int(len(numbers) >= len(Fault)))
    for part in range(kills if numbers else 0):
        faults[numbers[len(numbers) * (2 * part + 1) // (2 * kills)]] = Fault.NODE
    return faults

"""Looks at everything that a drive brought back, and says of each job what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmark.drive import Job
from benchmark.examination import Examination, examination
from benchmark.lies import Seen, agreement, findings
from benchmark.look import Thumb, look_at_picture
from benchmark.measure import CHECK
from benchmark.scenario import Scenario
from reelnet.errors import NodeError


async def check(jobs: Sequence[Job], scenario: Scenario, tell: Callable[[], None]) -> dict[str, float]:
    """Checks the jobs' outputs and puts what was found into their samples; the files are removed.

    Gives, by node, how far its outputs agree with those of the others for the same jobs (see `lies.agreement`).
    """
    seen: list[Seen] = []
    async with examination() as examiner:
        for job in jobs:
            seen += await _look(job, scenario, examiner)
            tell()
    found = await asyncio.to_thread(findings, seen)
    for job in jobs:
        job.sample = replace(job.sample, findings=found.get(job.sample.place, ()))
    return agreement(seen)


async def _look(job: Job, scenario: Scenario, examiner: Examination) -> list[Seen]:
    """The looks of a job's outputs; the first hard check that fails becomes the job's failure."""
    sample, source = job.sample, await _source(scenario, job.sample.seed) if job.outputs else None
    seen = []
    try:
        for index, ((path, media_type), spec) in enumerate(zip(job.outputs, scenario.promises, strict=False)):
            facts = await examiner.facts(path, media_type, spec)
            seen.append(Seen(sample.place, sample.node, sample.seed, index, facts, source))
    except NodeError as error:
        job.sample = replace(sample, failure=CHECK, code=error.code)
    finally:
        for path, _ in job.outputs:
            path.unlink(missing_ok=True)
    return seen


async def _source(scenario: Scenario, seed: int) -> Thumb | None:
    """The thumbnail of the job's input; None where the output has to look like it."""
    picture = None if scenario.pipeline.keeps_look else await asyncio.to_thread(scenario.picture, seed)
    return look_at_picture(picture).thumbs[0] if picture else None

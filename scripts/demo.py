"""The main job on tiny models: words become a picture, and the picture becomes a video, on a pool of this machine.

Both are looked at: they have to show what was asked. With --full, every pipeline.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from demo_engine import containers
from demo_jobs import FULL, PLAIN, Step, full, plain, source
from demo_sights import Made, SightError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmark.client import MAX_OUTPUT_BYTES, Answer, BroadcasterClient, JobSpec
from benchmark.interruption import unless_stopped
from benchmark.local_pool import LeftoverError, LocalPool, PoolPlan
from reelnet.errors import ReelnetError, printable
from reelnet.inspection import EXTENSIONS, OutputFacts, check_output
from reelnet.lifecycle import EXIT_FAILED, run
from reelnet.operating.console import to_terminal
from reelnet.pricing import format_money

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "demo"
NODES = 2
PLAN = PoolPlan(home=OUT / "state", models=OUT / "models", nodes=NODES, tiny=PLAIN)
SHORT_CHARS = 10
CELL_CHARS = 80


class DemoError(Exception):
    """Something is not as it should be; the text says what."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that is done, and its checked file."""

    title: str
    answer: Answer
    file: Path
    facts: OutputFacts
    sounds: bool
    seen: str
    """What the file was found to show; empty where nothing is known of it."""


def main() -> int:
    """Runs the demo; the exit code is 0 only if everything is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("process", "docker"), default="process", help="what runs the runners")
    parser.add_argument("--full", action="store_true", help="every pipeline")
    asked = parser.parse_args()
    plan, steps = (replace(PLAN, tiny=FULL), full()) if asked.full else (PLAN, plain())
    console = to_terminal()
    finished: list[Finished] | None = None

    async def demo(stopping: asyncio.Event) -> None:
        nonlocal finished
        run_on = on_containers if asked.engine == "docker" else on_a_pool
        work = run_on(console, plan, steps)
        finished = await unless_stopped(stopping, work)

    try:
        if code := run(demo):
            return code
    except (DemoError, LeftoverError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    if finished is None:
        sys.stderr.write("interrupted\n")
        return EXIT_FAILED
    console.print(lines(finished) if asked.full else table(finished))
    for item in finished:
        console.print(told(item), markup=False, highlight=False)
    console.print(f"demo finished in {time.monotonic() - STARTED:.1f} s")
    return 0


async def on_containers(console: Console, plan: PoolPlan, steps: list[Step]) -> list[Finished]:
    """The same with each runner in a container of its own; fails if one is left."""

    def tell(step: str) -> None:
        console.print(f"{step} …")

    with containers(tell) as engine:
        contained = replace(plan, image=engine.image, docker_socket=engine.socket)
        finished = await on_a_pool(console, contained, steps)
        if left := engine.left():
            raise DemoError(f"containers are left: {', '.join(left)}")
    console.print("none of the containers is left")
    return finished


async def on_a_pool(console: Console, plan: PoolPlan, steps: list[Step]) -> list[Finished]:
    """Starts the pool, runs the jobs, stops the pool: leaving its block fails if a process is left."""
    async with LocalPool(plan, lambda step: console.print(f"{step} …")) as pool:
        count = len(pool.processes())
        console.print(f"the pool is up at {pool.url}: {NODES} nodes, {count} processes")
        async with BroadcasterClient(pool.url) as client:
            finished = await all_jobs(client, steps, console)
    console.print(f"stopped; none of the {count} processes is left")
    return finished


async def all_jobs(client: BroadcasterClient, steps: list[Step], console: Console) -> list[Finished]:
    """The jobs, one after the other."""
    finished: list[Finished] = []
    made: dict[str, Path] = {}
    for step in steps:
        finished.append(await one_job(client, step, made, console))
        made[step.name] = finished[-1].file
    return finished


async def one_job(client: BroadcasterClient, step: Step, made: Made, console: Console) -> Finished:
    """Runs a job with live progress, fetches its file, checks it and looks at it. Raises DemoError."""
    job = step.job(made)
    result: dict[str, Any] = {}
    try:
        with StageBars(step.title, console) as bars:
            async for name, data in client.events(job):
                bars.take(name, data)
                result = data
        answer = Answer.parse(result)
        draft = OUT / "state" / "download"
        media_type = await client.download(answer.urls[0], draft)
        kept = await asyncio.to_thread(keep, answer, step, job, (draft, media_type))
        return replace(kept, seen=await asyncio.to_thread(step.sight, kept.file, made)) if step.sight else kept
    except SightError as error:
        raise DemoError(f"{step.title} came out wrong: {error}") from None
    except ReelnetError as error:
        reason = f"{error.failure.value}/{error.code}: {error.message}"
        raise DemoError(f"{step.title} failed ({reason}); the logs are in {near(OUT / 'state' / 'logs')}") from None


def keep(answer: Answer, step: Step, job: JobSpec, fetched: tuple[Path, str]) -> Finished:
    """Checks the downloaded file and gives it its name. Raises NodeError, and DemoError for one that shows nothing."""
    draft, media_type = fetched
    pipeline = step.kind(job)
    (spec,) = pipeline.promises(pipeline.parse(job.params), source(job))
    facts = check_output(draft, media_type, spec, MAX_OUTPUT_BYTES)
    if facts.constant or facts.still:
        raise DemoError(f"{step.title}: the output is {'one colour all over' if facts.constant else 'a still clip'}")
    file = OUT / f"{step.name}-{answer.seeds[0]}.{EXTENSIONS[media_type]}"
    return Finished(step.title, answer, draft.rename(file), facts, sounds=bool(spec.sound), seen="")


class StageBars:
    """A job's progress: a bar for each stage on a terminal; elsewhere, a line for each stage when it is over."""

    def __init__(self, title: str, console: Console) -> None:
        columns = (TextColumn("  {task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console = console
        self._title = title
        self._stages: dict[str, tuple[TaskID, int]] = {}

    def __enter__(self) -> Self:
        self._console.print(self._title, style="bold")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def take(self, name: str, data: Mapping[str, Any]) -> None:
        """An event of the job."""
        if name == "progress":
            self._advance(printable(str(data["stage"]), CELL_CHARS), int(data["step"]), int(data["total"]))
        elif name == "result":
            self._complete()

    def _advance(self, stage: str, step: int, total: int) -> None:
        if stage not in self._stages:
            self._complete()
            self._stages[stage] = self._progress.add_task(stage, total=total), total
        self._progress.update(self._stages[stage][0], completed=step)

    def _complete(self) -> None:
        """Fills the bar of the stage before: its last steps may have been left out as the next one overtook them."""
        if self._stages:
            stage, (bar, total) = list(self._stages.items())[-1]
            self._progress.update(bar, completed=total)
            if not self._console.is_terminal:
                self._console.print(f"  {stage}: {total} of {total}", markup=False, highlight=False)


def table(finished: list[Finished]) -> Table:
    """What was done, a column for each job."""
    shown = Table(show_header=False)
    for name, texts in rows(finished).items():
        shown.add_row(Text(name, style="bold"), *(Text(printable(text, CELL_CHARS), overflow="fold") for text in texts))
    return shown


def lines(finished: list[Finished]) -> Table:
    """What was done, a line for each job."""
    shown = Table("job", "model", "run", "output", caption=f"files: {near(OUT)}")
    for item in finished:
        answer = item.answer
        texts = (
            item.title,
            answer.model.rpartition("/")[2],
            f"{answer.timings_s.get('run', 0.0):.2f} s",
            f"{item.file.suffix.lstrip('.')}, {look(item.facts)}{', with sound' if item.sounds else ''}",
        )
        shown.add_row(*(Text(printable(text, CELL_CHARS), overflow="fold") for text in texts))
    return shown


def rows(finished: list[Finished]) -> dict[str, list[str]]:
    """The table's texts by their heading. What a node says of itself is a stranger's text."""
    answers = [item.answer for item in finished]
    seconds = [answer.timings_s for answer in answers]
    return {
        "job": [answer.job_id[-SHORT_CHARS:] for answer in answers],
        "pipeline": [answer.pipeline for answer in answers],
        "model": [answer.model for answer in answers],
        "model digest": [answer.model_digest[:SHORT_CHARS] for answer in answers],
        "class": [answer.made_with.get("class", "?") for answer in answers],
        "versions": [versions(answer) for answer in answers],
        "node": [answer.node[:SHORT_CHARS] for answer in answers],
        "queue": [f"{s.get('queue', 0.0):.2f} s" for s in seconds],
        "load": [f"{s['load']:.2f} s" if "load" in s else "was warm" for s in seconds],
        "run": [f"{s.get('run', 0.0):.2f} s" for s in seconds],
        "price": [f"${format_money(answer.price_nano)}" for answer in answers],
        "output": [look(item.facts) for item in finished],
        "file": [near(item.file) for item in finished],
    }


def told(item: Finished) -> str:
    """What the file shows."""
    return f"{item.title}: {item.seen or 'coloured noise, by the true code of a model with random weights'}"


def versions(answer: Answer) -> str:
    """The versions of the libraries that made the output, as the node says them."""
    return ", ".join(f"{n} {answer.made_with[n]}" for n in ("diffusers", "torch") if n in answer.made_with)


def look(facts: OutputFacts) -> str:
    """Size, and frames of a clip."""
    frames = f", {facts.frames} frames at {facts.fps:g}/s" if facts.frames else ""
    return f"{facts.width}×{facts.height}{frames}, {facts.size:,} bytes"


def near(path: Path) -> str:
    """The path as seen from the repository."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())

"""`make gpu-bench`: SD 1.5, SDXL and SVD-XT at full size on a card, eager and compiled, beside what the card can do."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import gpu_report
from benchmark.assessment import assess
from benchmark.document import document
from benchmark.gpu_cases import COMPILED, Case, chosen, parse_modes
from benchmark.gpu_report import Card, Result
from benchmark.gpu_runner import make_models, own_runner, tell
from benchmark.interruption import unless_stopped
from benchmark.intervals import Interval
from benchmark.local_pool import PoolPlan
from benchmark.measurement import measure
from benchmark.targets import Aim, find
from reelnet.errors import ConfigError, StartError
from reelnet.home import models_home
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done
from reelnet.operating.console import to_terminal

TRY = "to try the way without one: make gpu-bench GPU_BENCH='--tiny --device cpu --modes eager'"
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, where models lie or are made, and where the report goes."""

    cases: tuple[Case, ...]
    modes: tuple[str, ...]
    runs: int
    device: str
    models: Path
    out: Path
    tiny: bool


@cli.command(epilog="Example: python -m benchmark.gpu --only sd15,sdxl --modes compiled --runs 20")
def gpu(
    only: Annotated[str | None, typer.Option(help="Some of sd15,sdxl,svd-xt; default: all.")] = None,
    modes: Annotated[str | None, typer.Option(help="Some of eager,compiled; default: both.")] = None,
    runs: Annotated[int, typer.Option(help="Jobs that count, of each; p90 needs 10.", min=1)] = 10,
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    models: Annotated[Path | None, typer.Option(help="Folder of models; default: $REELNET_MODELS.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md and logs.")] = Path("out/gpu-bench"),
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny models instead, to try the way.")] = False,
) -> None:
    """Measures a runner of its own: seconds, rate, memory and the share of the card's rate; checks every output.

    Exit codes: 0 all runs good, 1 some failed, 2 usage, 3 no such device or no room for the models.
    """
    try:
        cases, ways = chosen(only, tiny=tiny), parse_modes(modes)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(_run(Plan(cases, ways, runs, device, models or models_home(), out, tiny)))


def _run(plan: Plan) -> int:
    results: list[Result] = []

    async def main(stopping: asyncio.Event) -> None:
        await unless_stopped(stopping, _measure_all(plan, results))

    if code := run_until_done(main):
        return code
    whole = len(results) == len(plan.cases) * len(plan.modes)
    return EXIT_DONE if whole and all(result.good for result in results) else EXIT_FAILED


async def _measure_all(plan: Plan, results: list[Result]) -> None:
    """Case by case; what is known so far is written after each, as a run on a lent card may be cut short."""
    card = await _card(plan.device)
    console.print(gpu_report.describe(card))
    plan.out.mkdir(parents=True, exist_ok=True)
    await _have_models(plan)
    for case in plan.cases:
        counted = await _flops(plan, case)
        for mode in plan.modes:
            console.print(f"{case.title}, {mode} …")
            results.append(await _result(plan, case, mode, counted))
            (plan.out / "report.json").write_text(gpu_report.to_json(card, results), "utf-8")
            (plan.out / "report.md").write_text(gpu_report.markdown(card, results), "utf-8")
    to_terminal().print(gpu_report.table(card, results))
    to_terminal().print(f"{gpu_report.NOTES}\nreports: {plan.out}/report.json, report.md")


async def _card(device: str) -> Card:
    try:
        return Card(**await tell(["card", "--device", device]))
    except StartError as error:
        raise StartError(f"{error}; {TRY}") from None


async def _have_models(plan: Plan) -> None:
    console.print(f"looking after the models in {plan.models} …")
    if plan.tiny:
        await make_models(["make-tiny", str(plan.models)])
    else:
        await make_models(["make-full", str(plan.models), "--only", ",".join(case.name for case in plan.cases)])


async def _flops(plan: Plan, case: Case) -> dict[str, int]:
    words = ["flops", str(plan.models / case.model), "--pipeline", case.pipeline]
    counted: dict[str, int] = await tell([*words, "--params", json.dumps(dict(case.params))])
    return counted


async def _result(plan: Plan, case: Case, mode: str, counted: dict[str, int]) -> Result:
    try:
        with tempfile.TemporaryDirectory(prefix="reelnet-gpu-") as place:
            return await _measured(plan, (case, mode), counted, Path(place))
    except StartError as error:
        return Result(case, mode, counted, reason=str(error))


async def _measured(plan: Plan, what: tuple[Case, str], counted: dict[str, int], place: Path) -> Result:
    case, mode = what
    settings = {"device": plan.device, "tick_s": "1"}
    if mode == COMPILED:
        settings |= {"compile": "true", "warmup": json.dumps([case.shape]), "pipelines": json.dumps([case.pipeline])}
        settings["compile_cache"] = str(place / "kernels")
    async with own_runner(place, (case.model, plan.models / case.model), settings) as runner:
        aim = Aim(PoolPlan(home=place, models=plan.models), "runner", runners=(runner.socket,))
        async with find(aim, case.request(plan.runs), case.model, console.print) as found:
            assessed = await asyncio.to_thread(assess, await measure(found, place, console))
        figures = assessed.nodes[0].figures
        total = figures.stages_s.get("total")
        p50_s, p90_s, *_ = total.quantiles if total else (Interval(None), Interval(None))
        return Result(
            case=case,
            mode=mode,
            flops=counted,
            variant=runner.variant,
            ready_s=runner.ready_s,
            memory_bytes=await runner.memory_bytes(),
            good=assessed.good,
            p50_s=p50_s,
            p90_s=p90_s,
            per_minute=figures.results_per_minute,
            report=document(assessed, version("reelnet")).model_dump(mode="json"),
        )


def main() -> None:
    """The program."""
    sys.exit(cli())


if __name__ == "__main__":
    main()

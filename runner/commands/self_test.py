"""`runner self-test`: whether this machine draws what it is known to draw."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reelnet import settings, telemetry
from reelnet.operating.console import print_json
from runner.backend import ModelInfo
from runner.commands.exit_codes import exit_codes
from runner.self_test import Finding, SelfTest
from runner.settings import RunnerSettings
from runner.toyworld import trained


def self_test(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Draws known pictures with the model that comes with the runner, and looks whether they are right.

    Exit codes: 0 all are right, 1 one is wrong or cannot be drawn, 2 usage.
    """
    with exit_codes():
        telemetry.configure("runner", "warning")
        test = SelfTest(_settings(device, dtype))
        info, findings = test.open(), list(test.ask())
        if as_json:
            print_json(_document(info, findings))
        for line in [] if as_json else _lines(info, findings):
            typer.echo(line)
        if any(finding.wrong for finding in findings):
            raise typer.Exit(1)


def _settings(device: str, dtype: str) -> RunnerSettings:
    return settings.load(RunnerSettings, None, {"model": trained.PICTURE, "device": device, "dtype": dtype})


def _lines(info: ModelInfo, findings: list[Finding]) -> list[str]:
    right = sum(not finding.wrong for finding in findings)
    rows = [f"{finding.question.prompt}: {finding.wrong or 'right'}" for finding in findings]
    return [*rows, f"{right} of {len(findings)} right on {info.device} in {info.variant}"]


def _document(info: ModelInfo, findings: list[Finding]) -> dict[str, Any]:
    return {
        "device": info.device,
        "dtype": info.variant,
        "ok": not any(finding.wrong for finding in findings),
        "answers": [
            {"prompt": each.question.prompt, "seed": each.question.seed, "right": not each.wrong, "wrong": each.wrong}
            for each in findings
        ],
    }

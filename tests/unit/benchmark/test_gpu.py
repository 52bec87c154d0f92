"""What is made of figures from a card: shares, aims, and the table in each of its forms."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from benchmark.gpu_cases import FULL, TINY, chosen, parse_modes
from benchmark.gpu_report import HEADINGS, Card, Result, cells, markdown, table, to_json
from benchmark.intervals import Interval
from reelnet.errors import ConfigError

H200 = Card("NVIDIA H200", "cuda", "580.1", 150 * 10**9, {"float16": 8e14}, {"torch": "2.14.1"})
SD = Result(
    case=FULL[0],
    mode="compiled",
    flops={"total": 80 * 10**12},
    variant="float16",
    ready_s=61.4,
    memory_bytes=5 * 10**9,
    good=True,
    p50_s=Interval(0.2),
    per_minute=Interval(290.0, 280.0, 301.0),
)


def test_the_share_is_of_the_models_own_numbers() -> None:
    """Operations a second over the rate of the format that the weights have; unknown without one of them."""
    assert SD.share(H200) == pytest.approx(0.5)
    assert replace(SD, variant="float32").share(H200) is None
    assert replace(SD, p50_s=Interval(None)).share(H200) is None


@pytest.mark.parametrize(
    ("card", "per_minute", "verdict"),
    [("NVIDIA H200", 290.0, "≥ 285 met"), ("NVIDIA H200", 284.9, "≥ 285 MISSED"), ("NVIDIA H100", 1.0, "≥ 285 (H200)")],
)
def test_an_aim_is_of_one_card(card: str, per_minute: float, verdict: str) -> None:
    """It is met or missed on that card, and only told on others."""
    assert replace(SD, per_minute=Interval(per_minute)).verdict(replace(H200, name=card)) == verdict


def test_a_failure_is_a_row_with_its_reason() -> None:
    """And no figure that looks like one."""
    row = cells(H200, Result(FULL[1], "eager", {"total": 1}, reason="does not fit\n[red]"))
    assert len(row) == len(HEADINGS)
    assert row[2].startswith("failed: does not fit")
    assert set(row[3:]) == {"–"}


def test_runs_that_went_wrong_are_told() -> None:
    """A rate of jobs of which some failed does not stand there as if all was well."""
    assert "NOT ALL GOOD" in cells(H200, replace(SD, good=False))[1]


def test_every_form_has_the_same_cells() -> None:
    """The terminal's, the page's and the program's."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table(H200, [SD]))
    shown = console.export_text()
    page = markdown(H200, [SD])
    for cell in cells(H200, SD):
        assert cell in page
        assert cell in shown
    assert page.count("|---") == len(HEADINGS)
    written = json.loads(to_json(H200, [SD]))
    assert written["results"][0]["share"] == pytest.approx(0.5)
    assert written["card"]["rates"] == {"float16": 8e14}


def test_some_can_be_chosen() -> None:
    """By the names that models and modes have; another one is named."""
    assert [case.name for case in chosen("sdxl,svd-xt", tiny=False)] == ["sdxl", "svd-xt"]
    assert chosen(None, tiny=True) == TINY
    assert parse_modes("compiled") == ("compiled",)
    with pytest.raises(ConfigError, match=r"--only: expected some of sd15,sdxl,svd-xt; found 'sd3'"):
        chosen("sd3", tiny=False)
    with pytest.raises(ConfigError, match="--modes"):
        parse_modes("fast")


@pytest.mark.parametrize("case", [*FULL, *TINY], ids=lambda case: f"{case.title}")
def test_a_case_is_a_job_that_can_be_asked_for(case: object) -> None:
    """Its size is one that the pipeline takes, and a runner can warm up."""
    from benchmark.gpu_cases import Case
    from benchmark.scenario import plan
    from runner.settings import RunnerSettings

    assert isinstance(case, Case)
    params = plan(case.request(10), case.model).params.model_dump()
    assert {name: params[name] for name in case.params} == dict(case.params)
    assert RunnerSettings(model="./m", warmup=[case.shape]).warmup_sizes[0][:2] == (case.width, case.height)

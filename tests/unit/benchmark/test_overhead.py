"""The overhead benchmark's arithmetic, tables and command line."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmark import overhead_report
from benchmark.overhead import Plan, cli, in_turn, parse_sizes
from benchmark.overhead_figures import CPU, KILO, MEGA, P50, RATE, Figure, Turn, quantile, ratio, size_name, target_of
from benchmark.overhead_load import Place, Sample
from benchmark.overhead_report import Checks, Measured
from benchmark.overhead_subjects import CONTRACT, PRODUCT, SUBJECTS, UNARY, Subject, product_plan
from benchmark.pool_plan import node_settings
from reelnet.errors import ConfigError
from reelnet.lifecycle import EXIT_USAGE


def turn(subject: str, ms: float, size: int = KILO, rate: float = 100.0) -> Turn:
    """A turn whose jobs took `ms` each, alone and together."""
    one = tuple([ms / 1e3] * 100)
    return Turn(subject, size, Sample(one, 1.0), Sample(one, len(one) / rate), {"broadcaster": 0.1, "node": 0.05})


def measured(product_ms: float = 3.0, *, others: float = 0.0, sizes: tuple[int, ...] = (KILO, MEGA)) -> Measured:
    """Two rounds in which the floors take 2 and 1 ms."""
    speeds = {PRODUCT: product_ms, CONTRACT: 2.0, UNARY: 1.0}
    turns = [turn(name, speeds[name], size) for size in sizes for _ in range(2) for name in SUBJECTS]
    checks = Checks(dict.fromkeys(sizes, 0.1), 5.0, 1_002_000)
    return Measured(tuple(turns), 2, 64, others, 2, checks)


def shown(found: Measured) -> str:
    """What a reader sees."""
    out = io.StringIO()
    overhead_report.show(found, Console(width=overhead_report.WIDTH, file=out))
    return out.getvalue()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_the_nearest_rank(share: float, expected: float) -> None:
    """Of a hundred values p50 is the fiftieth and p99 the ninety-ninth, in whatever order they come."""
    assert quantile(range(100, 0, -1), share) == expected


def test_no_values_have_no_quantile() -> None:
    """A quantile of nothing is a fault, and not zero."""
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_a_ratio_is_taken_round_by_round() -> None:
    """The median and range of each round's own ratio: a slow round slows both sides and changes nothing."""
    rounds = [(3.0, 2.0), (30.0, 10.0), (4.0, 2.0)]
    turns = [one for p, c in rounds for one in (turn(PRODUCT, p), turn(CONTRACT, c), turn(PRODUCT, 1.0, MEGA))]
    found = ratio(turns, P50, KILO, PRODUCT, CONTRACT)
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 1.5, 3.0))


def test_jobs_that_open_connections_are_served_too() -> None:
    """They are in no latency and no rate, but the servers have spent their CPU time on them."""
    one = turn(PRODUCT, 3.0)
    opened = replace(one, crowd=replace(one.crowd, opening=50))
    assert CPU.of(opened) == pytest.approx(CPU.of(one) * 100 / 150)
    assert RATE.of(opened) == RATE.of(one)


def test_a_ratio_to_nothing_is_infinite() -> None:
    """A floor whose CPU time was too short to be seen does not end the benchmark."""
    idle = replace(turn(CONTRACT, 1.0), cpu_s={"node": 0.0})
    assert ratio([turn(PRODUCT, 1.0), idle], CPU, KILO, PRODUCT, CONTRACT).median == math.inf


def test_rates_and_cpu_are_of_the_many() -> None:
    """Requests a second come from the clock of all clients, CPU from all roles together."""
    one = turn(PRODUCT, 3.0, rate=250.0)
    assert RATE.of(one) == pytest.approx(250.0)
    assert CPU.of(one) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("figure", "size", "ratio", "met"),
    [
        (P50, KILO, 1.6, True),
        (P50, KILO, 1.61, False),
        (RATE, KILO, 0.6, True),
        (RATE, KILO, 0.59, False),
        (P50, MEGA, 1.3, True),
        (P50, MEGA, 1.31, False),
    ],
)
def test_targets(figure: Figure, size: int, ratio: float, met: bool) -> None:
    """p50 at most 1.6 times, rate at least 0.6 times, 1 MB within 1.3 times the contract floor."""
    target = target_of(figure, size)
    assert target is not None
    assert target.met(ratio) is met


def test_the_table_says_what_is_met_and_what_is_missed() -> None:
    """1.5 times is enough for 1 KB and too much for 1 MB; everything fits a hundred columns."""
    text = shown(measured(3.0))
    assert [line.split()[-3] for line in text.splitlines() if "p50 at 1 " in line] == ["met", "missed"]
    assert overhead_report.missed(measured(3.0)) == ["p50 at 1, 1 MB: 1.50, ≤ 1.3 is asked"]
    assert max(map(len, text.splitlines())) <= overhead_report.WIDTH
    assert "1.00 MB takes 5.0 ms" in text


def test_a_size_that_was_not_measured_misses_nothing() -> None:
    """With `--sizes 1000` nothing is said of 1 MB."""
    assert overhead_report.missed(measured(3.0, sizes=(KILO,))) == []


@pytest.mark.parametrize(("others", "noted"), [(0.0, False), (0.05, False), (0.2, True)])
def test_a_busy_machine_is_noted(others: float, noted: bool) -> None:
    """Ratios of a machine that others used as well are called noisy."""
    assert ("noisy" in shown(measured(others=others))) is noted


def test_the_document_is_json_with_every_turn() -> None:
    """The report's file has each turn, each ratio and what was missed."""
    written = json.loads(json.dumps(overhead_report.document(measured())))
    assert len(written["turns"]) == 12
    assert written["ratios"][0]["product/contract"][P50.name] == pytest.approx([1.5, 1.5, 1.5])
    assert written["turns"][0]["cpu_ms_per_request"] == {"broadcaster": 1.0, "node": 0.5}


@pytest.mark.parametrize(("size", "name"), [(1000, "1 KB"), (1_000_000, "1 MB"), (1500, "1500 B"), (64_000, "64 KB")])
def test_sizes_have_names(size: int, name: str) -> None:
    """Round sizes are named by their unit."""
    assert size_name(size) == name


def test_every_subject_begins_in_some_round() -> None:
    """None is always the first of a round, and each has its turn in all."""
    some = tuple(Subject(name, Place("", "", 1), {}) for name in SUBJECTS)
    rounds = [[subject.name for subject in in_turn(some, number)] for number in range(3)]
    assert {names[0] for names in rounds} == set(SUBJECTS)
    assert all(sorted(names) == sorted(SUBJECTS) for names in rounds)


def test_one_client_and_large_results_get_fewer_jobs() -> None:
    """A quarter for one client, a fifth for large results, and never fewer than there are clients."""
    plan = Plan(1200, 5, (KILO, MEGA))
    assert (plan.jobs(KILO), plan.jobs(MEGA)) == ((300, 1200), (60, 240))
    assert Plan(64, 1, (MEGA,)).jobs(MEGA) == (16, 64)


def test_sizes_are_read() -> None:
    """Numbers with commas between."""
    assert parse_sizes("1000,1000000") == (1000, 1_000_000)


@pytest.mark.parametrize("text", ["", "1 KB", "999", "1000,1000", "16000001", "1000,,2000"])
def test_wrong_sizes_are_errors_that_say_what_is_expected(text: str) -> None:
    """No picture is smaller than 1000 bytes, none needs more than 16 MB here, and twice the same says nothing."""
    with pytest.raises(ConfigError, match=r"--sizes: expected distinct numbers from 1000 to 16000000"):
        parse_sizes(text)


@pytest.mark.parametrize("words", [["--sizes", "1"], ["--runs", "1"], ["--rounds", "0"], ["--json", "/nowhere/at/all"]])
def test_usage_errors_come_before_anything_is_started(words: list[str]) -> None:
    """Exit code 2, at once."""
    assert CliRunner().invoke(cli, words).exit_code == EXIT_USAGE


def test_the_products_jobs_are_no_work_and_none_is_refused(tmp_path: Path) -> None:
    """Two runners that may both work, a result that is made once, and more places than clients."""
    settings = node_settings(product_plan(tmp_path, KILO), 0)
    (model,) = settings["models"]
    assert settings["devices"] == ["cpu", "cpu"]
    assert (model["replicas"], model["queue"]) == (2, 256)
    assert model["backend"]["synthetic"]["output_bytes"] == KILO
    assert model["backend"]["synthetic"]["unit_s"] == 0.0

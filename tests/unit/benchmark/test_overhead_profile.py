"""A profile by package: whose time is whose."""

from __future__ import annotations

import io
import json
import sysconfig
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.overhead_profile import THREADS, Profile, Row, by_group, native_package, package_of, show, table
from reelnet.operating.console import PIPE_COLUMNS

SITE = sysconfig.get_path("purelib")
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("file", "package"),
    [
        (f"{SITE}/starlette/routing.py", "starlette"),
        (f"{SITE}/six.py", "six"),
        (json.__file__, "json"),
        (str(ROOT / "broadcaster/attempt.py"), "broadcaster"),
        (str(ROOT / "proto/reelnet/codec.py"), "reelnet"),
        ("<frozen abc>", "<frozen abc>"),
    ],
)
def test_a_file_belongs_to_a_package(file: str, package: str) -> None:
    """By the folder in which packages are kept: installed ones, the standard library, ours."""
    assert package_of(file) == package


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("<built-in method _json.encode_basestring_ascii>", "_json"),
        ("<method 'SerializeToString' of 'google._upb._message.Message' objects>", "google"),
        ("<method 'append' of 'list' objects>", ""),
    ],
)
def test_a_function_in_c_may_tell_its_package(name: str, package: str) -> None:
    """Where its name does not, its caller's counts."""
    assert native_package(name) == package


def test_time_in_c_is_counted_where_it_belongs() -> None:
    """A list's method is its caller's, JSON's encoder is JSON's; nothing is counted twice."""
    ours = (str(ROOT / "broadcaster/attempt.py"), 1, "run")
    listed, encode = ("~", 0, "<method 'append' of 'list' objects>"), ("~", 0, "<built-in method _json.encode>")
    rows: dict[tuple[str, int, str], Row] = {
        ours: (1, 1, 0.5, 2.0, {}),
        listed: (9, 9, 0.25, 0.25, {ours: (9, 9, 0.25, 0.25)}),
        encode: (1, 1, 0.125, 0.125, {ours: (1, 1, 0.125, 0.125)}),
    }
    assert by_group(rows) == {"reelnet": {"attempt.run": 0.75}, "json, pydantic": {"attempt.run": 0.125}}


def test_the_table_has_microseconds_a_job_and_shares_of_all() -> None:
    """Largest first, other threads and what is outside Python among the rest."""
    profile = Profile("node", 100, {"reelnet": {"attempt.run": 0.03}}, 0.01, 0.06)
    out = io.StringIO()
    Console(width=100, file=out).print(table(profile))
    rows = [line.split() for line in out.getvalue().splitlines() if "%" in line][1:]
    assert rows[0][:4] == [*THREADS.split(), "600", "60%"]
    assert rows[1] == ["reelnet", "300", "30%", "attempt.run", "300"]
    assert rows[2][-2:] == ["100", "10%"]


@pytest.mark.parametrize(("width", "whole"), [(100, False), (PIPE_COLUMNS, True)])
def test_functions_have_their_whole_names_in_a_pipe(width: int, whole: bool) -> None:
    """On a terminal the table keeps to its columns."""
    profile = Profile("node", 100, {"reelnet": {"f" * 120: 0.03}}, 0.01, 0.06)
    out = io.StringIO()
    show([profile], Console(width=width, file=out))
    assert ("f" * 120 in out.getvalue()) is whole

"""Fuzzes every edge for a while: `python -m tests.fuzz [--seconds 20] [--seed S] [EDGE …]`. Exit code 1 for a find."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.fuzz.edges import EDGES
from tests.fuzz.engine import FINDINGS, Result, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("edges", nargs="*", choices=[[], *EDGES], help="default: all of them")
    parser.add_argument("--seconds", type=float, default=20, help="for each edge")
    parser.add_argument("--findings", type=int, default=FINDINGS, help="an edge is left after so many")
    parser.add_argument("--seed", default=str(time.time_ns()), help="the same seed makes the same cases")
    asked = parser.parse_args()
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {asked.seed}")  # noqa: T201
    print(f"{'edge':10} {'cases':>8} {'seconds':>8} {'found':>6}")  # noqa: T201
    found = [name for name in asked.edges or EDGES if _report(name, asyncio.run(_run(name, asked))).found]
    return 1 if found else 0


async def _run(name: str, asked: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return await fuzz(EDGES[name], Path(folder), asked.seed, seconds=asked.seconds, findings=asked.findings)


def _report(name: str, result: Result) -> Result:
    print(f"{name:10} {result.cases:8} {result.seconds:8.1f} {len(result.found):6}", flush=True)  # noqa: T201
    for finding in result.found:
        print(finding)  # noqa: T201
    return result


if __name__ == "__main__":
    sys.exit(main())

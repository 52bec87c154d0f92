"""`make gpu-bench` on tiny models: the whole way that a card is measured, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers


def gpu_bench(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The program, with no card to be seen; what is compiled stays as it is, which takes no minutes and no compiler."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1", "CC": "cc"}
    return subprocess.run(
        [sys.executable, "-m", "benchmark.gpu", *words],
        env={**os.environ, **hidden, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


def test_a_clip_is_measured_in_both_ways(tiny_models: Path, tmp_path: Path) -> None:
    """A runner of its own for each, a row for each, and a report that holds every run."""
    words = ["--tiny", "--device", "cpu", "--only", "svd-xt", "--runs", "2"]
    done = gpu_bench(*words, "--models", str(tiny_models), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["card"]["kind"] == "cpu"
    assert report["card"]["rates"]["float32"] > 1e8
    assert [row["mode"] for row in report["results"]] == ["eager", "compiled"]
    for row in report["results"]:
        assert row["good"]
        assert 0 < row["share"] < 1
        assert row["per_minute"]["value"] > 0
        assert row["memory_bytes"] > 10**8
        assert [sample["failure"] for sample in row["report"]["samples"]] == [None] * 3
    page = (tmp_path / "out/report.md").read_text()
    assert page.count("| tiny SVD, 4 × 64², 2 steps |") == 2


def test_without_a_card_it_says_so_in_a_line(tmp_path: Path) -> None:
    """And how to try it; nothing is made."""
    done = gpu_bench("--models", str(tmp_path / "models"), "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert "torch finds no GPU here; to try the way without one" in done.stderr
    assert list(tmp_path.iterdir()) == []

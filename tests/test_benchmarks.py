"""Every benchmark runs, and prints a ratio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # the gate runs them; the product is tested elsewhere

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


def test_there_are_benchmarks():
    assert BENCHMARKS


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs_quickly_and_prints_a_ratio(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path), "--quick", "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert 0 == done.returncode, done.stderr
    assert "ratio" in done.stdout
    assert (tmp_path / "figures.json").stat().st_size

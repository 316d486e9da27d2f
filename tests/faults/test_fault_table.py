"""The rows of the fault table, each in a process of its own; ``python -m tests.faults`` prints their figures."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

from .harness import run_row
from .rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
SLACK = 20  # a busy machine must not fail the suite; the table holds the times themselves

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, forks, sends signals")


NEEDS = {"D20": ["gunicorn"], "D20b": ["celery", "redis"]}
QUICK = [row for row in ROWS if row.scenario and row.quick_s and row.number != "D67"]  # test_api_key_nowhere runs it


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.number)
def test_a_row_holds_at_quick_scale(row):
    for package in NEEDS.get(row.number, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if row.number == "D20b" and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not on PATH")

    figure = run_row(row.number, scale="quick", patience_s=row.quick_s, slack=SLACK)

    assert figure.passed, f"{row.number} {row.what}: {figure.text}"


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.scenario], ids=lambda row: row.number)
def test_a_row_holds_at_full_scale(row):
    figure = run_row(row.number, scale="full", patience_s=row.full_s, slack=1)

    print(f"{row.number} {row.what}: {figure.text}")
    assert figure.passed, f"{row.number} {row.what}: {figure.text}"


def test_every_number_has_a_row_and_every_row_a_measure_or_a_reason():
    numbers = [row.number for row in ROWS]

    assert [f"D{number:02}" for number in range(1, 81)] == [number for number in numbers if number[-1] != "b"]
    assert len(numbers) == len(set(numbers))
    for row in ROWS:
        assert 1 == bool(row.scenario) + bool(row.tests) + bool(row.missing), row


@pytest.mark.parametrize("name", [name for row in ROWS for name in row.tests])
def test_a_test_that_a_row_names_is_there(name):
    path, function = name.partition("::")[0], name.rpartition("::")[2]

    assert re.search(rf"^ *def {function}\(", (ROOT / path).read_text(), re.MULTILINE)

"""The rows of the fault table, each in a process of its own; ``python -m tests.faults`` prints their figures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from extras import needs, needs_program

from .harness import Figure, run_row
from .rows import ROWS, Row

ROOT = Path(__file__).resolve().parents[2]
SLACK = 10  # a busy machine must not fail the suite; the table holds the times themselves
AT_ONCE = 3  # most of a row is waiting

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, forks, sends signals")


PACKAGES = {"D20": ["gunicorn"], "D20b": ["celery", "redis"]}
PROGRAMS = {"D20b": ["redis-server"], "D37": ["openssl"]}
ALWAYS = ("D25",)  # in the quick suite too, so that the table cannot break unnoticed
QUICK = [
    pytest.param(row, id=row.number, marks=() if row.number in ALWAYS else pytest.mark.gate)
    for row in ROWS
    if row.scenario and row.quick_s and row.number != "D67"  # test_api_key_nowhere runs it
]


def its_needs(row: Row) -> None:
    """Skip the test if what *row* needs is missing."""
    for package in PACKAGES.get(row.number, ()):
        needs(package)
    for program in PROGRAMS.get(row.number, ()):
        needs_program(program)


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Figure]]]:
    """Measure the rows whose tests were selected, a few at once and in their order."""
    name = test_a_row_holds_at_quick_scale.__name__
    chosen = [item.callspec.params["row"] for item in request.session.items if item.name.startswith(name)]
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {
        row.number: pool.submit(run_row, row.number, scale="quick", patience_s=row.quick_s, slack=SLACK)
        for row in chosen
    }
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("row", QUICK)
def test_a_row_holds_at_quick_scale(row, figures):
    its_needs(row)

    figure = figures[row.number].result(AT_ONCE * len(figures) * row.quick_s)

    assert figure.passed, f"{row.number} {row.what}: {figure.text}"


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.scenario], ids=lambda row: row.number)
def test_a_row_holds_at_full_scale(row):
    its_needs(row)

    figure = run_row(row.number, scale="full", patience_s=row.full_s, slack=1)

    print(f"{row.number} {row.what}: {figure.text}")
    assert figure.passed, f"{row.number} {row.what}: {figure.text}"


def test_every_number_has_a_row_and_every_row_a_measure_or_a_reason():
    numbers = [row.number for row in ROWS]

    assert [f"D{number:02}" for number in range(1, 99)] == [number for number in numbers if number[-1] != "b"]
    assert len(numbers) == len(set(numbers))
    for row in ROWS:
        assert 1 == bool(row.scenario) + bool(row.tests) + bool(row.missing), row


@pytest.mark.parametrize("name", [name for row in ROWS for name in row.tests])
def test_a_test_that_a_row_names_is_there(name):
    path, function = name.partition("::")[0], name.rpartition("::")[2]

    assert re.search(rf"^ *def {function}\(", (ROOT / path).read_text(), re.MULTILINE)

"""``groq-queue run --limiter``: several runs under one budget, and what becomes of a run whose limiter is away."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from extras import needs

from groq_queue.simulator import GroqSimulator

from .conftest import Command, batch, run_process

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


def test_runs_with_one_limiter_never_spend_more_than_the_limit_together(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    The second one, in another process, begins with what the first has left of the day, of which the server knows
    nothing; without a limiter it would believe that it is alone.
    """
    simulator = simulate()
    lines = write(*[batch(name) for name in "abcd"])
    options = ("--base-url", simulator.base_url, "--rpd", 5, "--limiter", f"sqlite:///{tmp_path}/b.db")

    first, second = (run("run", lines, *options) for run in (run_process, command))

    assert (0, 4) == (first.code, second.code), (first, second)
    assert (4, 1) == (len(first.lines), len(second.lines))
    assert 5 == simulator.stats().received


@pytest.mark.parametrize(
    ("limiter", "code", "said"),
    [
        ("sqlite:///nowhere/b.db", 2, "nowhere does not exist; create it first"),
        ("sqlite:///", 3, "limiter='sqlite:///'"),
        ("somewhere", 3, "limiter='somewhere': use "),
    ],
)
def test_a_limiter_that_cannot_be_used_is_told_before_anything_is_sent(
    limiter: str, code: int, said: str, simulate: Simulate, command: Command, write: Write
) -> None:
    simulator = simulate()

    ran = command("run", write(batch("a")), "--base-url", simulator.base_url, "--limiter", limiter)

    assert code == ran.code
    assert said in ran.err
    assert 0 == simulator.stats().received


def test_a_limiter_that_is_away_stops_the_run_if_so_asked(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    Its lines are not failures: they are sent when the same command is given again.
    """
    needs("redis")
    simulator = simulate()
    output = tmp_path / "out.jsonl"
    asked = ("run", write(batch("a"), batch("b")), "--base-url", simulator.base_url, "-o", output, "--resume")

    stopped = command(*asked, "--limiter", "redis://127.0.0.1:1/0", "--on-outage", "raise")
    again = command(*asked)

    assert 2 == stopped.code
    assert "groq-queue: stopped: no shared budget from redis://127.0.0.1:1/0" in stopped.err
    assert "2 lines; to continue, run the same command" in stopped.err
    assert (0, 2) == (again.code, len(output.read_text().splitlines()))
    assert 2 == simulator.stats().received


def test_a_limiter_that_needs_a_package_ends_with_3_and_names_the_extra(
    simulate: Simulate, command: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)

    ran = command("run", write(batch("a")), "--base-url", simulate().base_url, "--limiter", "redis://127.0.0.1:1/0")

    assert 3 == ran.code
    assert "pip install 'redis>=5'" in ran.err

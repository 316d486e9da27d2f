"""Real processes that share a real file, in front of a simulator that sees what each of them sends."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fleet import PLACES, Fleet, Place, highest_level, utilisation

from groq_queue import GroqSimulator
from groq_queue.limiters.store import LEASE_S

PATIENCE_S = 60.0
HOUR_S = 3_600.0


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](request.getfixturevalue("redis_server") if request.param == "redis" else tmp_path)


def run_fleet(
    url: str, processes: int, limits: dict[str, Any], seconds: float, latency: tuple[float, float], each: Any = None
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Have *processes* spend for *seconds*; return what the simulator logged and what they say."""
    with GroqSimulator(**limits, latency=latency, output=(0.1, 1.0), seed=3) as groq:
        told = {"base_url": groq.base_url, "limits": limits, "limiter": url, "seconds": seconds, "tokens": (200, 980)}
        with Fleet(processes, told, each) as fleet:
            fleet.go()
            figures = fleet.figures(seconds + PATIENCE_S)
        return list(groq.log), figures


def assert_at_the_limit_and_never_over(
    records: list[Any], limits: dict[str, Any], seconds: float, least: float
) -> None:
    admitted = [each for each in records if each.status == 200]
    assert len(records) == len(admitted), "the server refused some"
    assert highest_level(admitted, limits["tpm"], limits["minute_s"], counts_requests=False) <= limits["tpm"]
    assert highest_level(admitted, limits["rpm"], limits["minute_s"], counts_requests=True) <= limits["rpm"]
    share = utilisation(admitted, limits["tpm"], limits["minute_s"], seconds)
    print(f"utilisation {share:.4f}, {len(admitted)} requests, 0 refused")
    assert share >= least


@pytest.mark.parametrize(
    ("processes", "minute_s", "least"), [(2, 0.5, 0.3), pytest.param(4, 5.0, 0.75, marks=pytest.mark.gate)]
)
def test_processes_share_one_budget_without_a_refusal(
    place: Place, processes: int, minute_s: float, least: float
) -> None:
    """
    Their wall clocks differ by hours, which changes nothing.
    """
    limits = {"rpm": 600, "tpm": 20_000, "rpd": 100_000, "tpd": 10_000_000, "minute_s": minute_s}
    shifts = [{"shift_s": shift_s} for shift_s in (HOUR_S, -HOUR_S, 0, 0)]

    records, figures = run_fleet(place.url, processes, limits, minute_s, (0.01, 0.05), each=shifts)

    assert_at_the_limit_and_never_over(records, limits, minute_s, least)
    assert [0] * processes == [each["refused"] + each["failed"] for each in figures]
    assert len(records) == sum(each["completed"] for each in figures)
    assert all(each["completed"] for each in figures)


def test_what_is_counted_for_the_day_outlives_every_process(place: Place) -> None:
    """
    It is what was sent, no more: denied tries burn no request.
    """
    limits = {"rpm": 600, "tpm": 4_000, "rpd": 1_000, "minute_s": 0.5, "day_s": 1e6}

    records, _ = run_fleet(place.url, 2, limits, 0.5, (0.01, 0.05))

    assert 4 < len(records)
    assert len(records) == {level.dimension: level.used for level in place.status().levels}["RPD"]


@pytest.mark.slow
def test_eight_processes_of_four_threads_use_the_whole_budget(place: Place) -> None:
    """
    Real minutes at 600 RPM and 60,000 TPM, real use 10-100 % of the allowance.
    """
    limits = {"rpm": 600, "tpm": 60_000, "rpd": 100_000, "tpd": 10_000_000, "minute_s": 60.0}

    records, figures = run_fleet(place.url, 8, limits, 60.0, (0.05, 0.3))

    assert_at_the_limit_and_never_over(records, limits, 60.0, 0.97)
    assert [0] * 8 == [each["refused"] + each["failed"] for each in figures]


@pytest.mark.gate
def test_the_others_go_on_when_the_best_are_killed(place: Place) -> None:
    """
    1. One process holds the whole budget with three requests under way, one of CRITICAL priority waits first.
    2. Both are killed; a third one waits behind.
    3. What they held is charged when they are taken for dead, drains, and the third one's request is sent.
    """
    limits = {"tpm": 6_000, "minute_s": 2.0}
    with GroqSimulator(**limits, latency=lambda rng: PATIENCE_S * 2) as groq:
        orders = {"base_url": groq.base_url, "limits": limits, "limiter": place.url}
        each = [{"count": 3}, {"count": 1, "priority": "critical"}, {"count": 1}]
        with Fleet(3, {**orders, "tokens": (1_950, 1_950)}, each) as fleet:
            fleet.go(0)
            assert groq.wait_for_requests(3, PATIENCE_S)
            fleet.go(1, 2)
            wait_for_waiters(place, 2)
            before = len(groq.log)

            killed_s = time.monotonic()
            fleet.kill(0)
            fleet.kill(1)
            went_on = groq.wait_for_requests(4, PATIENCE_S)
            took_s = time.monotonic() - killed_s

    print(f"went on {took_s:.2f} s after the kill; heart-beat {LEASE_S:.0f} s")
    assert (3, True) == (before, went_on)
    assert [200] * 4 == [each.status for each in groq.log]


def wait_for_waiters(place: Place, count: int) -> None:
    """Return when that many claims stand in line."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_S * 20)):
        if place.waiting() == count:
            return
        pause.wait(0.05)
    raise AssertionError(f"never {count} in line")

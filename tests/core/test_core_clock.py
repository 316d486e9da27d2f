"""The one clock, real and fake."""

from __future__ import annotations

import threading
import time

import pytest
from freezegun import freeze_time

from groq_queue.clock import FakeClock, SystemClock

SECOND = 1_000_000_000
PATIENCE_S = 10.0


def test_the_system_clock_goes_on_while_freezegun_holds_the_others() -> None:
    clock = SystemClock()
    with freeze_time("2026-01-01"):
        frozen = time.monotonic()
        before = clock.now_ns()
        for _ in range(1_000_000):
            if clock.now_ns() > before:
                break

        assert frozen == time.monotonic()
        assert before < clock.now_ns()


def test_a_system_clock_made_while_time_is_frozen_goes_too() -> None:
    with freeze_time("2026-01-01"):
        clock = SystemClock()
        before = clock.now_ns()

        assert any(clock.now_ns() > before for _ in range(1_000_000))


def test_the_wall_clock_is_the_one_that_can_be_frozen() -> None:
    with freeze_time("2026-01-01"):
        assert 1_767_225_600.0 == SystemClock().wall_s()


def test_instants_are_whole_nanoseconds_and_never_step_back() -> None:
    clock = SystemClock()

    instants = [clock.now_ns() for _ in range(1_000)]

    assert all(isinstance(instant, int) for instant in instants)
    assert instants == sorted(instants)


@pytest.mark.parametrize("name", ["CLOCK_BOOTTIME", "CLOCK_MONOTONIC"])
def test_a_platform_without_a_clock_uses_the_next(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, name, raising=False)

    assert 0 < SystemClock().now_ns()


def test_a_platform_that_names_a_clock_it_does_not_have_uses_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(clock_id: int) -> int:
        raise OSError("no such clock")

    monkeypatch.setattr(time, "clock_gettime_ns", missing)

    assert 0 < SystemClock().now_ns()


def test_a_wait_for_the_past_returns_at_once() -> None:
    clock, condition = SystemClock(), threading.Condition()
    with condition:
        clock.wait(condition, clock.now_ns() - 1)
        clock.wait(condition, clock.now_ns() + 1_000)


def test_a_long_wait_is_cut_so_that_a_resumed_machine_looks_again() -> None:
    class Watched(threading.Condition):
        timeouts: list[float | None] = []  # noqa: RUF012

        def wait(self, timeout: float | None = None) -> bool:
            self.timeouts.append(timeout)
            return False

    clock, condition = SystemClock(), Watched()
    with condition:
        clock.wait(condition, clock.now_ns() + 86_400 * SECOND)
        clock.wait(condition, None)

    assert [30.0, None] == condition.timeouts


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(5 * SECOND)

    before = clock.now_ns(), clock.now_ns()
    clock.advance(1.5)

    assert (5 * SECOND, 5 * SECOND) == before
    assert 6_500_000_000 == clock.now_ns()
    assert 6.5 == clock.wall_s()


def test_a_fake_clock_wakes_whoever_is_due_and_nobody_else() -> None:
    clock = FakeClock(0)
    woken: list[str] = []
    waits = threading.Semaphore(0)
    conditions = [threading.Condition(), threading.Condition()]

    def wait_until(name: str, condition: threading.Condition, until_ns: int) -> None:
        with condition:
            waits.release()
            while clock.now_ns() < until_ns:
                clock.wait(condition, until_ns)
            woken.append(name)

    early = threading.Thread(target=wait_until, args=("early", conditions[0], SECOND))
    late = threading.Thread(target=wait_until, args=("late", conditions[1], 3 * SECOND))
    for thread in (early, late):
        thread.start()
        assert waits.acquire(timeout=PATIENCE_S)
    for condition in conditions:
        with condition:
            pass  # both have let go of their locks, so both are waiting

    clock.advance(1)
    early.join(PATIENCE_S)
    after_one = list(woken)
    clock.advance(2)
    late.join(PATIENCE_S)

    assert ["early"] == after_one
    assert ["early", "late"] == woken


def test_a_fake_clock_does_not_wait_for_the_past() -> None:
    clock, condition = FakeClock(5), threading.Condition()

    with condition:
        clock.wait(condition, 5)
        clock.wait(condition, 4)

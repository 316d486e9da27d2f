"""The one clock, real and fake."""

from __future__ import annotations

import runpy
import threading
import time

import pytest
from freezegun import freeze_time

from groq_queue import clock as clock_module
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


BOOT, STEADY = 7_001, 7_002


@pytest.mark.parametrize(
    ("has", "works", "shown"),
    [
        ({"CLOCK_BOOTTIME": BOOT, "CLOCK_MONOTONIC": STEADY}, {BOOT, STEADY}, BOOT),
        ({"CLOCK_MONOTONIC": STEADY}, {STEADY}, STEADY),
        ({"CLOCK_BOOTTIME": BOOT, "CLOCK_MONOTONIC": STEADY}, {STEADY}, STEADY),
        ({"CLOCK_BOOTTIME": BOOT, "CLOCK_MONOTONIC": STEADY}, set(), 7_003),
        ({}, set(), 7_003),
    ],
    ids=["both", "no boot time", "boot time in name only", "both in name only", "none"],
)
def test_a_platform_without_a_clock_uses_the_next(
    has: dict[str, int], works: set[int], shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The best goes on while the machine sleeps, the next is steady, and ``monotonic_ns`` is everywhere.
    """

    def read(clock_id: int) -> int:
        if clock_id not in works:
            raise OSError("no such clock")
        return clock_id

    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        monkeypatch.delattr(time, name, raising=False)
    for name, clock_id in has.items():
        monkeypatch.setattr(time, name, clock_id, raising=False)
    monkeypatch.setattr(time, "clock_gettime_ns", read, raising=False)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7_003)

    namespace = runpy.run_path(clock_module.__file__)  # the platform is looked at once, when the module is loaded

    assert shown == namespace["SystemClock"]().now_ns()


class Watched(threading.Condition):
    """A condition on which nobody waits: it notes who would, and who is notified."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []
        self.notified = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.timeouts.append(timeout)
        return False

    def notify_all(self) -> None:
        self.notified += 1


def test_nobody_waits_for_the_past() -> None:
    clock, condition = SystemClock(), Watched()
    with condition:
        for until_ns in (0, clock.now_ns() - 1, clock.now_ns()):
            clock.wait(condition, until_ns)

    assert [] == condition.timeouts


def test_a_wait_ends_at_its_instant() -> None:
    clock, condition = SystemClock(), Watched()
    before_ns = clock.now_ns()
    with condition:
        clock.wait(condition, before_ns + 20 * SECOND)
    took_s = (clock.now_ns() - before_ns) / SECOND

    [timeout] = condition.timeouts
    assert timeout is not None
    assert 20 - took_s <= timeout <= 20


def test_a_long_wait_is_cut_so_that_a_resumed_machine_looks_again() -> None:
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
    clock, condition = FakeClock(5), Watched()

    with condition:
        clock.wait(condition, 5)
        clock.wait(condition, 4)

    assert [] == condition.timeouts


def test_a_fake_clock_notifies_each_once_when_its_instant_comes_and_not_before() -> None:
    clock = FakeClock(0)
    conditions = [Watched() for _ in range(4)]
    for condition, until_ns in zip(conditions, (3 * SECOND, SECOND, 3 * SECOND + 1, None), strict=True):
        with condition:
            clock.wait(condition, until_ns)

    notified = []
    for seconds in (0.999_999_999, 0.000_000_001, 2, 7):
        clock.advance(seconds)
        notified.append([condition.notified for condition in conditions])

    assert [[None]] * 4 == [condition.timeouts for condition in conditions]
    assert [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]] == notified


def test_a_fake_clock_tells_whether_an_instant_is_awaited() -> None:
    clock, condition = FakeClock(0), Watched()
    with condition:
        clock.wait(condition, 3 * SECOND)

    before = [clock.is_awaited(seconds) for seconds in (2, 3, 4)]
    clock.advance(1)
    after = [clock.is_awaited(seconds) for seconds in (2, 3)]
    clock.advance(2)

    assert [False, True, False] == before
    assert [True, False] == after
    assert not clock.is_awaited(0)

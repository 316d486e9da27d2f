"""The courier runs an errand when stirred or due, on one thread, and finishes it once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from waiting import wait_until

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.engine.background import BackgroundTask

PATIENCE_S = 10.0


class Errand:
    """Counts its runs; ``answer`` says when the next is due."""

    def __init__(self, answer: Callable[[int], int | None] = lambda run: None) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self.runs = 0
        self.finished = 0
        self.threads: set[int] = set()

    def run(self) -> int | None:
        with self._changed:
            self.runs += 1
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
        return self._answer(self.runs)

    def finish(self) -> None:
        with self._changed:
            self.finished += 1
            self._changed.notify_all()

    def wait_for(self, runs: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.runs >= runs, PATIENCE_S)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def hired(clock: FakeClock) -> Iterator[Callable[[Errand], BackgroundTask]]:
    couriers: list[BackgroundTask] = []

    def hire(task: Errand) -> BackgroundTask:
        couriers.append(BackgroundTask(task, clock, "courier"))
        return couriers[-1]

    yield hire
    for courier in couriers:
        courier.close(PATIENCE_S)


def test_nothing_runs_until_stirred(hired: Callable[[Errand], BackgroundTask]) -> None:
    task = Errand()
    courier = hired(task)
    courier.start()
    before = task.runs

    courier.wake()
    task.wait_for(1)

    assert 0 == before


def test_a_stir_before_the_start_is_not_lost(hired: Callable[[Errand], BackgroundTask]) -> None:
    task = Errand()
    courier = hired(task)

    courier.wake()
    courier.start()

    task.wait_for(1)


def test_a_stir_while_it_runs_makes_it_run_again(hired: Callable[[Errand], BackgroundTask]) -> None:
    courier: list[BackgroundTask] = []

    def stir_once(run: int) -> None:
        if run == 1:
            courier[0].wake()

    task = Errand(stir_once)
    courier.append(hired(task))
    courier[0].start()
    courier[0].wake()

    task.wait_for(2)


def test_it_runs_again_when_due(hired: Callable[[Errand], BackgroundTask], clock: FakeClock) -> None:
    due_ns = clock.now_ns() + 5 * NS_PER_S
    task = Errand(lambda run: due_ns if run == 1 else None)
    courier = hired(task)
    courier.start()
    courier.wake()
    task.wait_for(1)
    wait_until(lambda: clock.is_awaited(5))

    clock.advance(5)

    task.wait_for(2)


def test_a_broken_run_is_logged_and_tried_again(
    hired: Callable[[Errand], BackgroundTask], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def break_once(run: int) -> None:
        if run == 1:
            raise ValueError("broken")

    task = Errand(break_once)
    courier = hired(task)
    courier.start()
    courier.wake()
    task.wait_for(1)
    courier.wake()
    task.wait_for(2)

    assert "an errand of courier failed" in caplog.text


@pytest.mark.parametrize("starts", [True, False])
def test_it_finishes_once_whether_or_not_it_ever_ran(hired: Callable[[Errand], BackgroundTask], starts: bool) -> None:
    task = Errand()
    courier = hired(task)
    if starts:
        courier.start()

    courier.close(PATIENCE_S)
    courier.close(PATIENCE_S)
    courier.start()
    courier.wake()

    assert (1, 0) == (task.finished, task.runs)


def test_all_runs_are_on_one_thread_of_its_own(hired: Callable[[Errand], BackgroundTask]) -> None:
    task = Errand()
    courier = hired(task)
    for _ in range(3):
        courier.start()
    for run in (1, 2, 3):
        courier.wake()
        task.wait_for(run)

    assert 1 == len(task.threads)
    assert threading.get_ident() not in task.threads


def wait_until_it_rests(courier: BackgroundTask) -> None:
    """Return when its thread waits, and was not notified."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / 0.0005)):
        with courier._changed:
            if courier._changed._waiters:  # type: ignore[attr-defined]
                return
        pause.wait(0.0005)
    raise AssertionError("it does not come to rest")


def test_one_stir_is_one_run(hired: Callable[[Errand], BackgroundTask]) -> None:
    task = Errand()
    courier = hired(task)
    courier.start()
    courier.wake()
    task.wait_for(1)

    wait_until_it_rests(courier)

    assert 1 == task.runs


def test_it_does_not_run_before_it_is_due(hired: Callable[[Errand], BackgroundTask], clock: FakeClock) -> None:
    due_ns = clock.now_ns() + 5 * NS_PER_S
    task = Errand(lambda run: due_ns if run == 1 else None)
    courier = hired(task)
    courier.start()
    courier.wake()
    task.wait_for(1)
    wait_until_it_rests(courier)

    clock.advance(4.9)
    with courier._changed:
        courier._changed.notify_all()  # a wake-up that means nothing
    wait_until_it_rests(courier)

    assert 1 == task.runs
    clock.advance(0.1)
    task.wait_for(2)


def test_a_run_that_is_due_already_comes_at_once(hired: Callable[[Errand], BackgroundTask], clock: FakeClock) -> None:
    task = Errand(lambda run: clock.now_ns() if run < 3 else None)
    courier = hired(task)
    courier.start()
    courier.wake()

    task.wait_for(3)


def test_a_broken_run_is_tried_again_in_a_second(
    hired: Callable[[Errand], BackgroundTask], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def break_once(run: int) -> None:
        if run == 1:
            raise ValueError("broken")

    task = Errand(break_once)
    courier = hired(task)
    courier.start()
    courier.wake()
    task.wait_for(1)
    wait_until_it_rests(courier)
    assert clock.is_awaited(1)

    clock.advance(1)

    task.wait_for(2)
    assert ["errand_failed"] == [record.groq_queue_event for record in caplog.records]  # type: ignore[attr-defined]


def test_its_thread_is_a_daemon_of_its_name_and_ends_with_it(hired: Callable[[Errand], BackgroundTask]) -> None:
    courier = hired(Errand())
    courier.start()
    thread = courier._thread
    assert thread is not None
    assert ("courier", True, True) == (thread.name, thread.daemon, thread.is_alive())

    courier.close(PATIENCE_S)

    assert not thread.is_alive()


def test_closing_waits_no_longer_than_allowed(hired: Callable[[Errand], BackgroundTask]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def linger(run: int) -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    task = Errand(linger)
    courier = hired(task)
    courier.start()
    courier.wake()
    assert entered.wait(PATIENCE_S)

    courier.close(0.001)

    assert 0 == task.finished
    leave.set()
    courier.close(PATIENCE_S)
    assert 1 == task.finished


def test_an_errand_may_close_its_own_courier(
    hired: Callable[[Errand], BackgroundTask], caplog: pytest.LogCaptureFixture
) -> None:
    courier: list[BackgroundTask] = []

    def close(run: int) -> None:
        courier[0].close(PATIENCE_S)

    task = Errand(close)
    courier.append(hired(task))
    courier[0].start()
    courier[0].wake()

    task.wait_for(1)
    courier[0].close(PATIENCE_S)
    assert (1, 1) == (task.runs, task.finished)
    assert [] == caplog.records, "it does not wait for itself"

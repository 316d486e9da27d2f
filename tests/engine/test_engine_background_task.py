"""A background task runs when it is woken or due, on one thread, and is finished once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from waiting import wait_until

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.engine.background import BackgroundTask

PATIENCE_S = 10.0


class CountedTask:
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
def make_task(clock: FakeClock) -> Iterator[Callable[[CountedTask], BackgroundTask]]:
    made: list[BackgroundTask] = []

    def make(task: CountedTask) -> BackgroundTask:
        made.append(BackgroundTask(task, clock, "background_task"))
        return made[-1]

    yield make
    for background_task in made:
        background_task.close(PATIENCE_S)


def test_nothing_runs_until_woken(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    task = CountedTask()
    background_task = make_task(task)
    background_task.start()
    before = task.runs

    background_task.wake()
    task.wait_for(1)

    assert 0 == before


def test_a_wake_up_before_the_start_is_not_lost(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    task = CountedTask()
    background_task = make_task(task)

    background_task.wake()
    background_task.start()

    task.wait_for(1)


def test_a_wake_up_while_it_runs_makes_it_run_again(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    background_task: list[BackgroundTask] = []

    def wake_once(run: int) -> None:
        if run == 1:
            background_task[0].wake()

    task = CountedTask(wake_once)
    background_task.append(make_task(task))
    background_task[0].start()
    background_task[0].wake()

    task.wait_for(2)


def test_it_runs_again_when_due(make_task: Callable[[CountedTask], BackgroundTask], clock: FakeClock) -> None:
    due_ns = clock.now_ns() + 5 * NS_PER_S
    task = CountedTask(lambda run: due_ns if run == 1 else None)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    task.wait_for(1)
    wait_until(lambda: clock.is_awaited(5))

    clock.advance(5)

    task.wait_for(2)


def test_a_broken_run_is_logged_and_tried_again(
    make_task: Callable[[CountedTask], BackgroundTask], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def break_once(run: int) -> None:
        if run == 1:
            raise ValueError("broken")

    task = CountedTask(break_once)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    task.wait_for(1)
    background_task.wake()
    task.wait_for(2)

    assert "a background task of background_task failed" in caplog.text


@pytest.mark.parametrize("starts", [True, False])
def test_it_finishes_once_whether_or_not_it_ever_ran(
    make_task: Callable[[CountedTask], BackgroundTask], starts: bool
) -> None:
    task = CountedTask()
    background_task = make_task(task)
    if starts:
        background_task.start()

    background_task.close(PATIENCE_S)
    background_task.close(PATIENCE_S)
    background_task.start()
    background_task.wake()

    assert (1, 0) == (task.finished, task.runs)


def test_all_runs_are_on_one_thread_of_its_own(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    task = CountedTask()
    background_task = make_task(task)
    for _ in range(3):
        background_task.start()
    for run in (1, 2, 3):
        background_task.wake()
        task.wait_for(run)

    assert 1 == len(task.threads)
    assert threading.get_ident() not in task.threads


def wait_until_it_rests(background_task: BackgroundTask) -> None:
    """Return when its thread waits, and was not notified."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / 0.0005)):
        with background_task._changed:
            if background_task._changed._waiters:  # type: ignore[attr-defined]
                return
        pause.wait(0.0005)
    raise AssertionError("it does not come to rest")


def test_one_wake_up_is_one_run(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    task = CountedTask()
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    task.wait_for(1)

    wait_until_it_rests(background_task)

    assert 1 == task.runs


def test_it_does_not_run_before_it_is_due(make_task: Callable[[CountedTask], BackgroundTask], clock: FakeClock) -> None:
    due_ns = clock.now_ns() + 5 * NS_PER_S
    task = CountedTask(lambda run: due_ns if run == 1 else None)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    task.wait_for(1)
    wait_until_it_rests(background_task)

    clock.advance(4.9)
    with background_task._changed:
        background_task._changed.notify_all()  # a wake-up that means nothing
    wait_until_it_rests(background_task)

    assert 1 == task.runs
    clock.advance(0.1)
    task.wait_for(2)


def test_a_run_that_is_due_already_comes_at_once(
    make_task: Callable[[CountedTask], BackgroundTask], clock: FakeClock
) -> None:
    task = CountedTask(lambda run: clock.now_ns() if run < 3 else None)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()

    task.wait_for(3)


def test_a_broken_run_is_tried_again_in_a_second(
    make_task: Callable[[CountedTask], BackgroundTask], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def break_once(run: int) -> None:
        if run == 1:
            raise ValueError("broken")

    task = CountedTask(break_once)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    task.wait_for(1)
    wait_until_it_rests(background_task)
    assert clock.is_awaited(1)

    clock.advance(1)

    task.wait_for(2)
    assert ["errand_failed"] == [record.groq_queue_event for record in caplog.records]  # type: ignore[attr-defined]


def test_its_thread_is_a_daemon_of_its_name_and_ends_with_it(
    make_task: Callable[[CountedTask], BackgroundTask],
) -> None:
    background_task = make_task(CountedTask())
    background_task.start()
    thread = background_task._thread
    assert thread is not None
    assert ("background_task", True, True) == (thread.name, thread.daemon, thread.is_alive())

    background_task.close(PATIENCE_S)

    assert not thread.is_alive()


def test_closing_waits_no_longer_than_allowed(make_task: Callable[[CountedTask], BackgroundTask]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def linger(run: int) -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    task = CountedTask(linger)
    background_task = make_task(task)
    background_task.start()
    background_task.wake()
    assert entered.wait(PATIENCE_S)

    background_task.close(0.001)

    assert 0 == task.finished
    leave.set()
    background_task.close(PATIENCE_S)
    assert 1 == task.finished


def test_a_task_may_close_its_own_thread(
    make_task: Callable[[CountedTask], BackgroundTask], caplog: pytest.LogCaptureFixture
) -> None:
    background_task: list[BackgroundTask] = []

    def close(run: int) -> None:
        background_task[0].close(PATIENCE_S)

    task = CountedTask(close)
    background_task.append(make_task(task))
    background_task[0].start()
    background_task[0].wake()

    task.wait_for(1)
    background_task[0].close(PATIENCE_S)
    assert (1, 1) == (task.runs, task.finished)
    assert [] == caplog.records, "it does not wait for itself"

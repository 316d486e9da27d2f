"""Whatever a background task or the clock raises, the thread that runs it goes on, and says so once."""

from __future__ import annotations

import threading

import pytest
from waiting import wait_until

from groq_queue.clock import FakeClock
from groq_queue.engine import background as room
from groq_queue.engine.background import BackgroundTask

PATIENCE_S = 10.0
ERRORS = [ValueError("a bug"), MemoryError(), SystemExit(3), KeyboardInterrupt()]


class FailingTask:
    def __init__(self):
        self.errors = []
        self.runs = threading.Semaphore(0)
        self.has_finished = threading.Event()

    def run(self):
        if self.errors:
            raise self.errors.pop(0)
        self.runs.release()

    def finish(self):
        self.has_finished.set()


class Clock(FakeClock):
    def __init__(self):
        super().__init__()
        self.errors = []

    def wait(self, condition, until_ns):
        if self.errors:
            raise self.errors.pop(0)
        super().wait(condition, until_ns)

    def now_ns(self):
        if self.errors:
            raise self.errors.pop(0)
        return super().now_ns()


@pytest.fixture
def parts():
    task, clock = FailingTask(), Clock()
    background_task = BackgroundTask(task, clock, "background_task")
    yield background_task, task, clock
    background_task.close(PATIENCE_S)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_task_that_raises_is_run_again_by_the_same_thread(parts, caplog, error):
    background_task, task, clock = parts
    task.errors = [error] * 3
    background_task.start()
    background_task.wake()
    for left in (2, 1, 0):
        wait_until(lambda left=left: len(task.errors) == left and clock.is_awaited(1))
        clock.advance(1)

    assert task.runs.acquire(timeout=PATIENCE_S)
    assert 1 == len(caplog.records)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_clock_that_raises_while_it_waits_and_while_that_is_told_costs_no_run(parts, caplog, monkeypatch, error):
    monkeypatch.setattr(room, "_AFTER_FAILURE_S", 0.01)
    background_task, task, clock = parts
    clock.errors = [error] * 3
    background_task.start()
    background_task.wake()

    assert task.runs.acquire(timeout=PATIENCE_S)
    wait_until(lambda: not clock.errors)
    background_task.wake()
    assert task.runs.acquire(timeout=PATIENCE_S)
    assert {"errand_failed"} == {record.groq_queue_event for record in caplog.records}


def test_a_task_that_raises_once_more_after_it_went_well_is_told_again(parts, caplog):
    background_task, task, _ = parts
    background_task.start()
    for told in (1, 2):
        task.errors = [ValueError("a bug")]
        background_task.wake()
        wait_until(lambda told=told: told == len(caplog.records))
        background_task.wake()
        assert task.runs.acquire(timeout=PATIENCE_S)


def test_an_end_that_raises_is_told(caplog):
    task = FailingTask()
    task.finish = lambda: (_ for _ in ()).throw(MemoryError())
    background_task = BackgroundTask(task, FakeClock(), "background_task")
    background_task.start()

    background_task.close(PATIENCE_S)

    assert ["the last run of a background task of background_task failed: a bug"] == caplog.messages

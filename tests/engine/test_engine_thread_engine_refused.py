"""A thread that the system refuses, once or for good, costs no request its end."""

from __future__ import annotations

import threading

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.limits import Limits
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import BackgroundTask, Timers
from groq_queue.errors import APIConnectionError, GroqQueueError, QueueTimeout

PATIENCE_S = 10.0


@pytest.fixture
def refuse(monkeypatch):
    """Let the system refuse threads whose names end so, as often as told."""
    start = threading.Thread.start
    left = {}

    def may_start(self):
        for ending, times in left.items():
            if self.name.endswith(ending) and times > 0:
                left[ending] = times - 1
                raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", may_start)
    return left.update


def test_a_timer_thread_refused_once_is_asked_for_again_by_the_next_timer(refuse):
    refuse({"-timers": 1})
    clock, called = FakeClock(), threading.Event()
    timers = Timers(clock, "once")
    timers.after(5, called.set)
    timers.after(60, lambda: None)

    clock.advance(6)

    assert called.wait(PATIENCE_S)
    timers.close(wait=True)


def test_without_a_timer_thread_what_is_due_is_called_by_whoever_asks(refuse):
    refuse({"-timers": 1_000})
    clock, called = FakeClock(), []
    timers = Timers(clock, "never")
    timers.after(5, lambda: called.append("five"))
    timers.after(7, lambda: called.append("seven"))
    call_off = timers.after(1, lambda: called.append("called off"))
    call_off()

    timers.run_due()
    before = list(called)
    due_ns = timers.due_without_thread_ns()
    clock.advance(6)
    timers.run_due()

    assert [] == before
    assert due_ns is not None
    assert ["five"] == called
    timers.close(wait=True)
    assert timers.due_without_thread_ns() is None


def test_while_the_thread_runs_nobody_else_calls_its_timers():
    clock = FakeClock()
    timers = Timers(clock, "one")
    timers.after(5, lambda: None)

    assert timers.due_without_thread_ns() is None
    assert not timers.is_unattended
    timers.close(wait=True)


def test_a_timer_is_unattended_until_there_is_a_thread(refuse):
    refuse({"-timers": 1})
    timers = Timers(FakeClock(), "late")
    assert not timers.is_unattended, "there is nothing to call"

    timers.after(5, lambda: None)
    assert timers.is_unattended

    timers.start()
    assert not timers.is_unattended
    timers.close(wait=True)


def test_a_timer_that_a_ctrl_c_broke_off_after_it_was_set_is_called_by_whoever_asks(monkeypatch):
    clock, called = FakeClock(), []
    timers = Timers(clock, "pressed")

    def press():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(timers._changed, "notify", press)
        with pytest.raises(KeyboardInterrupt):
            timers.after(5, lambda: called.append("five"))
    assert timers.is_unattended
    clock.advance(6)
    monkeypatch.setattr(timers, "start", lambda: None)
    timers.run_due()

    assert ["five"] == called
    timers.close(wait=True)


def test_a_timer_whose_thread_a_ctrl_c_kept_from_starting_is_called_by_whoever_asks(monkeypatch):
    clock, called = FakeClock(), []
    timers = Timers(clock, "pressed")

    def press():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(timers, "start", press)
        with pytest.raises(KeyboardInterrupt):
            timers.after(5, lambda: called.append("five"))
        clock.advance(6)
        assert timers.is_unattended
        patched.setattr(timers, "start", lambda: None)  # nor is there one now
        timers.run_due()

    assert ["five"] == called
    timers.close(wait=True)


@pytest.mark.parametrize("times", [1, 1_000], ids=["once", "for good"])
def test_retries_and_bounds_are_kept_without_a_timer_thread(stage, refuse, times):
    refuse({"-timers": times})
    play = stage(max_workers=2)
    error = APIConnectionError("lost")
    play.script = lambda request: (
        Outcome(Disposition.RETRY, error=error, wait_ns=2 * NS_PER_S) if request.attempts == 1 else None
    )
    again = play.submit("again")
    play.wait_for_sends(1)
    late = play.submit("late", not_before_ns=100 * NS_PER_S, max_wait_ns=3 * NS_PER_S)
    for _ in range(4):
        play.settle_down()
        play.clock.advance(1)

    assert again.result(PATIENCE_S)
    assert isinstance(late.exception(PATIENCE_S), QueueTimeout)


def test_a_worker_refused_once_is_started_with_the_next_request(stage, refuse):
    play = stage(max_workers=2)
    refuse({"-worker": 1})

    with pytest.raises(GroqQueueError, match="no worker thread could be started"):
        play.submit("first")

    assert play.submit("second").result(PATIENCE_S)


def test_a_background_thread_refused_once_is_started_by_the_next_call(refuse):
    refuse({"background": 1})
    ran = threading.Event()

    class IdleTask:
        def run(self):
            ran.set()

        def finish(self):
            pass

    background_task = BackgroundTask(IdleTask(), FakeClock(), "background")
    with pytest.raises(GroqQueueError, match="could not be started"):
        background_task.start()
    background_task.start()
    background_task.wake()

    assert ran.wait(PATIENCE_S)
    background_task.close(PATIENCE_S)


def test_a_worker_in_place_of_the_timer_thread_looks_at_whatever_comes_first(stage, refuse):
    refuse({"-timers": 1_000})
    play = stage(Limits(rpm=1), max_workers=1)
    play.submit("first").result(PATIENCE_S)
    play.engine.pause(None)
    play.submit("waits for the limit")
    play.settle_down()
    now_ns = play.clock.now_ns()
    play.engine.timers.at(now_ns + NS_PER_S, lambda: None)
    play.engine.resume(None)
    play.settle_down()

    with play.engine.critical_section():
        job, next_ns = play.engine.find_job()

    assert (None, now_ns + NS_PER_S) == (job, next_ns)

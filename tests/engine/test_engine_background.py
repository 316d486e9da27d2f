"""Timers call back at their instant, in order, once, and on a thread of their own."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.engine.background import Timers, drain_dropped

PATIENCE_S = 10.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def timers(clock):
    made = Timers(clock, "test")
    yield made
    made.close(wait=True)


class Bell:
    """Notes who rang, and waits for it."""

    def __init__(self):
        self._changed = threading.Condition()
        self.rung = []
        self.threads = set()

    def named(self, name):
        def ring():
            with self._changed:
                self.rung.append(name)
                self.threads.add(threading.current_thread())
                self._changed.notify_all()

        return ring

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.rung) >= count, PATIENCE_S), self.rung
            return list(self.rung)


@pytest.fixture
def bell():
    return Bell()


def pass_by(timers, bell):
    """Return when the timers' thread has done whatever is due."""
    count = len(bell.rung)
    done = threading.Event()
    timers.after(0, done.set)
    assert done.wait(PATIENCE_S)
    return bell.rung[count:]


def test_no_thread_runs_before_the_first_timer(timers):
    assert "test-timers" not in [thread.name for thread in threading.enumerate()]


def test_timers_ring_in_the_order_of_their_instants_on_one_thread(timers, clock, bell):
    for seconds in (3, 1, 2, 1.5):
        timers.after(seconds, bell.named(seconds))
    timers.at(clock.now_ns() + NS_PER_S, bell.named("1 again"))

    clock.advance(0.999)
    assert [] == pass_by(timers, bell)
    clock.advance(0.001)
    assert [1, "1 again"] == bell.wait_for(2)
    assert [] == pass_by(timers, bell)
    clock.advance(10)

    assert [1, "1 again", 1.5, 2, 3] == bell.wait_for(5)
    (thread,) = bell.threads
    assert ("test-timers", True) == (thread.name, thread.daemon)


def test_an_earlier_timer_is_not_kept_waiting_by_a_later_one(timers, clock, bell):
    timers.after(60, bell.named("late"))
    while not clock.is_awaited(60):
        pass_by(timers, bell)

    timers.after(1, bell.named("early"))
    clock.advance(1)

    assert ["early"] == bell.wait_for(1)


def test_a_timer_that_was_called_off_never_rings(timers, clock, bell):
    call_off = timers.after(1, bell.named("off"))
    timers.after(1, bell.named("on"))

    call_off()
    call_off()
    clock.advance(1)

    assert ["on"] == bell.wait_for(1)
    assert [] == pass_by(timers, bell)


def test_calling_off_what_has_rung_does_nothing(timers, clock, bell):
    call_off = timers.after(1, bell.named("rung"))
    clock.advance(1)
    bell.wait_for(1)

    call_off()
    timers.after(1, bell.named("next"))
    clock.advance(1)

    assert ["rung", "next"] == bell.wait_for(2)
    assert 0 == timers._dead


def test_a_callback_that_raises_is_logged_and_the_next_one_rings(timers, clock, bell, caplog):
    def explode():
        raise ValueError("bad")

    with caplog.at_level(logging.ERROR, "groq_queue"):
        timers.after(1, explode)
        timers.after(1, bell.named("next"))
        clock.advance(1)
        bell.wait_for(1)

    assert ["timer_failed"] == [record.groq_queue_event for record in caplog.records]


def test_timers_that_were_called_off_are_swept_away_and_the_others_still_ring(timers, clock, bell):
    """
    Both halves matter: a few dead ones are cheap to keep, and live ones must stay in order.
    """
    for seconds in (9, 7, 8):
        timers.after(seconds, bell.named(seconds))
    for call_off in [timers.after(3_600, bell.named("dead")) for _ in range(64)]:
        call_off()
    assert 67 == len(timers._heap)

    timers.after(3_600, bell.named("dead"))()
    assert (3, 0) == (len(timers._heap), timers._dead)
    clock.advance(10)

    assert [7, 8, 9] == bell.wait_for(3)


def test_dead_ones_are_kept_while_most_are_alive(timers, bell):
    for _ in range(100):
        timers.after(3_600, bell.named("alive"))
    for call_off in [timers.after(3_600, bell.named("dead")) for _ in range(100)]:
        call_off()
    assert (200, 100) == (len(timers._heap), timers._dead)

    timers.after(3_600, bell.named("dead"))()

    assert (100, 0) == (len(timers._heap), timers._dead)


def test_dead_ones_at_the_front_are_counted_off_when_their_time_has_come(timers, clock, bell):
    for call_off in [timers.after(n, bell.named("dead")) for n in range(10, 20)]:
        call_off()
    clock.advance(60)

    assert [] == pass_by(timers, bell)
    assert (0, 0) == (timers._dead, len(timers._heap))


def test_after_the_end_nothing_rings_and_no_thread_is_left(timers, clock, bell):
    timers.after(1, bell.named("pending"))
    timers.close(wait=True)
    assert "test-timers" not in [thread.name for thread in threading.enumerate()]

    timers.after(0, bell.named("late"))
    clock.advance(10)

    assert "test-timers" not in [thread.name for thread in threading.enumerate()]
    assert [] == bell.rung


def test_what_callbacks_hold_is_let_go_at_the_end_and_when_they_are_called_off(timers, clock):
    class Prompt:
        def ring(self): ...

    pending, off = Prompt(), Prompt()
    alive = weakref.ref(pending), weakref.ref(off)
    timers.after(60, pending.ring)
    timers.after(60, off.ring)()
    del pending, off
    assert [True, False] == [each() is not None for each in alive]

    timers.close(wait=True)

    assert [False, False] == [each() is not None for each in alive]


def test_timers_may_be_closed_before_they_were_used_and_by_their_own_callback(clock, caplog):
    Timers(clock, "unused").close(wait=True)
    timers, closed = Timers(clock, "test"), threading.Event()

    def close_all():
        timers.close(wait=True)
        closed.set()

    timers.after(1, close_all)
    clock.advance(1)

    assert closed.wait(PATIENCE_S)
    assert [] == caplog.records


def test_a_close_that_does_not_wait_returns_while_a_callback_runs(timers, clock):
    entered, leave = threading.Event(), threading.Event()

    def linger():
        entered.set()
        leave.wait(PATIENCE_S)

    timers.after(0, linger)
    assert entered.wait(PATIENCE_S)

    timers.close(wait=False)

    assert not leave.is_set()
    leave.set()


def test_a_forked_child_begins_with_nothing_to_call(timers, clock, bell, monkeypatch):
    """
    The heap, what is dead in it, and the thread are the parent's; the child, where that does not run, has its own.
    """
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    timers.after(1, bell.named("of the parent"))()
    timers.after(2, bell.named("of the parent"))
    monkeypatch.undo()

    timers.reset_after_fork()

    assert (0, 0) == (len(timers._heap), timers._dead)
    clock.advance(2)
    timers.after(1, bell.named("of the child"))
    clock.advance(1)
    assert ["of the child"] == bell.wait_for(1)


# -- a queue that is dropped


class Dropped:
    def __init__(self):
        self.shut_down, self.done = [], threading.Event()

    def shutdown(self, **options):
        self.shut_down.append(options)
        self.done.set()


def test_a_dropped_engine_is_drained_on_a_thread_that_is_known():
    engine = Dropped()

    drain_dropped(engine)

    assert engine.done.wait(PATIENCE_S)
    assert [{"wait": False, "cancel_futures": False}] == engine.shut_down


def test_a_dropped_engine_at_the_interpreters_end_is_left_to_the_hook(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    engine = Dropped()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    drain_dropped(engine)

    assert [] == engine.shut_down

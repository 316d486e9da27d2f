"""Callbacks that workers call because their Futures have ended elsewhere: known before, or by a timer."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest
from waiting import wait_until

from groq_queue.clock import NS_PER_S
from groq_queue.core.request import State
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.late import LateCalls
from groq_queue.errors import GroqQueueError, QueueClosed, QueueFull, QueueTimeout

PATIENCE_S = 10.0


class Noted:
    """A callback that notes where it was called, and with what."""

    def __init__(self):
        self.names, self.threads = [], []
        self.called = threading.Event()

    def __call__(self, future):
        self.names.append(future.custom_id)
        self.threads.append(threading.current_thread().name)
        self.called.set()


class Held(Noted):
    """One that does not return until it may."""

    def __init__(self):
        super().__init__()
        self.leave = threading.Event()

    def __call__(self, future):
        super().__call__(future)
        assert self.leave.wait(PATIENCE_S)


def ended(play, name="ended"):
    future = play.submit(name)
    future.result(PATIENCE_S)
    return future


def most_at_once(play):
    """Have the stage note how many attempts there are at once at most, and give others the time to begin one."""
    most, pause = [0], threading.Event()

    def note(request):
        pause.wait(0.001)
        most[0] = max(most[0], play.engine.stats().in_flight)

    play.script = note
    return most


def test_busy_workers_keep_no_callback_waiting_and_a_callback_no_request(stage):
    play = stage(max_workers=2)
    future, noted, held = ended(play), Noted(), Held()
    play.hold()
    busy = [play.submit("one"), play.submit("two")]
    play.wait_for_sends(3)

    play.engine.call_back(future, noted)
    assert noted.called.wait(PATIENCE_S)
    assert ["stage-worker"] == noted.threads

    play.engine.call_back(future, held)
    assert held.called.wait(PATIENCE_S)
    play.release()
    assert all(each.result(PATIENCE_S) for each in [*busy, play.submit("three")])
    held.leave.set()


def test_the_worker_that_was_started_for_callbacks_goes_when_they_were_called(stage):
    play = stage(max_workers=1)
    future, held = ended(play), Held()
    play.hold()
    busy = play.submit("busy")
    play.wait_for_sends(2)
    play.engine.call_back(future, held)
    assert held.called.wait(PATIENCE_S)
    assert 2 == play.engine._pool._workers

    held.leave.set()
    play.release()
    busy.result(PATIENCE_S)
    play.settle_down()

    assert 1 == play.engine._pool._workers
    assert 0 == play.engine._pool.spare


@pytest.mark.parametrize("way", ["callback", "late", "cancelled"])
def test_callbacks_that_wait_let_no_more_attempts_run_than_there_are_workers(stage, way):
    play = stage(max_workers=1)
    most, answers = most_at_once(play), []
    future = ended(play)

    def ask(_):
        answers.append(play.submit().result(PATIENCE_S))

    for number in range(20):
        if way == "callback":
            play.submit(f"{number}", callback=ask)
        elif way == "late":
            play.engine.call_back(future, ask)
        else:
            play.engine.pause(None)
            another = play.submit(f"{number}", callback=lambda _: (play.engine.resume(None), ask(_)))
            assert another.cancel()
        play.submit()
    assert play.engine.join(PATIENCE_S)

    assert 20 == len(answers)
    assert [1] == most


def test_callbacks_are_called_one_at_a_time_in_their_order_whatever_they_raise(stage):
    play = stage(max_workers=4)
    future, held, seen = ended(play), Held(), []

    def note(number):
        def callback(_):
            seen.append(number)
            raise (SystemExit, ValueError)[number % 2]

        return callback

    play.engine.call_back(future, held)
    for number in range(100):
        play.engine.call_back(future, note(number))
    assert held.called.wait(PATIENCE_S)
    assert [] == seen
    held.leave.set()
    assert play.engine.join(PATIENCE_S)

    assert list(range(100)) == seen


def test_while_one_waits_for_a_future_the_next_is_called(stage):
    """
    It may be what ends that Future.
    """
    play = stage(max_workers=1)
    play.engine.pause(None)
    future, waited_for, noted = play.submit("x"), play.submit("y"), Noted()
    assert future.cancel()

    def wait(_):
        with suppress(CancelledError):
            waited_for.result(PATIENCE_S)
        noted(future)

    play.engine.call_back(future, wait)
    play.engine.call_back(future, wait)
    play.engine.call_back(future, lambda _: waited_for.cancel())

    assert play.engine.join(PATIENCE_S)
    assert ["x", "x"] == noted.names


def test_one_that_has_waited_is_followed_by_none_while_the_next_is_called(stage):
    play = stage(max_workers=1)
    play.engine.pause(None)
    future, waited_for = play.submit("x"), play.submit("y")
    assert future.cancel()
    held, noted, has_waited = Held(), Noted(), threading.Event()

    def wait(_):
        with suppress(CancelledError):
            waited_for.result(PATIENCE_S)
        has_waited.set()

    for callback in (wait, held, noted):
        play.engine.call_back(future, callback)
    assert held.called.wait(PATIENCE_S)
    waited_for.cancel()
    assert has_waited.wait(PATIENCE_S)
    wait_until(lambda: 1 == len(play.engine._late.callers))
    assert not noted.called.is_set()
    held.leave.set()

    assert noted.called.wait(PATIENCE_S)


def test_while_one_waits_and_every_worker_is_busy_another_calls_the_next(stage):
    play = stage(max_workers=1)
    future = ended(play)
    play.hold()
    busy, waited_for = play.submit("busy"), play.submit("waited for")
    play.wait_for_sends(2)
    called, held = [], Held()

    def wait(_):
        held(future)
        with suppress(CancelledError):
            called.append(waited_for.result(PATIENCE_S))

    play.engine.call_back(future, wait)
    assert held.called.wait(PATIENCE_S)
    play.engine.call_back(future, lambda _: called.append(waited_for.cancel()))
    held.leave.set()
    wait_until(lambda: called)

    assert [True] == called
    assert not busy.done()
    play.release()


def test_an_open_future_has_its_callback_called_at_its_end(stage):
    play = stage()
    play.hold()
    future, noted = play.submit("open"), Noted()
    play.engine.call_back(future, noted)
    assert not noted.called.is_set()

    play.release()

    assert noted.called.wait(PATIENCE_S)


def test_a_queue_that_was_shut_down_takes_no_callback_and_calls_those_it_took(stage):
    play = stage()
    future, held, noted = ended(play), Held(), Noted()
    play.engine.call_back(future, held)
    play.engine.call_back(future, noted)
    play.engine.shutdown(wait=False, cancel_futures=True)

    with pytest.raises(QueueClosed):
        play.engine.call_back(future, noted)
    held.leave.set()
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert ["ended"] == noted.names


def test_without_a_further_thread_callbacks_wait_for_a_worker(stage, monkeypatch, caplog):
    play = stage(max_workers=1)
    future, noted = ended(play), Noted()
    play.hold()
    busy = play.submit("busy")
    play.wait_for_sends(2)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    play.engine.call_back(future, noted)
    assert "no further worker thread could be started" in caplog.text
    play.release()

    assert noted.called.wait(PATIENCE_S)
    assert busy.result(PATIENCE_S)


@pytest.mark.parametrize("bound", ["max_wait_ns", "deadline_ns"])
def test_the_callback_of_an_expired_request_may_wait_for_a_retry(stage, bound):
    """
    The timers' thread, which ends it, must be there for the retry.
    """
    play = stage(max_workers=1)
    play.hold()
    first, noted, answers = play.submit("first"), Noted(), []
    play.wait_for_sends(1)
    play.script = lambda request: (
        Outcome(Disposition.RETRY, wait_ns=NS_PER_S)
        if request.custom_id == "instead" and request.attempts == 1
        else None
    )

    def ask(future):
        noted(future)
        answers.append(play.submit("instead").result(PATIENCE_S))

    future = play.submit("late", callback=ask, **{bound: 5 * NS_PER_S})
    play.clock.advance(5)
    assert isinstance(future.exception(PATIENCE_S), QueueTimeout)
    assert noted.called.wait(PATIENCE_S)
    play.release()
    wait_until(lambda: play.engine._table.away)
    play.clock.advance(1)
    assert play.engine.join(PATIENCE_S)

    assert ["stage-worker"] == noted.threads
    assert first.result(0)
    assert 1 == len(answers)
    assert State.EXPIRED is future._request.state


def test_who_submits_under_a_lock_that_the_callback_of_a_shed_request_takes_goes_on(stage):
    play = stage(max_workers=1, max_pending=1, when_full="shed")
    play.hold()
    play.submit("busy")
    play.wait_for_sends(1)
    lock, noted = threading.Lock(), Noted()

    def callback(future):
        with lock:
            noted(future)

    shed = play.submit("shed", priority="low", callback=callback)
    with lock:
        play.submit("urgent", priority="high")
        assert isinstance(shed.exception(0), QueueFull)
        assert [] == noted.names
    play.release()
    assert play.engine.join(PATIENCE_S)

    assert ["shed"] == noted.names
    assert ["stage-worker"] == noted.threads


def test_callbacks_of_a_queue_that_a_rejected_key_stopped_are_called_by_workers(stage):
    play = stage(max_workers=1)
    play.engine._stop(GroqQueueError("no key"))
    noted = Noted()

    future = play.submit("after", callback=noted)

    assert isinstance(future.exception(PATIENCE_S), GroqQueueError)
    assert noted.called.wait(PATIENCE_S)
    assert ["stage-worker"] == noted.threads


# -- without an engine


class Pool:
    """A pool of no threads: how many workers beyond its size it was asked for, and how often to wake one."""

    def __init__(self):
        self.spare = self.woken = 0

    def wake(self):
        self.woken += 1


def test_one_worker_takes_all_that_waits_in_order():
    pool = Pool()
    late = LateCalls(pool)
    assert ([], False) == ([*late.waiting], late.take()), "nothing waits"

    late.add("future", ["first", "second"])
    assert (1, 1, 2) == (pool.spare, pool.woken, late.count())
    assert (True, False) == (late.take(), late.take()), "the second worker is not needed"

    assert ("future", "first") == late.next_call()
    assert ("future", "second") == late.next_call()
    assert (None, 1) == (late.next_call(), len(late.callers)), "the last one has not returned"
    late.leave()
    assert ([], set(), 0, 1) == ([*late.waiting], late.callers, pool.spare, pool.woken)


def test_who_hands_over_is_replaced_and_takes_no_more():
    pool = Pool()
    late = LateCalls(pool)
    late.add("future", ["waits", "next"])
    late.take()
    late.next_call()

    late.hand_over()

    assert (True, True, 2, 2) == (late.is_mine(), late.waits, pool.spare, pool.woken)
    assert None is late.next_call()
    others = []
    thread = threading.Thread(target=lambda: others.extend([late.take(), late.next_call(), len(late.callers)]))
    thread.start()
    thread.join(PATIENCE_S)
    assert [True, ("future", "next"), 2] == others


def test_a_worker_that_breaks_leaves_what_waits_to_another():
    pool = Pool()
    late = LateCalls(pool)
    late.add("future", ["first", "second"])
    late.take()
    late.next_call()

    late.leave()

    assert (True, False, 1, 2) == (late.waits, late.is_mine(), pool.spare, pool.woken)

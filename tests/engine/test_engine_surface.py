"""What callers ask of the engine beside submit: waiting, closing, leaving, looking; and what a child keeps."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.callables import Call
from groq_queue.errors import (
    APIConnectionError,
    AuthenticationError,
    GroqQueueError,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RateLimitError,
)

PATIENCE_S = 10.0
LOST = APIConnectionError("reset", sent="no")


def exhausted(stage, **options):
    """Return a stage whose budget of one request a minute is spent."""
    play = stage(Limits(rpm=1), **options)
    play.submit("first").result(PATIENCE_S)
    return play


def on_thread(ask):
    """Return a started thread, and the list that will hold what *ask* returned or raised."""
    told = []

    def run():
        try:
            told.append(ask())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, told


def wait_until(is_so):
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / 0.0005)):
        if is_so():
            return
        pause.wait(0.0005)
    raise AssertionError("it did not come to that")


# -- join


def test_join_gives_up_at_its_timeout_and_not_before(stage):
    play = exhausted(stage)
    play.submit("waiting")
    thread, told = on_thread(lambda: play.engine.join(5))
    wait_until(lambda: play.clock.is_awaited(5))

    play.clock.advance(4.9)
    with play.engine._lock:
        play.engine._quiet.notify_all()  # a wake-up that means nothing
    wait_until(lambda: play.engine._quiet._waiters)
    assert [] == told
    play.clock.advance(0.1)

    thread.join(PATIENCE_S)
    assert [False] == told


def test_join_returns_when_the_last_future_has_ended(stage):
    play = stage()
    play.hold()
    play.submit()
    thread, told = on_thread(play.engine.join)
    wait_until(lambda: play.engine._quiet._waiters)
    assert not play.engine.join(0)

    play.release()

    thread.join(PATIENCE_S)
    assert [True] == told


def test_join_inside_a_callback_tells_and_does_not_wait(stage):
    play = stage(max_workers=1)
    told = []
    play.hold()
    play.submit(callback=lambda future: told.append(play.engine.join()))
    play.submit()
    play.release()

    assert play.engine.join(PATIENCE_S)
    assert [False] == told


def test_cancelling_the_last_one_ends_a_join(stage):
    play = exhausted(stage)
    future = play.submit()
    thread, told = on_thread(play.engine.join)
    wait_until(lambda: play.engine._quiet._waiters)

    assert 1 == play.engine.cancel_all(lambda request: True)

    thread.join(PATIENCE_S)
    assert [True] == told
    assert future.cancelled()


# -- cancelling and moving


def test_cancel_says_whether_it_will_never_be_sent(stage):
    play = stage()
    done = play.submit()
    done.result(PATIENCE_S)

    assert not done.cancel()
    play.engine.pause(None)
    waiting = play.submit()
    assert [True, True] == [waiting.cancel(), waiting.cancel()]
    assert 1 == play.engine.stats().cancelled


def test_a_retry_that_waits_can_be_cancelled_and_never_comes_back(stage):
    play = stage()
    play.script = lambda request: Outcome(Disposition.RETRY, error=LOST, wait_ns=NS_PER_S)
    future = play.submit()
    play.wait_for_landings(1)
    play.settle_down()

    assert future.cancel()
    play.clock.advance(5)
    play.settle_down()

    assert 1 == len(play.sent)
    assert (0, 1, 1) == (
        play.engine.stats().pending,
        play.engine.stats().cancelled,
        play.engine.stats().retried,
    )


def test_cancelling_the_head_lets_the_next_one_pass(stage):
    """
    The head needs more than is left; the next needs less.
    """
    for cancel in (
        lambda play, future: future.cancel(),
        lambda play, future: play.engine.cancel_all(lambda request: request.custom_id == "large"),
        lambda play, future: play.engine.set_priority(future._request, 10),
    ):
        play = stage(Limits(tpm=100))
        play.submit("first", size=PromptSize(60, 0, is_exact=True)).result(PATIENCE_S)
        large = play.submit("large", size=PromptSize(80, 0, is_exact=True))
        small = play.submit("small", size=PromptSize(30, 0, is_exact=True))
        play.settle_down()
        assert ["first"] == play.names()

        cancel(play, large)

        small.result(PATIENCE_S)
        assert ["first", "small"] == play.names()


def test_a_moved_head_lets_the_one_behind_it_pass(stage):
    play = stage(Limits(tpm=100))
    play.submit("first", size=PromptSize(60, 0, is_exact=True)).result(PATIENCE_S)
    large = play.submit("large", size=PromptSize(80, 0, is_exact=True))
    play.settle_down()

    small = play.submit("small", priority="high", size=PromptSize(30, 0, is_exact=True))

    small.result(PATIENCE_S)
    assert not large.done()


def test_a_request_whose_priority_was_changed_before_it_came_stands_by_the_last_one(stage):
    """
    As one that a worker claims after its priority was changed in the shared store.
    """
    play = stage(max_workers=1)
    play.engine.pause(None)
    early, moved = (Request("m", "e", b"{}", PromptSize(1, 0, is_exact=True), 5, custom_id=name) for name in "ab")
    moved.priority = 0
    futures = [play.engine.submit(each) for each in (early, moved)]

    play.engine.resume(None)

    assert all(future.result(PATIENCE_S) for future in futures)
    assert ["b", "a"] == play.names()


def test_what_is_not_pending_any_more_cannot_be_moved(stage):
    play = stage()
    play.hold()
    future = play.submit()
    play.wait_for_sends(1)
    assert not play.engine.set_priority(future._request, 0)
    play.release()
    future.result(PATIENCE_S)

    assert not play.engine.set_priority(future._request, 0)
    assert 5 == future._request.priority


def test_open_requests_are_found_by_custom_id(stage):
    play = exhausted(stage)
    future = play.submit("mine")

    assert future._request is play.engine.request_of("mine")
    assert None is play.engine.request_of("first")


def test_max_wait_bounds_the_first_start_only(stage):
    """
    It passes while the first attempt is under way, and while the second is waited for: neither is ended by it.
    """
    play = stage()
    play.script = lambda request: (
        Outcome(Disposition.RETRY, error=LOST, wait_ns=9 * NS_PER_S) if request.attempts == 1 else None
    )
    play.hold()
    under_way = play.submit(max_wait_ns=5 * NS_PER_S)
    play.wait_for_sends(1)
    play.clock.advance(5)
    play.settle_down()
    assert under_way.running()

    play.release()
    between = play.submit(max_wait_ns=5 * NS_PER_S)
    play.wait_for_landings(2)
    play.settle_down()
    play.clock.advance(5)
    play.settle_down()
    assert [False, False] == [under_way.done(), between.done()]
    play.clock.advance(4)

    assert [None, None] == [future.exception(PATIENCE_S) for future in (under_way, between)]
    assert 0 == play.engine.stats().expired


def test_a_deadline_that_passes_during_an_attempt_does_not_end_it(stage):
    play = stage()
    play.hold()
    future = play.submit(deadline_ns=5 * NS_PER_S)
    play.wait_for_sends(1)
    play.clock.advance(6)
    play.settle_down()
    assert future.running()

    play.release()

    assert None is future.exception(PATIENCE_S)


def test_who_is_kept_back_or_retried_is_told_when_it_comes_back(stage):
    play = stage()
    play.script = lambda request: (
        Outcome(Disposition.RETRY, error=LOST, wait_ns=7 * NS_PER_S) if request.attempts == 1 else None
    )
    later, again = play.submit(not_before_ns=30 * NS_PER_S), play.submit()
    play.wait_for_landings(1)
    play.settle_down()
    play.clock.advance(2)

    told = [play.engine.explain(future._request) for future in (later, again)]

    assert [("its not_before", 28.0), ("its retry", 5.0)] == [(each.waits_for, each.expected_start) for each in told]


# -- the full queue


def test_one_that_is_shed_fails_with_the_reason_and_makes_room_for_one(stage):
    play = exhausted(stage, max_pending=1, when_full="shed")
    low = play.submit("low", priority="low")

    high = play.submit("high", priority="high")

    error = low.exception(PATIENCE_S)
    assert isinstance(error, QueueFull)
    assert "shed to make room for a more urgent one" in str(error)
    assert "low" == error.custom_id
    stats = play.engine.stats()
    assert (1, 1, 3) == (stats.pending, stats.failed, stats.submitted)
    assert not high.done()


def test_a_blocked_submitter_goes_on_when_a_request_is_taken_cancelled_or_expired(stage):
    for make_room in (
        lambda play, waiting: waiting.cancel(),
        lambda play, waiting: play.engine.cancel_all(lambda request: True),
        lambda play, waiting: play.clock.advance(60),
        lambda play, waiting: play.clock.advance(30),
    ):
        play = exhausted(stage, max_pending=1)
        waiting = play.submit("waiting", max_wait_ns=30 * NS_PER_S)
        thread, told = on_thread(lambda play=play: play.submit("blocked"))
        wait_until(lambda play=play: play.engine._blocked_submitters)

        make_room(play, waiting)

        thread.join(PATIENCE_S)
        assert ["blocked"] == [future.custom_id for future in told]


def test_a_stop_wakes_a_blocked_submitter_whose_future_ends_with_it(stage):
    play = stage(max_workers=1, max_pending=1)
    denied = AuthenticationError("HTTP 401", status_code=401)
    play.script = lambda request: Outcome(Disposition.STOP_ALL, error=denied)
    play.hold()
    play.submit("running")
    play.wait_for_sends(1)
    play.submit("waiting")
    thread, told = on_thread(lambda: play.submit("blocked"))
    wait_until(lambda: play.engine._blocked_submitters)

    play.release()

    thread.join(PATIENCE_S)
    assert isinstance(told[0].exception(PATIENCE_S), AuthenticationError)
    assert 1 == len(play.sent)


# -- stopping


def test_after_a_stop_every_count_agrees_and_nothing_is_taken_in(stage, caplog):
    play = stage(max_workers=1)
    denied = AuthenticationError("HTTP 401", status_code=401)
    play.script = lambda request: Outcome(Disposition.STOP_ALL, error=denied)
    play.hold()
    futures = [play.submit(f"{n}") for n in range(5)]
    play.wait_for_sends(1)

    with caplog.at_level(logging.ERROR, "groq_queue"):
        play.release()
        errors = [future.exception(PATIENCE_S) for future in futures]
    late = play.submit("late")
    assert isinstance(late.exception(PATIENCE_S), AuthenticationError)
    play.settle_down()

    assert denied is errors[0]
    assert 5 == len({id(error) for error in errors})
    stats = play.engine.stats()
    assert (0, 0, 6, 6, False) == (stats.pending, stats.in_flight, stats.submitted, stats.failed, stats.running)
    assert ["queue_stopped"] == [record.groq_queue_event for record in caplog.records]
    assert "4 waiting requests failed" in caplog.text
    assert (401, "AuthenticationError") == (caplog.records[0].status, caplog.records[0].error)
    assert play.engine.join(PATIENCE_S)


def test_a_request_that_is_under_way_when_the_queue_stops_is_not_retried(stage):
    """
    1. A and B are sent. 2. A's key is rejected. 3. B's attempt fails in a way that is usually retried.
    """
    play = stage(max_workers=2)
    denied = AuthenticationError("HTTP 401", status_code=401)
    order = threading.Event()

    def script(request):
        if request.custom_id == "a":
            return Outcome(Disposition.STOP_ALL, error=denied)
        assert order.wait(PATIENCE_S)
        return Outcome(Disposition.RETRY, error=LOST, wait_ns=NS_PER_S)

    play.script = script
    play.hold()
    a, b = play.submit("a"), play.submit("b")
    play.wait_for_sends(2)
    play.release()
    assert denied is a.exception(PATIENCE_S)
    order.set()

    error = b.exception(PATIENCE_S)

    assert isinstance(error, AuthenticationError)
    assert denied is not error
    assert (2, 2) == (play.engine.stats().failed, len(play.sent))


# -- between two attempts


@pytest.mark.parametrize(("wait_s", "expires"), [(4, False), (5, True), (6, True)])
def test_a_retry_that_would_come_at_its_deadline_or_later_is_not_waited_for(stage, wait_s, expires):
    play = stage()
    play.script = lambda request: (
        Outcome(Disposition.RETRY, error=LOST, wait_ns=wait_s * NS_PER_S) if request.attempts == 1 else None
    )
    future = play.submit(deadline_ns=5 * NS_PER_S)
    play.wait_for_landings(1)
    play.settle_down()

    if expires:
        error = future.exception(0)
        assert isinstance(error, QueueTimeout)
        assert "deadline=5: 1 attempt failed" in str(error)
        assert LOST is error.__cause__
        assert 1 == play.engine.stats().expired
    else:
        play.clock.advance(wait_s)
        assert None is future.exception(PATIENCE_S)


def test_a_refused_request_counts_as_refused_and_a_failed_one_as_retried(stage):
    play = stage()
    refused = RateLimitError("429", status_code=429)
    outcomes = iter([Outcome(Disposition.RATE_LIMITED, error=refused), Outcome(Disposition.RETRY, error=LOST), None])
    play.script = lambda request: next(outcomes)

    play.submit().result(PATIENCE_S)

    stats = play.engine.stats()
    assert (3, 1, 2, 1) == (stats.attempts, stats.refused, stats.retried, stats.completed)
    assert {"429 refused by a limit": 1, "connection lost": 1} == play.engine.facts()[1].retries


def test_the_last_error_is_seen_while_it_waits_and_forgotten_with_the_answer(stage):
    play = stage()
    play.script = lambda request: (
        Outcome(Disposition.RETRY, error=LOST, wait_ns=NS_PER_S) if request.attempts == 1 else None
    )
    future = play.submit()
    play.wait_for_landings(1)
    play.settle_down()
    assert LOST is play.engine.info(future._request).last_error

    play.clock.advance(1)
    future.result(PATIENCE_S)

    assert None is play.engine.info(future._request).last_error


def test_an_attempt_that_breaks_is_logged_settled_and_counted(stage, caplog):
    play = stage(Limits(rpm=10), max_workers=1)

    def explode(request, lease, meter):
        raise MemoryError("no room")

    play.engine._attempts = type("Broken", (), {"attempt": staticmethod(explode)})()
    with caplog.at_level(logging.ERROR, "groq_queue"):
        error = play.submit("mine").exception(PATIENCE_S)

    assert ["attempt_broke"] == [record.groq_queue_event for record in caplog.records]
    assert "mine" == caplog.records[0].custom_id
    assert isinstance(error, GroqQueueError)
    assert isinstance(error.__cause__, MemoryError)
    assert (1, 1, 0, 0) == play.limiter.meter("m", "m").accounting()["RPM"]
    assert 1 == play.engine.stats().failed


def test_the_end_of_an_attempt_lets_the_next_of_a_capped_lane_pass(stage):
    play = stage(max_workers=4, max_in_flight=1)
    play.hold()
    futures = [play.submit(f"{n}") for n in range(3)]
    play.wait_for_sends(1)
    play.settle_down()
    assert ["0"] == play.names()

    play.release(1)
    assert ["0", "1"] == play.wait_for_sends(2)
    play.settle_down()
    assert 2 == len(play.sent)
    play.release()
    assert all(future.result(PATIENCE_S) is not None for future in futures)


def test_money_that_comes_back_at_the_end_of_an_attempt_lets_the_next_pass(stage):
    play = stage(max_workers=2, price_table=PriceTable({"m": (1.0, 1.0)}), max_usd=0.000_1)
    play.script = lambda request: Outcome(Disposition.DONE, charged=TokenCost(40))
    play.hold()
    first, second = (play.submit(size=PromptSize(60, 0, is_exact=True)) for _ in range(2))
    play.wait_for_sends(1)
    play.settle_down()
    assert 1 == len(play.sent)

    play.release()

    assert None is first.exception(PATIENCE_S)
    assert None is second.exception(PATIENCE_S)
    assert 0.000_08 == play.engine.stats().cost


def test_a_callback_that_lingers_keeps_nobody_from_the_place_its_attempt_has_left(stage):
    """
    The attempt's end lets the next one of a capped lane pass; another worker is started for it before the callback.
    """
    play = stage(max_workers=2, max_in_flight=1)
    play.hold()
    seen = []
    play.submit("first", callback=lambda future: seen.append(play.wait_for_sends(2)))
    play.wait_for_sends(1)
    play.submit("second")

    play.release()

    assert play.engine.join(PATIENCE_S)
    assert [["first", "second"]] == seen


def test_a_callback_that_lingers_keeps_nobody_from_the_money_its_attempt_has_left(stage):
    """
    1. The lease is settled, and the next one is looked at: the money is still set aside. 2. It comes back.
    """
    play = stage(max_workers=2, price_table=PriceTable({"m": (1.0, 1.0)}), max_usd=0.000_015)
    meter, seen = play.limiter.meter("m", "m"), []
    settle = meter.settle

    def settle_and_let_others_look(*arguments):
        told = settle(*arguments)
        wait_until(lambda: play.engine._pool._due._waiters)
        return told

    meter.settle = settle_and_let_others_look
    play.hold()
    play.submit("first", callback=lambda future: seen.append(play.wait_for_sends(2)))
    play.wait_for_sends(1)
    play.submit("second")
    play.settle_down()

    play.release()

    assert play.engine.join(PATIENCE_S)
    assert [["first", "second"]] == seen


def test_without_a_thread_nothing_is_taken_in(stage, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    play = stage()
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(GroqQueueError, match="no worker thread could be started"):
        play.submit()

    monkeypatch.undo()
    assert (0, 0) == (play.engine.stats().submitted, play.engine.stats().pending)
    play.submit().result(PATIENCE_S)


# -- closing


def test_a_closed_queue_refuses_outside_at_once_and_inside_while_it_drains_not(stage):
    play = stage(max_workers=1)
    play.hold()
    seen = []
    play.engine.check_open()
    play.submit(callback=lambda future: seen.append(play.engine.check_open()))
    play.wait_for_sends(1)

    play.engine.shutdown(wait=False, cancel_futures=False)

    with pytest.raises(QueueClosed, match="submit\\(\\) after shutdown"):
        play.engine.check_open()
    assert not play.engine.stats().running
    play.release()
    play.engine.shutdown(wait=True, cancel_futures=False)
    assert [None] == seen


def test_what_was_dropped_stays_dropped_whatever_a_later_shutdown_says(stage):
    """
    1. Shut down with cancel. 2. Shut down without. 3. An attempt under way fails: its retry does not come.
    """
    play = stage(max_workers=1)
    play.script = lambda request: Outcome(Disposition.RETRY, error=LOST)
    play.hold()
    future = play.submit()
    play.wait_for_sends(1)
    play.engine.shutdown(wait=False, cancel_futures=True)
    play.engine.shutdown(wait=False, cancel_futures=False)

    play.release()
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert future.cancelled()
    assert 1 == len(play.sent)


def test_a_draining_queue_sends_its_retries_and_what_is_paused(stage):
    play = stage(max_workers=1)
    play.script = lambda request: Outcome(Disposition.RETRY, error=LOST) if request.attempts == 1 else None
    play.engine.pause("m")
    futures = [play.submit(f"{n}") for n in range(3)]

    play.engine.shutdown(wait=True, cancel_futures=False)

    assert [None] * 3 == [future.exception(0) for future in futures]
    assert 6 == len(play.sent)


def test_closers_are_called_in_order_after_the_last_request_has_ended(stage):
    play = stage(max_workers=2)
    play.hold()
    called = []
    future = play.submit()
    play.wait_for_sends(1)
    for name in "ab":
        play.engine.at_close(lambda name=name: called.append((name, future.done())))
    play.engine.shutdown(wait=False, cancel_futures=True)
    assert [] == called

    play.release()
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert [("a", True), ("b", True)] == called[:2]
    assert not play.engine._timers._thread or not play.engine._timers._thread.is_alive()


def test_a_queue_that_was_never_used_closes_what_it_was_given(stage):
    play = stage()
    called = []
    play.engine.at_close(lambda: called.append(1))

    play.engine.shutdown(wait=True, cancel_futures=False)

    assert called
    assert set() == play.engine._pool._threads


def test_limits_are_shown_as_they_were_at_the_end(stage):
    play = exhausted(stage)

    play.engine.shutdown(wait=True, cancel_futures=False)
    play.clock.advance(60)

    assert [("RPM", 1)] == [(level.dimension, level.used) for level in play.engine.stats().lanes[0].limits]


def test_calls_that_wait_for_a_reader_are_let_go_when_the_queue_closes(stage):
    for close in (
        lambda play: play.engine.shutdown(wait=False, cancel_futures=False),
        lambda play: play.engine.leave(PATIENCE_S),
    ):
        play = stage(max_workers=1)
        read = threading.Event()
        call = Call(lambda: None, play.engine, read.set)
        play.script = lambda request, read=read: read.wait(PATIENCE_S) and None
        play.submit(call=call)
        play.wait_for_sends(1)

        close(play)

        assert read.is_set()
        play.engine.shutdown(wait=True, cancel_futures=True)


# -- leaving


def test_leaving_cancels_what_waits_and_says_how_many(stage):
    play = exhausted(stage)
    futures = [play.submit() for _ in range(3)]

    assert 3 == play.engine.leave(5)

    assert all(future.cancelled() for future in futures)
    with pytest.raises(QueueClosed):
        play.submit()
    assert 0 == play.engine.leave(5)


def test_leaving_gives_attempts_under_way_their_time_and_no_more(stage):
    play = stage(max_workers=1)
    play.hold()
    future = play.submit()
    play.wait_for_sends(1)
    thread, told = on_thread(lambda: play.engine.leave(5))
    wait_until(lambda: play.clock.is_awaited(5))
    assert [] == told

    play.clock.advance(5)

    thread.join(PATIENCE_S)
    assert [0] == told
    assert not future.done()


def test_an_attempt_that_fails_while_leaving_counts_as_unsent(stage):
    play = stage(max_workers=1)
    play.script = lambda request: Outcome(Disposition.RETRY, error=LOST)
    play.hold()
    play.submit()
    play.wait_for_sends(1)
    play.submit("waits")
    thread, told = on_thread(lambda: play.engine.leave(5))
    wait_until(lambda: play.clock.is_awaited(5))

    play.release()

    thread.join(PATIENCE_S)
    assert [2] == told


def test_a_queue_without_a_journal_keeps_nothing(stage):
    assert stage().engine.is_kept is False


# -- a child


def test_a_child_begins_anew_with_what_users_set_and_what_was_spent(stage):
    """
    As after a fork, but in this process: the parent's requests are the parent's to answer.
    """
    play = stage(Limits(rpm=2), max_workers=1, price_table=PriceTable({"m": (1.0, 1.0)}))
    play.engine.set_weight("heavy", 3)
    play.script = lambda request: Outcome(Disposition.DONE, charged=TokenCost(500_000))
    play.submit().result(PATIENCE_S)
    play.engine.pause("m")
    waiting = play.submit("waiting")
    called = []
    play.engine.at_close(lambda: called.append("the parent's"), in_children=False)
    play.engine.at_close(lambda: called.append("everybody's"))
    parent = play.engine._lock, play.engine._pool
    with parent[0]:
        play.engine._closed = True  # so that the parent's workers go home
        play.engine._table.withdraw_all(State.CANCELLED)
        play.engine._table.open.clear()
        parent[1].dismiss()
    parent[1].join()
    called.clear()
    play.engine._table.open.add(waiting._request)
    play.engine._closed = False

    play.engine.reset_after_fork()

    assert parent[0] is not play.engine.critical_section()
    error = waiting.exception(0)
    assert isinstance(error, QueueClosed)
    assert ("waiting", waiting.request_id) == (error.custom_id, error.request_id)
    assert State.FAILED is waiting._request.state
    stats = play.engine.stats()
    assert (0, 0, 0.5) == (stats.pending, stats.submitted, stats.cost)
    held = play.submit("of the child", client="heavy")
    play.settle_down()
    lane = play.engine._table.lane(held._request)
    assert (True, 3) == (lane.is_paused, lane.turn_of(held._request).weight)
    play.engine.shutdown(wait=True, cancel_futures=True)
    assert {"everybody's"} == set(called)


def test_a_join_in_which_a_handler_has_forked_is_not_counted_by_the_child(stage, monkeypatch):
    """
    As after the fork, but in this process. A child that counted one join too few would never wake its next one.
    """
    play = exhausted(stage)
    play.submit("the parent's")
    lock, pool, quiet, wait = play.engine._lock, play.engine._pool, play.engine._quiet, play.clock.wait

    def forking(condition, until_ns):
        return play.engine.reset_after_fork() if condition is quiet else wait(condition, until_ns)

    monkeypatch.setattr(play.clock, "wait", forking)

    assert play.engine.join()
    assert 0 == play.engine._joiners
    play.engine.shutdown(wait=True, cancel_futures=True)
    with lock:
        pool.dismiss()
    pool.join()


def test_an_attempt_that_has_forked_counts_nothing_in_the_child(stage):
    """
    As after a fork by a user's callable, but in this process: what comes of its request is the parent's to count.
    """
    play = stage(max_workers=1, price_table=PriceTable({"m": (1.0, 1.0)}), max_usd=1.0)
    lock, pool = play.engine._lock, play.engine._pool
    play.script = lambda request: play.engine.reset_after_fork()

    future = play.submit()
    wait_until(future.done)
    assert isinstance(future.exception(), QueueClosed)
    play.engine.shutdown(wait=True, cancel_futures=True)
    with lock:
        pool.dismiss()
    pool.join()

    stats = play.engine.stats()
    assert (0, 0, 0) == (stats.in_flight, stats.completed, stats.failed)
    assert (0.000_01, 0) == (stats.cost, play.engine._scheduler.spend_cap.reserved), "it may still be charged"


# -- looking


def test_facts_and_counts_are_of_one_instant(stage):
    play = stage(max_workers=1)
    play.submit().result(PATIENCE_S)
    play.clock.advance(3)

    stats, facts = play.engine.facts()

    assert (1, 1) == (stats.completed, facts.lanes[0].answered)
    assert play.clock.now_ns() == facts.now_ns


def test_workers_are_inside_and_callers_are_not(stage):
    play = stage(max_workers=1)
    seen = []
    play.submit(callback=lambda future: seen.append(play.engine.inside.depth > 0)).result(PATIENCE_S)
    play.engine.join(PATIENCE_S)

    assert [True] == seen
    assert not play.engine.inside.depth > 0


def test_a_callback_of_a_cancelled_future_is_inside_on_the_callers_thread(stage):
    play = exhausted(stage)
    seen = []
    for cancel in (lambda future: future.cancel(), lambda future: play.engine.cancel_all(lambda request: True)):
        cancel(play.submit(callback=lambda future: seen.append(play.engine.inside.depth > 0)))

    assert [True, True] == seen
    assert not play.engine.inside.depth > 0


def test_an_ended_request_is_forgotten_with_its_prompt_and_its_callable(stage):
    """
    Prompts are large, and callables hold anything; a Future that is kept for its result must hold neither.
    """

    class Payload:
        pass

    play = exhausted(stage)
    payload = Payload()
    alive = weakref.ref(payload)
    call = Call(lambda payload=payload: payload, play.engine)
    future = play.submit("mine", call=call, deadline_ns=3_600 * NS_PER_S)
    del call, payload
    assert alive() is not None

    future.cancel()

    assert alive() is None
    assert (None, None, ()) == (future._request.body, future._request.future, future._request.timers)
    assert set() == play.engine._table.open


def test_a_delivered_request_is_forgotten_before_the_worker_looks_for_more(stage):
    play = stage(max_workers=1)
    play.submit().result(PATIENCE_S)
    play.settle_down()

    assert (set(), []) == (play.engine._table.open, play.engine._delivered)


def test_not_before_does_not_count_as_lateness_for_the_order(stage):
    """
    With ageing a request ranks by when it lines up, so one that was kept back has no head start.
    """
    play = stage(Limits(rpm=1, minute_s=1), max_workers=1, ageing_ns=NS_PER_S)
    play.submit("first").result(PATIENCE_S)
    play.submit("kept back", priority=6, not_before_ns=10 * NS_PER_S)
    play.clock.advance(9.5)
    play.settle_down()
    play.submit("spends").result(PATIENCE_S)
    play.submit("in time", priority=6)
    play.clock.advance(0.5)
    play.settle_down()
    for _ in range(2):
        play.clock.advance(1)
        play.settle_down()

    assert ["first", "spends", "in time", "kept back"] == play.names()


def test_a_request_that_comes_too_late_by_itself_never_lines_up(stage):
    play = stage()
    request = Request("m", "e", b"{}", PromptSize(1, 0, is_exact=True), 5, deadline_ns=NS_PER_S, max_wait_ns=NS_PER_S)
    request.submitted_ns = play.clock.now_ns() - 2 * NS_PER_S  # as a journal brings it

    error = play.engine.submit(request).exception(PATIENCE_S)

    assert isinstance(error, QueueTimeout)
    assert [] == play.sent
    assert 1 == play.engine.stats().expired

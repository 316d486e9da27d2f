"""How requests end: delivered, cancelled, expired, refused, stopped; and how the engine ends."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait

import pytest
from waiting import wait_until

from groq_queue.clock import NS_PER_S
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    GroqQueueError,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RateLimitError,
    RequestTooLarge,
)


def exhausted(stage, **options):
    """Return a stage whose budget of one request a minute is spent."""
    play = stage(Limits(rpm=1), **options)
    play.submit("first").result(10)
    return play


def test_cancelling_wakes_whoever_waits_and_gives_the_budget_back(stage):
    play = exhausted(stage)
    future = play.submit("queued")
    waiter = threading.Thread(target=lambda: wait([future], timeout=10))
    waiter.start()
    wait_until(lambda: future._waiters)

    assert future.cancel()

    waiter.join(5)
    assert not waiter.is_alive()
    assert future.cancelled()
    assert wait([future], timeout=0).done
    assert future.cancel(), "cancelling twice is the same as once"
    play.clock.advance(60)
    play.submit("next").result(10)
    assert ["first", "next"] == play.names()
    leased, settled, refunded, held = play.limiter.meter("m", "m").accounting()["RPM"]
    assert (2, 2, 0, 0) == (leased, settled, refunded, held)


def test_a_request_on_its_way_cannot_be_cancelled(stage):
    play = stage()
    play.hold()
    future = play.submit()
    play.wait_for_sends(1)

    assert not future.cancel()
    assert future.running()

    play.release()
    future.result(10)
    assert not future.running()


def test_a_million_cancels_would_not_pile_up(stage):
    """
    Entries of cancelled requests are swept away, wherever they stand.
    """
    play = exhausted(stage)
    keeper = play.submit("keeper", client="b")

    for n in range(5_000):
        play.submit(client=f"c{n % 7}", priority=n % 11, max_wait_ns=NS_PER_S * 3_600).cancel()

    lane = play.engine._table.lanes["m"]
    assert len(lane.queue) < 300
    assert len(play.engine._timers._heap) < 300
    assert 1 == len(play.engine._table.open)
    keeper.cancel()


def test_max_wait_ends_a_request_that_has_not_started(stage):
    play = exhausted(stage)
    future = play.submit("queued", max_wait_ns=70 * NS_PER_S)
    play.submit("urgent", priority=0)
    play.clock.advance(60)
    play.wait_for_sends(2)

    play.clock.advance(10)

    with pytest.raises(QueueTimeout, match="max_wait=70"):
        future.result(10)
    assert 1 == play.engine.stats().expired


def test_deadline_ends_a_request_between_two_attempts_with_the_last_error_as_cause(stage):
    play = stage()
    lost = APIConnectionError("reset", sent="no")
    play.script = lambda request: Outcome(Disposition.RETRY, error=lost, wait_ns=10 * NS_PER_S)
    future = play.submit(deadline_ns=5 * NS_PER_S)

    error = future.exception(10)

    assert isinstance(error, QueueTimeout)
    assert error.__cause__ is lost
    assert 1 == len(play.sent)


def test_a_request_that_would_start_too_late_is_refused_at_submit(stage):
    play = exhausted(stage)
    for n in range(5):
        play.submit(f"{n}")

    with pytest.raises(QueueTimeout, match="would start in about 6 min") as caught:
        play.submit("late", deadline_ns=300 * NS_PER_S)

    assert 55 <= caught.value.retry_after <= 65
    play.submit("urgent", priority=0, deadline_ns=300 * NS_PER_S)


def test_not_before_keeps_a_request_back_without_a_worker(stage):
    play = stage(max_workers=1)
    later = play.submit("later", not_before_ns=30 * NS_PER_S)
    play.submit("now").result(10)

    assert "its not_before" == play.engine.explain(later._request).waits_for
    play.clock.advance(30)

    later.result(10)
    assert ["now", "later"] == play.names()


def test_a_retry_waits_in_no_workers_hand_and_keeps_its_place(stage):
    play = stage(max_workers=1)
    again = Outcome(Disposition.RETRY, error=APIConnectionError("reset", sent="no"), wait_ns=10 * NS_PER_S)
    play.script = lambda request: again if request.custom_id == "flaky" and request.attempts == 1 else None
    flaky = play.submit("flaky")
    play.submit("other").result(10)
    play.engine.pause("m")
    waiting = play.submit("later")

    play.clock.advance(10)
    flaky_is_back = threading.Event()
    play.engine._timers.after(0, flaky_is_back.set)
    assert flaky_is_back.wait(10)
    play.engine.resume("m")

    flaky.result(10)
    waiting.result(10)
    assert ["flaky", "other", "flaky", "later"] == play.names()


def test_a_refused_request_goes_first_again_when_the_hold_ends(stage):
    """
    A refusal is not a failure: nobody overtakes, nobody sends while the lane is held.
    """
    play = stage(max_workers=1)
    refused = Outcome(Disposition.RATE_LIMITED, error=RateLimitError("429", status_code=429), wait_ns=5 * NS_PER_S)
    play.script = lambda request: refused if request.attempts == 1 and request.custom_id == "a" else None
    play.hold()
    futures = [play.submit(name) for name in ("a", "b", "c")]
    play.release()
    play.wait_for_landings(1)

    play.clock.advance(4.9)
    play.settle_down()
    assert ["a"] == play.names()
    play.clock.advance(0.1)

    assert not wait(futures, timeout=10).not_done
    assert ["a", "a", "b", "c"] == play.names()
    assert 1 == play.engine.stats().refused


def test_a_rejected_key_stops_everything_with_one_clear_error(stage):
    play = stage(max_workers=4)
    denied = AuthenticationError("HTTP 401: Invalid API Key", status_code=401)
    play.script = lambda request: Outcome(Disposition.STOP_ALL, error=denied)
    play.hold()
    futures = [play.submit() for _ in range(1_000)]

    play.release()
    wait(futures, timeout=10)

    assert {AuthenticationError} == {type(future.exception(0)) for future in futures}
    assert len(play.sent) <= 8
    late = play.submit("late")
    assert isinstance(late.exception(10), AuthenticationError)
    assert len(play.sent) <= 8


def test_a_request_that_turns_out_too_large_ends_instead_of_waiting_for_ever(stage):
    play = stage(Limits(tpm=100))

    future = play.submit(size=PromptSize(150, 0, is_exact=True))

    error = future.exception(10)
    assert isinstance(error, RequestTooLarge)
    assert (150, 100) == (error.cost, error.capacity)
    assert "by 50" in str(error)


def test_callbacks_that_raise_are_logged_with_the_custom_id_and_harm_nothing(stage, caplog):
    play = stage(max_workers=2)

    def explode(future):
        raise ValueError("user bug")

    def exit_now(future):
        raise SystemExit(3)

    with caplog.at_level(logging.ERROR, "groq_queue"):
        futures = [play.submit(f"v{n}", callback=explode) for n in range(100)]
        futures += [play.submit(f"x{n}", callback=exit_now) for n in range(40)]
        assert not wait(futures, timeout=10).not_done
        assert play.engine.join(10)

    assert 140 == len(caplog.records)
    assert any("'v7'" in record.getMessage() for record in caplog.records)
    play.submit("after").result(10)


def test_callbacks_may_submit_more_even_when_the_queue_is_full(stage):
    play = stage(max_workers=1, max_pending=1)
    done = threading.Event()

    def submit_next(future, left=300):
        if left == 0:
            done.set()
        else:
            play.submit(callback=lambda next_future: submit_next(next_future, left - 1))

    play.submit(callback=submit_next)

    assert done.wait(10)
    assert play.engine.join(10)
    assert 301 == len(play.sent)


def test_a_callback_may_wait_for_another_request_on_a_pool_of_one(stage):
    play = stage(max_workers=1)
    results = []

    def wait_for_another(future):
        results.append(play.submit("inner").result(10))

    play.submit("outer", callback=wait_for_another)

    assert play.engine.join(10)
    assert ["inner"] == [result.custom_id for result in results]


def test_a_callback_may_shut_down(stage):
    play = stage(max_workers=2)

    play.submit(callback=lambda future: play.engine.shutdown(wait=True, cancel_futures=False)).result(10)

    assert play.engine.join(10)
    with pytest.raises(QueueClosed):
        play.submit()


def test_shutdown_drains_what_waits(stage):
    play = stage(max_workers=2)
    play.hold()
    futures = [play.submit() for _ in range(50)]
    play.release()

    play.engine.shutdown(wait=True, cancel_futures=False)

    assert all(future.done() and not future.cancelled() for future in futures)


def test_a_callback_may_submit_more_while_the_queue_drains(stage):
    """
    A chain of follow-ups that began before the end of the with block ends before it too.
    """
    play = stage(max_workers=2)
    play.hold()
    ended = []

    def go_on(future):
        ended.append(future)
        if len(ended) < 5:
            play.submit(callback=go_on)

    play.submit(callback=go_on)
    play.wait_for_sends(1)
    threading.Timer(0, play.release).start()
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert 5 == len(ended)
    with pytest.raises(QueueClosed):
        play.submit()


def test_no_callback_submits_more_once_the_queue_drops_what_waits(stage):
    play = stage(max_workers=1)
    play.hold()
    raised = []

    def go_on(future):
        try:
            play.submit()
        except QueueClosed as error:
            raised.append(error)

    play.submit(callback=go_on)
    play.wait_for_sends(1)
    play.engine.shutdown(wait=False, cancel_futures=True)
    play.release()
    play.engine.shutdown(wait=True, cancel_futures=True)

    assert 1 == len(raised)


def test_shutdown_with_cancel_drops_what_waits_and_lets_attempts_end(stage):
    play = stage(max_workers=2)
    play.hold()
    futures = [play.submit() for _ in range(50)]
    play.wait_for_sends(2)

    play.engine.shutdown(wait=False, cancel_futures=True)
    play.release()
    play.engine.shutdown(wait=True, cancel_futures=True)

    assert 48 == sum(future.cancelled() for future in futures)
    assert 2 == len(play.sent)


def test_shutdown_from_eight_threads_at_once_ends(stage):
    play = stage()
    play.submit().result(10)
    threads = [
        threading.Thread(target=play.engine.shutdown, kwargs={"wait": True, "cancel_futures": False}) for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert not any(thread.is_alive() for thread in threads)


def test_an_attempt_that_breaks_ends_its_request_and_not_the_worker(stage):
    play = stage(max_workers=1)

    def break_down(request):
        raise MemoryError("no room")

    play.script = break_down
    error = play.submit().exception(10)
    play.script = lambda request: None

    assert isinstance(error, GroqQueueError)
    assert "no room" in str(error)
    play.submit().result(10)


def test_a_full_queue_raises_with_the_bound_and_the_client(stage):
    play = exhausted(stage, max_pending=3, max_pending_per_client=2, when_full="raise")
    play.submit(client="a")
    play.submit(client="a")

    with pytest.raises(QueueFull) as caught:
        play.submit(client="a")
    assert ("a", 2) == (caught.value.client, caught.value.limit)

    play.submit(client="b")
    with pytest.raises(QueueFull) as caught:
        play.submit(client="c")
    assert (None, 3) == (caught.value.client, caught.value.limit)


def test_a_full_queue_blocks_until_there_is_room(stage):
    play = exhausted(stage, max_pending=1)
    play.submit("waiting")
    submitter = threading.Thread(target=play.submit, args=("blocked",), daemon=True)
    submitter.start()

    wait_until(lambda: play.engine._blocked_submitters)
    play.settle_down()
    assert submitter.is_alive()
    play.clock.advance(60)

    submitter.join(10)
    assert not submitter.is_alive()


@pytest.mark.parametrize("bound", ["max_wait_ns", "deadline_ns"])
def test_a_submitter_blocked_by_a_full_queue_is_not_kept_longer_than_its_bound(stage, bound):
    play = exhausted(stage, max_pending=1)
    play.submit("waiting")
    caught = []

    def submit_more():
        try:
            play.submit("blocked", **{bound: 5 * NS_PER_S})
        except QueueTimeout as error:
            caught.append(error)

    submitter = threading.Thread(target=submit_more, daemon=True)
    submitter.start()
    wait_until(lambda: play.clock.is_awaited(5))
    play.clock.advance(5)

    submitter.join(10)
    assert 1 == len(caught)


def test_a_full_queue_tells_when_there_will_be_room(stage):
    play = exhausted(stage, max_pending=2, when_full="raise")
    play.submit()
    play.submit()

    with pytest.raises(QueueFull) as caught:
        play.submit()

    assert 60 == caught.value.retry_after


def test_shutdown_wakes_a_blocked_submitter(stage):
    play = exhausted(stage, max_pending=1)
    play.submit()
    caught = []

    def submit_more():
        try:
            play.submit()
        except QueueClosed as error:
            caught.append(error)

    submitter = threading.Thread(target=submit_more, daemon=True)
    submitter.start()
    wait_until(lambda: play.engine._blocked_submitters)
    play.engine.shutdown(wait=False, cancel_futures=True)

    submitter.join(10)
    assert 1 == len(caught)


def test_shedding_drops_the_least_urgent_for_a_more_urgent_one(stage):
    play = exhausted(stage, max_pending=3, when_full="shed")
    low = [play.submit(f"low-{n}", priority="low") for n in range(3)]

    play.submit("high", priority="high")

    assert isinstance(low[2].exception(10), QueueFull)
    assert [False, False] == [future.done() for future in low[:2]]
    with pytest.raises(QueueFull, match="nothing less urgent"):
        play.submit("another-low", priority="low")


def test_a_custom_id_that_is_still_open_is_refused(stage):
    play = exhausted(stage)
    play.submit("same")

    with pytest.raises(ConfigurationError, match="custom_id='same'"):
        play.submit("same")

    assert 1 == play.engine.stats().pending


def test_cancel_all_takes_only_what_is_meant(stage):
    play = exhausted(stage)
    futures = [play.submit(client=client, model=model) for client in "ab" for model in ("m", "n") for _ in range(5)]
    play.wait_for_sends(2)

    count = play.engine.cancel_all(lambda request: request.client == "a" and request.model == "m")

    assert 5 == count
    assert 5 == sum(future.cancelled() for future in futures)


def test_counts_of_a_snapshot_agree_with_each_other(stage):
    play = exhausted(stage)
    for n in range(6):
        play.submit(client=f"c{n % 2}", priority=(1, 5, 8)[n % 3])

    stats = play.engine.stats()

    assert 6 == stats.pending == sum(stats.pending_by_client.values()) == sum(stats.pending_by_priority.values())
    assert 7 == stats.submitted
    assert {"m": 6} == stats.pending_by_model
    assert "requests per minute, 1 of 1 used" == stats.lanes[0].waits_for
    assert "requests per minute" in stats._repr_html_()


def test_a_signal_handler_starts_no_thread_while_its_own_thread_starts_one(stage, monkeypatch):
    """
    threading's own lock is not re-entrant: a second start on the interrupted thread would wait for itself.
    """
    play = stage(max_workers=4)
    starting = threading.Lock()
    start = threading.Thread.start

    def interrupted_start(thread):
        if "worker" not in thread.name:
            return start(thread)
        assert starting.acquire(timeout=0), "a thread was started while one was being started"
        try:
            play.engine.resume(None)  # as a handler may do; nobody looks yet, so it wants another worker
            return start(thread)
        finally:
            starting.release()

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    futures = [play.submit() for _ in range(20)]
    monkeypatch.undo()

    assert not wait(futures, timeout=10).not_done

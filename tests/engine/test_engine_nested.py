"""A callable that waits for another request of its own queue: it gets it, or is told that it never will."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeout

import pytest
from waiting import wait_until

from groq_queue import DeadlockError, GroqQueue, GroqSimulator, Limits
from groq_queue.clock import NS_PER_S, FakeClock

MODEL, OTHER = "llama-3.1-8b-instant", "llama-3.3-70b-versatile"
GUARD_S = 20.0


@pytest.fixture
def simulator():
    with GroqSimulator(latency=0.0, models=[MODEL, OTHER]) as groq:
        yield groq


@pytest.fixture
def make_queue(simulator):
    queues = []

    def make(**options) -> GroqQueue:
        options = {"limits": Limits(), "api_key": "t", "base_url": simulator.base_url, "model": MODEL, **options}
        queues.append(GroqQueue(**options))
        return queues[-1]

    yield make
    for queue in queues:
        queue.shutdown(cancel_futures=True)


def call(queue, fn, model=MODEL, tokens=5, **options):
    return queue.submit_call(fn, queue_options={"model": model, "tokens": tokens, **options})


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.groq_queue_event == "call_waits"]


# -- what can never end


@pytest.mark.parametrize(
    ("options", "tokens", "cure"),
    [
        ({"max_concurrency": 1}, 5, "max_concurrency=1"),
        ({"limits": None}, 900, "limits="),
        ({"limits": Limits(rpm=30)}, 5000, "limits="),
        ({"limits": Limits(tpm=100)}, 90, "tokens"),
        ({"limits": Limits(rpm=1)}, 5, "limit"),
        ({"max_cost": 0.0001}, 1900, "max_cost"),
    ],
    ids=["slots", "unnamed limits", "unnamed tokens", "tokens", "requests", "money"],
)
def test_a_call_that_holds_what_its_own_request_needs_is_told_so_at_once(
    make_queue, simulator, caplog, options, tokens, cure
):
    queue = make_queue(**options)

    future = call(queue, lambda: queue.complete("Why?"), tokens=tokens)

    with pytest.raises(DeadlockError, match="outside the callable") as caught:
        future.result(GUARD_S)
    assert cure in str(caught.value)
    assert queue.join(GUARD_S)
    assert (1, 1, 0) == (queue.stats().failed, queue.stats().cancelled, simulator.stats().received)
    assert [] == warnings_in(caplog)


@pytest.mark.parametrize("how", ["result", "exception", "shared", "view", "map", "executor"])
def test_it_is_told_however_it_waits(make_queue, how):
    queue = make_queue(max_concurrency=1)
    waits = {
        "result": lambda: queue.submit("Why?").result(),
        "exception": lambda: queue.submit("Why?").exception(),
        "shared": lambda: queue.submit("Why?", dedupe=True).result(),
        "view": lambda: queue.with_options(temperature=0).complete("Why?"),
        "map": lambda: list(queue.map(["Why?"])),
        "executor": lambda: queue.executor().submit(lambda: 1).result(),
    }

    with pytest.raises(DeadlockError):
        call(queue, waits[how]).result(GUARD_S)


def test_a_call_cannot_wait_for_itself(make_queue):
    queue = make_queue()
    known = threading.Event()
    futures = []

    def wait_for_me():
        known.wait(GUARD_S)
        return futures[0].result()

    futures.append(call(queue, wait_for_me))
    known.set()

    with pytest.raises(DeadlockError, match="the call itself"):
        futures[0].result(GUARD_S)


def test_of_two_calls_that_wait_for_each_other_one_is_told_and_the_other_gets_its_error(make_queue):
    queue = make_queue()
    known = threading.Event()
    futures = []

    def wait_for(place):
        known.wait(GUARD_S)
        return futures[place].result()

    futures += [call(queue, lambda: wait_for(1)), call(queue, lambda: wait_for(0))]
    known.set()

    for future in futures:
        with pytest.raises(DeadlockError):
            future.result(GUARD_S)


def test_of_calls_that_hold_every_slot_the_last_one_is_told_and_the_others_go_on(make_queue, simulator):
    queue = make_queue(max_concurrency=2, max_workers=4)
    both_run = threading.Barrier(2)

    def ask():
        both_run.wait(GUARD_S)
        return queue.complete("Why?")

    futures = [call(queue, ask) for _ in range(2)]

    errors = [future.exception(GUARD_S) for future in futures]
    assert {DeadlockError, type(None)} == {type(error) for error in errors}, errors
    assert 1 == simulator.stats().received


def test_a_circle_through_several_models_is_a_circle_too(make_queue):
    queue = make_queue(max_concurrency=1, max_workers=4)
    both_run = threading.Barrier(2)

    def ask(model):
        both_run.wait(GUARD_S)
        return queue.complete("Why?", model=model)

    futures = [call(queue, lambda: ask(OTHER)), call(queue, lambda: ask(MODEL), model=OTHER)]

    errors = [future.exception(GUARD_S) for future in futures]
    assert {DeadlockError, type(None)} == {type(error) for error in errors}, errors


@pytest.mark.parametrize("inside", [0, 1])
def test_what_waits_for_ever_only_once_a_hold_is_over_is_told_then(make_queue, inside):
    """
    While the server has asked to wait, time alone may bring its turn; then the first answer is still to come.
    """
    clock = FakeClock()
    queue = make_queue(limits=None, clock=clock)
    meter = queue._limiter.meter(MODEL, MODEL)

    def ask():
        meter.pause(2 * NS_PER_S, clock.now_ns())
        return queue.complete("Why?") if not inside else queue.submit("Why?").result()

    future = call(queue, ask, tokens=900)
    wait_until(lambda: queue._engine._nested.waits and clock.is_awaited(2))
    assert not future.done()
    clock.advance(2)

    with pytest.raises(DeadlockError, match="limits="):
        future.result(GUARD_S)
    assert queue.join(GUARD_S)
    assert 2 == queue.stats().failed


def test_after_it_was_told_the_queue_goes_on(make_queue):
    queue = make_queue(max_concurrency=1)
    told = call(queue, lambda: queue.complete("Why?")).exception(GUARD_S)

    assert isinstance(told, DeadlockError)
    assert "chat.completion" == queue.submit("Why?").result(GUARD_S)["object"]


def test_a_call_may_catch_it_and_do_without(make_queue):
    queue = make_queue(max_concurrency=1)

    def ask_or_guess():
        try:
            return queue.complete("Why?")
        except DeadlockError:
            return "because"

    assert "because" == call(queue, ask_or_guess).result(GUARD_S)


# -- what may end, or does


@pytest.mark.parametrize("options", [{"max_workers": 1}, {"max_concurrency": 2}, {"limits": Limits(rpm=100, tpm=9000)}])
def test_where_there_is_room_it_gets_its_answer_and_nothing_is_said(make_queue, caplog, options):
    queue = make_queue(**options)

    answer = call(queue, lambda: queue.complete("Why?")).result(GUARD_S)

    assert "chat.completion" == answer["object"]
    assert [] == warnings_in(caplog)


def test_a_slot_that_another_attempt_gives_back_is_waited_for_and_told_about_once(make_queue, caplog):
    queue = make_queue(max_concurrency=2, max_workers=4)
    go_on = threading.Event()
    for _ in range(2):
        go_on.clear()
        other = call(queue, lambda: go_on.wait(GUARD_S))
        wait_until(lambda other=other: other.running())
        future = call(queue, lambda: queue.complete("Why?"))
        wait_until(lambda: (2, 1) == (queue.stats().in_flight, queue.stats().pending))
        wait_until(lambda: warnings_in(caplog))
        go_on.set()

        assert "chat.completion" == future.result(GUARD_S)["object"]

    (told,) = warnings_in(caplog)
    assert "max_concurrency=2" in told
    assert logging.WARNING == caplog.records[0].levelno


def test_a_call_that_waits_elsewhere_for_what_is_at_work_holds_nobody_up_for_ever(make_queue):
    """
    One waits for a free model, another for the slot of the first: that comes back.
    """
    queue = make_queue(max_concurrency=1, max_workers=4)
    go_on, first_waits, inner = threading.Event(), threading.Event(), []

    def first():
        slow = call(queue, lambda: go_on.wait(GUARD_S), model="slow")
        first_waits.set()
        return slow.result()

    def second():
        first_waits.wait(GUARD_S)
        inner.append(queue.submit("Why?"))
        return inner[0].result()

    futures = [call(queue, first), call(queue, second, model=OTHER)]
    wait_until(lambda: inner and (inner[0]._waiters or futures[1].done()))
    go_on.set()

    assert futures[0].result(GUARD_S) is True
    assert "chat.completion" == futures[1].result(GUARD_S)["object"]


def test_a_wait_with_an_end_of_its_own_ends_as_ever(make_queue, caplog):
    queue = make_queue(max_concurrency=1)

    def look():
        future = queue.submit("Why?")
        try:
            future.result(timeout=0)
        except FutureTimeout:
            future.cancel()
            return "not yet"

    assert "not yet" == call(queue, look).result(GUARD_S)
    wait_until(lambda: len(warnings_in(caplog)) == 1)


def test_a_request_whose_time_runs_out_ends_the_wait_by_itself(make_queue):
    queue = make_queue(max_concurrency=1)

    error = call(queue, lambda: queue.submit("Why?", max_wait=0.01).exception()).result(GUARD_S)

    assert "QueueTimeout" == type(error).__name__


def test_a_request_that_somebody_cancels_ends_the_wait(make_queue):
    queue = make_queue(max_concurrency=2, max_workers=4)
    go_on = threading.Event()
    call(queue, lambda: go_on.wait(GUARD_S))

    future = call(queue, lambda: queue.submit("Why?", custom_id="inner").result())
    wait_until(lambda: (2, 1) == (queue.stats().attempts, queue.stats().pending))
    assert queue.cancel("inner")

    with pytest.raises(CancelledError):
        future.result(GUARD_S)
    go_on.set()


def test_a_thread_of_the_callables_own_is_at_work_as_far_as_anybody_knows(make_queue, caplog):
    """
    Nothing is known of what waits there, so nothing is said of it.
    """
    queue = make_queue()

    def ask_elsewhere():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(queue.complete, "Why?").result()

    assert "chat.completion" == call(queue, ask_elsewhere).result(GUARD_S)["object"]
    assert [] == warnings_in(caplog)


def test_a_request_of_another_queue_is_no_concern_of_this_one(make_queue, caplog):
    queue, other = make_queue(max_concurrency=1, organization="a"), make_queue(organization="b")

    assert "chat.completion" == call(queue, lambda: other.complete("Why?")).result(GUARD_S)["object"]
    assert [] == warnings_in(caplog)


# -- the stdlib's own waits


@pytest.mark.parametrize("where", ["call", "callback"])
@pytest.mark.parametrize("how", ["as_completed", "wait", "first"])
def test_a_worker_that_waits_in_a_function_of_the_stdlib_is_replaced_too(make_queue, how, where):
    queue = make_queue(max_workers=1)
    waits = {
        "as_completed": lambda futures: [future.result() for future in as_completed(futures)],
        "wait": lambda futures: [future.result() for future in wait(futures).done],
        "first": lambda futures: [future.result() for future in wait(futures, return_when=FIRST_COMPLETED).done],
    }
    answers = []
    has_ended = threading.Event()

    def ask(*_):
        answers.extend(waits[how]([queue.submit("Why?") for _ in range(3)]))
        has_ended.set()

    if where == "call":
        call(queue, ask)
    else:
        queue.submit("Why?", callback=ask)

    assert has_ended.wait(GUARD_S)
    assert len(answers) in ([3] if how != "first" else [1, 2, 3])
    queue.join()
    assert 0 == queue._engine._pool._blocked


def test_a_function_of_the_stdlib_that_gives_up_puts_the_worker_back(make_queue, caplog):
    queue = make_queue(max_workers=1, max_concurrency=1)

    def look():
        future = queue.submit("Why?")
        try:
            next(as_completed([future], timeout=0))
        except FutureTimeout:
            return len(wait([future], timeout=0).not_done)

    assert 1 == call(queue, look).result(GUARD_S)
    queue.join()
    assert 0 == queue._engine._pool._blocked
    wait_until(lambda: len(warnings_in(caplog)) == 1)


def test_a_walk_over_futures_may_go_on_on_another_thread(make_queue):
    """
    Begun outside and finished in a callable, and the other way round.
    """
    queue = make_queue(max_workers=2)
    queue.pause(MODEL)
    futures = [queue.submit("Why?") for _ in range(2)]
    futures[0].cancel()

    begun_outside = as_completed(futures)
    assert futures[0] is next(begun_outside)

    def begin():
        begun_inside = as_completed(futures)
        assert futures[0] is next(begun_inside)
        return begun_inside

    begun_inside = call(queue, begin, model=OTHER).result(GUARD_S)
    finished = queue.submit_call(list, begun_outside, queue_options={"model": OTHER, "tokens": 5})
    queue.resume()

    assert [futures[1]] == finished.result(GUARD_S) == list(begun_inside)
    del begun_inside, begun_outside
    queue.join()
    assert 0 == queue._engine._pool._blocked

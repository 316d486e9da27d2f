"""``dedupe=True``: equal requests that are open at the same time share one call."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, wait

import pytest
from waiting import wait_until

from groq_queue import Completion, ConfigurationError, GroqQueue, Limits, QueueBusy, QueueClosed, QueueFull
from groq_queue.api.single_flight import SingleFlight, as_seen_by, explain_shared
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import BadRequestError


def request(name=None, *, body=b'{"model":"m"}', priority=5, **options):
    size = PromptSize(10, 0, is_exact=True)
    return Request(
        model="m", endpoint="chat/completions", body=body, size=size, custom_id=name, priority=priority, **options
    )


@pytest.fixture
def held(stage):
    """A stage whose attempts do not end, with one other request on it that keeps its only worker."""
    made = stage(max_workers=1)
    made.hold()
    made.submit("other")
    made.wait_for_sends(1)
    made.sharing = SingleFlight(made.engine, lambda request, callback: made.engine.submit(request, callback=callback))
    made.ask = lambda name=None, callback=None, **options: made.sharing.submit(request(name, **options), callback)
    return made


@pytest.fixture
def queue():
    with GroqQueue.simulated(latency=0) as queue:
        yield queue


def test_equal_requests_are_sent_once_and_everybody_gets_the_answer(queue):
    queue.pause()
    futures = [queue.submit("Why?", dedupe=True, custom_id=f"row-{n}") for n in range(5)]
    other = queue.submit("Why not?", dedupe=True)
    queue.resume()

    answers = [future.result(10) for future in futures]

    assert other.result(10).text != answers[0].text
    assert 2 == queue.stats().attempts
    assert [f"row-{n}" for n in range(5)] == [answer.custom_id for answer in answers]
    assert 1 == len({answer.id for answer in answers})
    assert 5 == len({id(answer.choices) for answer in answers}), "each may change his own"
    assert 5 == len({id(future) for future in futures})


def test_it_is_not_a_cache(queue):
    first = queue.complete("Why?", dedupe=True)
    second = queue.complete("Why?", dedupe=True)

    assert first.id != second.id
    assert 2 == queue.stats().attempts


def test_only_those_who_ask_for_it_share(queue):
    queue.pause()
    for dedupe in (False, True, False, True):
        queue.submit("Why?", dedupe=dedupe)

    assert 3 == queue.stats().pending


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"endpoint": "responses"},
        {"temperature": 1},
        {"max_wait": 5},
        {"deadline": 5},
        {"shrink": True},
        {"service_tier": "flex"},
    ],
)
def test_what_differs_is_not_shared(queue, other):
    queue.pause()
    queue.submit("Why?", dedupe=True)
    queue.submit("Why?", dedupe=True, **other)

    assert 2 == queue.stats().pending


def test_the_order_of_keywords_does_not_matter_but_that_of_a_schema_does(queue):
    queue.pause()
    message = {"content": "Why?", "role": "user"}
    queue.submit("Why?", temperature=0, seed=1, dedupe=True)
    queue.submit([message], seed=1, temperature=0, dedupe=True)
    assert 1 == queue.stats().pending

    for names in ("ab", "ba"):
        schema = {"type": "json_schema", "json_schema": {"properties": {name: {} for name in names}}}
        queue.submit("Why?", response_format=schema, dedupe=True)
    assert 3 == queue.stats().pending


def test_map_and_columns_share_too(queue):
    assert 20 == len(list(queue.with_options(dedupe=True).map(["Why?"] * 20, buffersize=20)))
    assert 1 <= queue.stats().attempts < 20

    before = queue.stats().attempts
    queue.pause()
    column = threading.Thread(target=queue.map_column, args=(["a", "b", "a", "a"],), kwargs={"dedupe": True})
    column.start()
    wait_until(lambda: queue.stats().pending >= 2)
    queue.resume()
    column.join(10)
    assert not column.is_alive()
    assert before + 2 == queue.stats().attempts


def test_cancelling_one_does_not_cancel_the_others(held):
    called = []
    first, second, third = (held.ask(name, callback=lambda f: called.append(f.custom_id)) for name in "abc")

    assert first.cancel()
    assert first.cancelled()
    assert first.cancel(), "again"
    assert ["a"] == called
    assert {first} == wait([first, second], 0).done
    held.release()

    assert "b" == second.result(10).custom_id
    assert "c" == third.result(10).custom_id
    assert ["other", "a"] == held.names()


def test_the_shared_request_is_cancelled_with_the_last(held):
    futures = [held.ask(name) for name in "abc"]

    assert [True, True, True] == [future.cancel() for future in futures]
    held.release()
    assert held.engine.join(10)

    assert ["other"] == held.names()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)


def test_nobody_can_cancel_when_bytes_have_left(held):
    futures = [held.ask(name) for name in "ab"]
    held.release(1)
    held.wait_for_sends(2)

    assert [False, False] == [future.cancel() for future in futures]
    assert all(future.running() for future in futures)
    newcomer = held.ask("c")
    held.release()

    assert ["a", "b", "c"] == [future.result(10).custom_id for future in [*futures, newcomer]]
    assert 2 == len(held.sent), "who comes while an attempt is on its way shares it"


def test_who_comes_while_the_last_one_is_leaving_is_not_cancelled_with_it(held):
    """
    1. A is the only one and cancels; 2. before the engine is told, B asks for the same.
    """
    cancel, joined = held.engine.cancel, []

    def cancel_late(shared):
        joined.append(held.ask("b"))
        return cancel(shared)

    first = held.ask("a")
    held.engine.cancel = cancel_late

    assert first.cancel()
    held.release()

    assert "b" == joined[0].result(10).custom_id


def test_who_could_not_leave_can_be_joined_again(held):
    held.engine.cancel = lambda shared: False
    first = held.ask("a")

    assert not first.cancel()
    second = held.ask("b")
    held.release()

    assert ["a", "b"] == [first.result(10).custom_id, second.result(10).custom_id]
    assert 2 == len(held.sent)


def test_the_most_urgent_priority_counts(held):
    shared = held.ask("a", priority=8)
    held.submit("between", priority=5)
    held.ask("b", priority=1)
    held.release()

    shared.result(10)

    assert ["other", "a", "between"] == held.wait_for_sends(3)


def test_less_urgent_ones_change_nothing_and_each_may_change_his_mind(held):
    first = held.ask("a", priority=5)
    second = held.ask("b", priority=8)
    assert 5 == held.engine.info(first._request).priority

    assert second.set_priority(1)
    assert 1 == held.engine.info(first._request).priority
    assert second.set_priority(10)
    assert 5 == held.engine.info(first._request).priority


def test_the_most_urgent_wins_though_the_engine_is_told_by_another_thread(held):
    """
    1. B joins with 3 and is about to tell; 2. C joins with 1 and finds B at it; 3. B must tell 1 as well.
    """
    tell, told = held.engine.set_priority, []

    def tell_slowly(shared, level):
        if not told:
            told.append(level)
            held.ask("c", priority=1)
        else:
            told.append(level)
        return tell(shared, level)

    first = held.ask("a", priority=8)
    held.engine.set_priority = tell_slowly
    held.ask("b", priority=3)

    assert [3, 1] == told
    assert 1 == held.engine.info(first._request).priority


def test_every_caller_gets_the_error_as_his_own(held):
    refusal = BadRequestError("no", status_code=400, body=None, headers={}, custom_id="a")
    held.script = lambda sent: None if sent.custom_id == "other" else Outcome(Disposition.FAILED, error=refusal)
    futures = [held.ask(name) for name in "abc"]
    held.release()

    errors = [future.exception(10) for future in futures]

    assert ["a", "b", "c"] == [error.custom_id for error in errors]
    assert [BadRequestError] * 3 == [type(error) for error in errors]
    assert 3 == len({id(error) for error in errors})


def test_a_callback_that_raises_harms_nobody(held):
    def fail(future):
        raise SystemExit

    futures = [held.ask(name, callback=fail) for name in "abc"]
    held.release()

    assert 3 == len([future.result(10) for future in futures])


def test_a_callback_may_ask_the_same_again_and_that_is_a_new_call(held):
    again: Future[Future[Completion]] = Future()
    held.ask("a", callback=lambda _: again.set_result(held.ask("again")))
    held.release()

    assert "again" == again.result(10).result(10).custom_id
    assert ["other", "a", "again"] == held.names()


def test_shutdown_and_cancel_all_end_everybody(queue):
    queue.pause()
    futures = [queue.submit("Why?", dedupe=True) for _ in range(3)]

    assert 1 == queue.cancel_all()

    assert all(future.cancelled() for future in futures)


def test_a_custom_id_cancels_only_its_own_and_cannot_be_given_twice(queue):
    queue.pause()
    first, second = (queue.submit("Why?", dedupe=True, custom_id=name) for name in "ab")

    with pytest.raises(ConfigurationError, match="custom_id='b'"):
        queue.submit("Why?", dedupe=True, custom_id="b")
    with pytest.raises(ConfigurationError, match="custom_id='a'"):
        queue.submit("Why not?", dedupe=True, custom_id="a")
    assert queue.cancel("a")
    assert first.cancelled()
    assert not second.done()
    assert queue.cancel("b")
    assert second.cancelled()
    assert not queue.cancel("b")


def test_info_and_explain_work_for_each(queue):
    queue.pause()
    first, second = (queue.submit("Why?", dedupe=True, custom_id=name) for name in "ab")

    assert ("b", "pending") == (queue.info(second).custom_id, queue.info(second).state)
    assert "b: number 1 in line, waits for resume(), the lane is paused" == str(queue.explain(second))
    assert queue.set_priority(second, "high")
    first.cancel()
    assert "cancelled" == queue.info(first).state == queue.explain(first).state
    queue.resume()
    second.result(10)
    assert "completed" == queue.info(second).state == queue.explain(second).state


def test_who_joins_a_call_before_a_full_queue_waits_with_it(stage):
    made = stage(max_workers=1, max_pending=1)
    made.hold()
    made.submit("running")
    made.wait_for_sends(1)
    made.submit("waiting")
    sharing = SingleFlight(made.engine, lambda request, callback: made.engine.submit(request, callback=callback))
    first: Future[Future[Completion]] = Future()
    entered = threading.Event()
    submit = made.engine.submit

    def enter(*args, **options):
        entered.set()
        return submit(*args, **options)

    made.engine.submit = enter
    thread = threading.Thread(target=lambda: first.set_result(sharing.submit(request("a"), None)))
    thread.start()
    assert entered.wait(10)

    joined = sharing.submit(request("b", priority=0), None)
    assert "b: waits for room in the queue" == str(explain_shared(joined))
    assert 0 == as_seen_by(joined, made.engine.info(joined._request)).waited
    assert joined.set_priority(1)
    made.release()
    thread.join(10)

    assert ["a", "b"] == [first.result(10).result(10).custom_id, joined.result(10).custom_id]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QueueFull("full", limit=1), QueueFull),
        (QueueClosed("closed"), QueueClosed),
        (KeyboardInterrupt(), QueueBusy),
    ],
)
def test_who_joined_a_call_that_was_never_taken_in_is_told_so(stage, error, expected):
    made = stage()
    sharing = SingleFlight(made.engine, lambda request, callback: made.engine.submit(request, callback=callback))
    joined = []

    def refuse(shared, *, callback):
        joined.append(sharing.submit(request("b"), None))
        raise error

    submit, made.engine.submit = made.engine.submit, refuse
    with pytest.raises(type(error)):
        sharing.submit(request("a"), None)
    made.engine.submit = submit

    assert expected is type(joined[0].exception(0))
    assert "b" == joined[0].exception(0).custom_id
    assert "a" == sharing.submit(request("a"), None).result(10).custom_id


def test_many_threads_that_ask_cancel_and_ask_again_lose_nobody():
    """
    Everybody's Future ends, with an answer unless he cancelled, and nothing is left in the fold.
    """
    with GroqQueue.simulated(latency=(0, 0.002), limits=Limits(), max_workers=4) as queue:
        wrong = []

        def ask(seed):
            for n in range(60):
                future = queue.submit(f"question {n % 3}", dedupe=True, custom_id=f"{seed}-{n}", priority=n % 11)
                has_left = (n + seed) % 4 == 0 and future.cancel()
                try:
                    if future.result(30).custom_id != f"{seed}-{n}" or has_left:
                        wrong.append((seed, n))
                except CancelledError:
                    if not has_left:
                        wrong.append((seed, n))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [] == wrong
        assert queue.join(10)
        assert ({}, {}) == (queue._single_flight._calls, queue._single_flight._by_custom_id)
        assert queue.stats().completed < 480


def test_bad_flags_are_refused(queue):
    with pytest.raises(ConfigurationError, match="dedupe='yes'"):
        queue.submit("Why?", dedupe="yes")

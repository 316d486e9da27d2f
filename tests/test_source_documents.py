"""The two documents it all started from, row by row, and the bugs of their code that must not come back.

Q is the QueueManager document, L the lesson on request queuing, B a bug of theirs.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import queue as stdlib_queue
import threading
import time
import weakref
from concurrent import futures
from concurrent.futures import Future, wait

import pytest
import requests
from hasty import HastyClock

from groq_queue import (
    BadRequestError,
    ConfigurationError,
    GroqQueue,
    GroqSimulator,
    InternalServerError,
    Limits,
    Priority,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    priority,
)
from groq_queue.clock import NS_PER_S
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import APIConnectionError
from groq_queue.simulator import Fault


def ids(letter, *ranges):
    return {f"{letter}{number:02}" for first, last in ranges for number in range(first, last + 1)}


REQUIRED = (
    ids("Q", (1, 33))
    | ids("L", (1, 29), (40, 44))
    | ids("B", (3, 6), (8, 14), (16, 28), (30, 31), (40, 41))
)  # fmt: skip
KEYS = itertools.count()  # queues of one key share their budgets in a process, and a port may come back
PROVEN: dict[str, list[str]] = {}


def proves(*rows):
    """Note that a test proves *rows*."""

    def note(test):
        for row in rows:
            PROVEN.setdefault(row, []).append(test.__name__)
        return test

    return note


def test_every_row_has_a_test():
    assert REQUIRED == set(PROVEN)


@pytest.fixture
def groq():
    with GroqSimulator() as simulator:
        yield simulator


def queue_for(simulator, **options):
    options.setdefault("limits", Limits())
    return GroqQueue(api_key=f"gsk_{next(KEYS)}", base_url=simulator.base_url, model="llama-3.1-8b-instant", **options)


def exhausted(stage, limits=None, **options):
    """Return a stage whose budget of one request a minute is spent."""
    play = stage(limits or Limits(rpm=1), **options)
    play.submit("first").result(10)
    return play


def sent_in_order(play, count):
    """Let one request a minute go, and return the names of *count* of them after the first."""
    for number in range(count):
        play.clock.advance(60)
        play.wait_for_landings(number + 2)
    return play.names()[1:]


# -- order: three queues, five levels, fair turns


@proves("Q01", "Q02", "Q20")
def test_high_goes_before_normal_before_low_and_each_level_is_first_in_first_out(stage):
    play = exhausted(stage, max_workers=1)
    for number in range(2):
        for level in ("low", "normal", "high"):
            play.submit(f"{level}-{number}", priority=level)

    assert ["high-0", "high-1", "normal-0", "normal-1", "low-0", "low-1"] == sent_in_order(play, 6)


@proves("L24", "L26", "B08")
def test_all_five_levels_can_be_used_by_name_number_and_member_and_ids_are_whole_uuids(stage):
    play = exhausted(stage, max_workers=1)

    futures = [play.submit(level.name, priority=level.name.lower()) for level in reversed(Priority)]
    futures += [play.submit(f"{level.name}-again", priority=int(level)) for level in Priority]

    assert [0, 1, 5, 8, 10] == [int(level) for level in Priority]
    assert {0: 2, 1: 2, 5: 2, 8: 2, 10: 2} == play.engine.stats().pending_by_priority
    sent = sent_in_order(play, 10)
    assert [name for level in Priority for name in (level.name, f"{level.name}-again")] == sent
    assert {32} == {len(future.request_id) for future in futures}
    assert 10 == len({future.request_id for future in futures})


@proves("B06", "L01", "L04", "B09")
def test_eight_equal_requests_of_one_instant_go_in_the_order_they_came(stage):
    """
    The heap compares (priority, seq), seq being unique; the clock stands still and is no part of it.
    """
    play = exhausted(stage, max_workers=1)
    futures = [play.submit(f"{n}") for n in range(8)]
    lane = play.engine._table.lanes["m"]

    assert 1 == len({future._request.submitted_ns for future in futures})
    assert isinstance(lane, stdlib_queue.PriorityQueue)
    priority, seq, request = lane.queue[0]
    assert (5, futures[0]._request) == (priority, request)
    assert (int, int) == tuple(type(part) for part in seq)
    assert [f"{n}" for n in range(8)] == sent_in_order(play, 8)
    assert lane.head() is None


@proves("L29", "L41", "L43", "B27")
def test_clients_of_one_level_take_turns_and_nobody_is_skipped_when_one_runs_out(stage):
    """
    Theirs gave A, B, D, A, D, C, C.
    """
    play = exhausted(stage, max_workers=1)
    for client, count in (("A", 2), ("B", 1), ("C", 2), ("D", 2)):
        for number in range(count):
            play.submit(f"{client}{number}", client=client)

    sent = sent_in_order(play, 7)

    assert ["A0", "B0", "C0", "D0", "A1", "C1", "D1"] == sent
    assert {} == play.engine.stats().pending_by_client
    assert {} == play.engine._table.lanes["m"]._order._levels, "clients without requests are forgotten"


@proves("L40", "L42", "L44", "B30")
def test_the_exercise_of_the_lesson_comes_out_as_expected(stage):
    """
    Levels first, turns inside a level; a client's bound counts all its levels; gauges and counters are apart.
    """
    play = exhausted(stage, max_workers=1, max_pending_per_client=2, when_full="raise")
    for name, client, level in (
        ("c1-1", "client1", Priority.HIGH),
        ("c1-2", "client1", Priority.NORMAL),
        ("c2-1", "client2", Priority.HIGH),
        ("c2-2", "client2", Priority.NORMAL),
        ("c3-1", "client3", Priority.CRITICAL),
    ):
        play.submit(name, client=client, priority=int(level))
    with pytest.raises(QueueFull):
        play.submit(client="client1", priority="background")

    before = play.engine.stats()
    assert {"client1": 2, "client2": 2, "client3": 1} == before.pending_by_client
    assert {0: 1, 1: 2, 5: 2} == before.pending_by_priority
    assert (5, 6) == (before.pending, before.submitted)
    assert ["c3-1", "c1-1", "c2-1", "c1-2", "c2-2"] == sent_in_order(play, 5)
    play.engine.join(10)
    after = play.engine.stats()
    assert (0, 6, 6, 6) == (after.pending, after.submitted, after.attempts, after.completed)
    assert ({}, {}) == (after.pending_by_client, after.pending_by_priority)


@proves("B28")
def test_a_client_with_long_prompts_does_not_take_the_whole_token_budget(stage):
    """
    80 times the price is one turn for 80, when clients share by tokens.
    """
    play = stage(max_workers=1)
    play.hold()
    play.submit("first", client="other")
    play.wait_for_sends(1)
    for number in range(200):
        play.submit(f"short-{number}", client="short", turn_cost=100)
    for number in range(10):
        play.submit(f"long-{number}", client="long", turn_cost=8_000)

    play.release()
    sent = play.wait_for_sends(163)[1:]

    assert 2 <= sum(name.startswith("long") for name in sent) <= 3


@proves("B40")
def test_with_ageing_background_runs_under_steady_load_of_high(stage):
    play = stage(Limits(rpm=60), max_workers=1, ageing_ns=NS_PER_S)
    play.engine.pause(None)
    play.submit("old", priority="background")
    play.clock.advance(10)
    for number in range(100):
        play.submit(f"high-{number}", priority="high")

    play.engine.resume(None)

    assert ["old"] == play.wait_for_sends(1)


@proves("B16", "Q16")
def test_who_waits_for_budget_waits_in_line_so_a_later_critical_one_passes(stage):
    """
    Peek, reserve, pop: what is refused by the budget is never taken out.
    """
    play = exhausted(stage, max_workers=1)
    play.submit("low", priority="low")
    lane = play.engine._table.lanes["m"]
    assert "low" == lane.head().custom_id
    assert 1 == lane.qsize()

    play.submit("critical", priority="critical")

    assert ["critical", "low"] == sent_in_order(play, 2)


# -- limits


@proves("Q03", "L10", "L11", "B14")
def test_after_a_burst_one_request_goes_per_interval_and_a_long_wait_earns_no_more_than_one_burst(stage):
    """
    The level is read again after every wait; it drains all the time, and no minute edge resets it.
    """
    play = stage(Limits(rpm=60), max_workers=1)
    for number in range(200):
        play.submit(f"{number}")
    play.wait_for_landings(60)

    for second in range(1, 4):
        play.clock.advance(0.999)
        assert 59 + second == len(play.taken)
        play.clock.advance(0.001)
        play.wait_for_landings(60 + second)
    play.clock.advance(6_000)
    play.wait_for_landings(123)

    assert "requests per minute, 60 of 60 used" == play.engine.stats().lanes[0].waits_for
    assert 123 == len(play.taken)


@proves("B03", "L09", "L12")
def test_tokens_per_minute_are_enforced(stage):
    play = stage(Limits(rpm=500, tpm=5))
    for _ in range(6):
        play.submit(size=PromptSize(5, 0, is_exact=True))
    play.wait_for_landings(1)

    assert 1 == len(play.taken)
    assert "tokens per minute, 5 of 5 used" == play.engine.stats().lanes[0].waits_for
    for landed in range(2, 7):
        play.clock.advance(60)
        play.wait_for_landings(landed)


@proves("B04")
def test_failures_spend_the_budget_too(stage):
    play = stage(Limits(rpm=3), max_workers=1)
    play.script = lambda request: Outcome(Disposition.FAILED, error=APIConnectionError("reset", sent="unknown"))
    for _ in range(20):
        play.submit()
    play.wait_for_landings(3)

    assert 17 == play.engine.stats().pending
    assert 3 == len(play.taken)


@proves("B23", "L22", "L20")
def test_an_rpm_is_a_rate_and_not_a_number_of_requests_at_once(stage):
    """
    Theirs let 40 requests pass in 3 s at 5 a minute.
    """
    play = stage(Limits(rpm=5), max_workers=10)
    for _ in range(40):
        play.submit()
    play.wait_for_landings(5)
    play.clock.advance(3)

    assert 5 == len(play.taken)
    play.clock.advance(9)
    play.wait_for_landings(6)
    assert 6 == len(play.taken)


@proves("B24", "L21", "B13")
def test_answers_overlap_so_that_slow_ones_cost_no_pace():
    """
    80 answers of 0.2 s at 80 a second: one at a time they would take 16 s.
    """
    limits = Limits(rpm=40, minute_s=0.5)
    with GroqSimulator(limits=limits, latency=0.2) as groq, queue_for(groq, limits=limits, max_workers=20) as queue:
        futures = [queue.submit(f"{n}") for n in range(80)]
        assert not wait(futures, timeout=15).not_done

        arrived = [record.arrived_ns for record in groq.log]
        assert (80, 0) == (groq.stats().admitted, groq.stats().refused)
        assert 20 == groq.stats().max_in_flight
        assert (arrived[-1] - arrived[0]) / 1e9 <= 3


@proves("L16", "L02", "Q26")
def test_the_usage_script_of_the_lesson_takes_four_lines():
    """
    10 requests at 100 a minute, a bound of 100; the with block starts and stops it all.
    """
    with (
        GroqSimulator(rpm=100) as groq,
        queue_for(groq, limits=Limits(rpm=100), max_pending=100) as queue,
    ):
        futures = [queue.submit(f"Count to {number + 1}", priority=5) for number in range(10)]

    assert [True] * 10 == [future.done() for future in futures]
    assert (10, 0) == (groq.stats().admitted, groq.stats().refused)


# -- starting and stopping


@proves("Q07", "Q06", "B19")
def test_threads_start_with_the_first_submit_and_the_session_is_the_users_own(groq):
    """
    No SDK is built inside; what is given sends, and sends once: nothing retries behind the limiter's back.
    """
    groq.add_fault(Fault(status=500))
    before = threading.active_count()
    with requests.Session() as session, queue_for(groq, session=session, max_retries=0) as queue:
        session.headers["X-Team"] = "blue"
        assert before == threading.active_count()

        error = queue.submit("x").exception(10)

        assert isinstance(error, InternalServerError)
        assert before < threading.active_count()
    assert 1 == len(groq.log)


@proves("Q08", "L15", "L23", "B21", "B25")
def test_stopping_wakes_joins_and_ends_everything(stage):
    """
    What runs ends; what waits is cancelled and its waiter woken; no thread is left.
    """
    play = stage(Limits(rpm=1), max_workers=2)
    play.hold()
    running = play.submit("running")
    play.wait_for_sends(1)
    waiting = [play.submit() for _ in range(5)]
    woken = threading.Thread(target=wait, args=(waiting,), kwargs={"timeout": 10})
    woken.start()

    play.engine.shutdown(wait=False, cancel_futures=True)
    woken.join(5)
    play.release()
    play.engine.shutdown(wait=True, cancel_futures=True)

    assert not woken.is_alive()
    assert "running" == running.result(0).custom_id
    assert all(future.cancelled() for future in waiting)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stage")]
    with pytest.raises(QueueClosed):
        play.submit()


@proves("L14", "B20")
def test_running_until_empty_comes_to_an_end(stage):
    play = exhausted(stage)
    future = play.submit()

    assert not play.engine.join(0)
    play.clock.advance(60)
    assert play.engine.join(10)

    assert future.done()
    assert 0 == play.engine.stats().pending


@proves("Q09")
def test_a_worker_survives_what_would_kill_it_and_goes_on(stage, monkeypatch):
    """
    Where the lesson's worker dies, and a submit has to start another.
    """
    play = stage(max_workers=1)
    play.submit().result(10)
    workers = set(play.engine._pool._crew)
    meter, failures = play.limiter.meter("m", "m"), []
    lease = meter.lease

    def fail_twice(size, now_ns, turn=None):
        if len(failures) < 2:
            failures.append(size)
            raise ZeroDivisionError
        return lease(size, now_ns, turn)

    monkeypatch.setattr(meter, "lease", fail_twice)
    future = play.submit("while it fails")

    assert "while it fails" == future.result(10).custom_id
    assert 2 == len(failures)
    assert workers == set(play.engine._pool._crew)


@proves("Q31", "B22")
def test_nothing_polls(stage):
    """
    100 requests end on a clock that stands still, and an idle queue looks at the clock no more.
    """
    play = stage(max_workers=4)
    futures = [play.submit() for _ in range(100)]
    assert not wait(futures, timeout=10).not_done
    looks, looked = [], threading.Event()

    def count_looks(now_ns=play.clock.now_ns):
        looks.append(threading.current_thread().name)
        looked.set()
        return now_ns()

    play.engine.join(10)
    with play.engine._lock:
        play.clock.now_ns = count_looks
    assert not looked.wait(0.3)
    assert [] == looks

    play.submit().result(10)

    assert looked.is_set(), "who works does look at the clock, and was heard"


# -- submitting


@proves("Q10", "Q12", "L03")
def test_a_submit_returns_at_once_with_an_id_and_is_normal_by_default(stage):
    play = exhausted(stage)

    future = play.submit()

    assert isinstance(future, Future)
    assert 32 == len(future.request_id)
    assert Priority.NORMAL == future._request.priority == play.engine.info(future._request).priority


@proves("Q11")
@pytest.mark.parametrize("priority", ["urgent", "", 11, -1, True, 5.0])
def test_a_priority_that_does_not_exist_is_a_value_error_before_anything_changes(groq, priority):
    with queue_for(groq) as queue:
        with pytest.raises(ValueError, match="priority="):
            queue.submit("x", priority=priority)

        assert (0, 0) == (queue.stats().submitted, queue.stats().pending)
    assert [] == groq.log


@proves("Q27")
def test_a_block_gives_its_level_to_the_requests_that_name_none(groq):
    with queue_for(groq, max_workers=1) as queue:
        queue.pause()
        plain = queue.submit("plain")
        with priority("high"):
            urgent, own = queue.submit("urgent"), queue.submit("own", priority="low")
        queue.resume()
        levels = [queue.info(future).priority for future in (plain, urgent, own)]

    assert [Priority.NORMAL, Priority.HIGH, Priority.LOW] == levels
    assert ["urgent", "plain", "own"] == [record.prompt for record in groq.log]


@proves("Q25")
def test_the_config_json_of_the_document_opens_a_queue(tmp_path):
    """
    Its address, its key and its limits; -1 is no limit.
    """
    path = tmp_path / "config.json"
    with GroqSimulator(models=["m"], api_keys=["gsk_of_theirs"]) as groq:
        limits = {"req_per_minute": 30, "req_per_day": -1, "token_per_minute": 7_500, "token_per_day": -1}
        path.write_text(json.dumps({"m": {"base_url": groq.base_url, "api_key": "gsk_of_theirs", **limits}}))
        path.chmod(0o600)
        with GroqQueue.from_config(path) as queue:
            answer = queue.complete("x")
            levels = {level.dimension: level.limit for level in queue.stats().lanes[0].limits}

    assert "m" == answer.model
    assert {"RPM": 30, "TPM": 7_500} == levels


@proves("Q13", "Q29")
def test_a_callers_token_count_holds_and_otherwise_the_estimate_learns_from_the_answers(groq):
    prompt = "internationalization " * 50
    with queue_for(groq, limits=Limits(tpm=1_000_000)) as queue:
        given = queue.submit("x", tokens=77)
        naive = queue.info(queue.submit(prompt, max_completion_tokens=10)).tokens
        queue.join(10)
        for _ in range(20):
            queue.complete(prompt, max_completion_tokens=10)
        learnt = queue.info(queue.submit(prompt, max_completion_tokens=10)).tokens
        truth = groq.log[-1].requested

    assert 77 == queue.info(given).tokens
    assert truth <= learnt <= truth * 1.1
    assert learnt != naive


@proves("Q14", "Q05", "Q21")
def test_a_callback_is_any_callable_and_gets_the_response(groq):
    responses = []
    with queue_for(groq) as queue:
        future = queue.submit("x", callback=lambda done: responses.append(done.result()))
        queue.submit("without")
        with pytest.raises(ConfigurationError, match="callback="):
            queue.submit("x", callback="print")

    assert [future.result(0)] == responses
    assert "chat.completion" == responses[0]["object"]


@proves("Q15", "Q18", "Q24")
def test_a_pending_request_is_cancelled_by_its_id_without_a_search(stage):
    """
    Its entry stays in the heap as a tombstone; the id is found in a map.
    """
    play = exhausted(stage)
    futures = [play.submit(f"id-{n}", client=f"c{n}") for n in range(50)]
    lane = play.engine._table.lanes["m"]

    assert play.engine.cancel(play.engine.request_of("id-49"))

    assert futures[49].cancelled()
    assert 50 == lane.qsize()
    assert play.engine.request_of("id-49") is None
    assert futures[48].cancel()
    assert 48 == play.engine.stats().pending
    assert list(range(1, 49)) == [play.engine.explain(future._request).position for future in futures[:48]]


@proves("Q22")
@pytest.mark.parametrize("endpoint", ["chat/completions", "/chat/completions"])
def test_the_endpoint_joins_the_address_with_one_slash(groq, endpoint):
    payload = {"messages": [{"role": "user", "content": "Hello, world!"}], "max_tokens": 100}
    with queue_for(groq) as queue:
        answer = queue.submit(payload, endpoint=endpoint).result(10)

    assert isinstance(answer, dict)
    assert ["Hello, world!"] == [record.prompt for record in groq.log]


@proves("Q23")
def test_a_request_is_lined_up_metered_sent_and_told_in_this_order(stage):
    play = exhausted(stage)
    steps = []
    play.script = lambda request: steps.append("sent")
    future = play.submit("x", callback=lambda done: steps.append("told"))

    assert ("pending", 1) == (play.engine.info(future._request).state, play.engine.stats().pending)
    assert "requests per minute, 1 of 1 used" == play.engine.explain(future._request).waits_for
    assert [] == steps
    play.clock.advance(60)

    future.result(10)
    assert play.engine.join(10)
    assert ["sent", "told"] == steps


@proves("Q33")
def test_a_passing_fault_is_retried(groq):
    groq.add_fault(Fault(status=503, times=2, headers={"retry-after": "0.01"}))
    with queue_for(groq, clock=HastyClock()) as queue:
        assert 3 == queue.submit("x").result(30).attempts


# -- looking


@proves("Q17", "Q19", "L05", "L25", "L27")
def test_lengths_by_level_status_and_limits_are_one_snapshot():
    with GroqSimulator(rpm=1) as groq, queue_for(groq, limits=Limits(rpm=1), max_pending=5_000) as queue:
        queue.complete("first")
        futures = [queue.submit(f"{n}", priority=level) for level in ("high", "normal", "low") for n in range(2)]

        stats = queue.stats()
        assert {Priority.HIGH: 2, Priority.NORMAL: 2, Priority.LOW: 2} == stats.pending_by_priority
        assert 6 == stats.pending == sum(stats.pending_by_priority.values())
        assert stats.running
        assert [("RPM", 1, 1)] == [(level.dimension, level.used, level.limit) for level in stats.lanes[0].limits]
        assert 7 == stats.submitted, "counters of what ever was are apart from what waits now"
        assert 6 == queue.cancel_all()
        assert all(future.cancelled() for future in futures)
    assert not queue.stats().running


@proves("Q30", "L06", "L28", "B41")
def test_a_full_queue_is_an_error_of_its_own_with_client_bound_and_cure(stage):
    """
    ``queue.Full`` for those who come from ``queue``, ``ValueError`` for those who come from the lesson; nobody takes
    it for bad input.
    """
    play = exhausted(stage, max_pending_per_client=1, max_pending=2, when_full="raise")
    play.submit(client="a")

    with pytest.raises(QueueFull) as of_client:
        play.submit(client="a")
    play.submit(client="b")
    with pytest.raises(QueueFull) as of_all:
        play.submit(client="c")

    assert ("a", 1) == (of_client.value.client, of_client.value.limit)
    assert (None, 2) == (of_all.value.client, of_all.value.limit)
    assert isinstance(of_client.value, stdlib_queue.Full)
    assert isinstance(of_client.value, ValueError)
    assert not isinstance(of_client.value, ConfigurationError)
    assert 2 == play.engine.stats().pending


# -- results


@proves("L07", "L08", "B11")
def test_not_ready_unknown_and_read_before_are_different_things(stage):
    play = exhausted(stage)
    future = play.submit("x")

    with pytest.raises(futures.TimeoutError):
        future.result(0)
    assert play.engine.request_of("nobody") is None
    play.clock.advance(60)
    assert future.result(10) is future.result(10)
    assert "completed" == play.engine.info(future._request).state


@proves("B10")
def test_results_do_not_pile_up(stage):
    """
    They live in their Futures; the queue forgets a request once it has told its end.
    """

    class Answer(dict):
        pass

    play = stage(max_workers=2)
    told = []
    futures = [play.submit(f"{n}", callback=lambda done: told.append(1)) for n in range(30)]
    assert play.engine.join(10)
    requests_alive = [weakref.ref(future) for future in futures]

    assert 30 == len(told)
    assert (set(), {}) == (play.engine._table.open, play.engine._table._by_custom_id)
    assert {None} == {future._request.body for future in futures}
    del futures
    play.sent.clear()
    gc.collect()
    assert 0 == sum(alive() is not None for alive in requests_alive)


@proves("L13", "L19", "B18")
def test_a_result_is_the_answer_and_a_failure_the_error_itself(groq):
    """
    Not a dict with ``success`` and a flattened ``error``: status, headers and body stay.
    """
    groq.add_fault(Fault(match="bad", status=400, headers={"x-trace": "t1"}))
    with queue_for(groq) as queue:
        answer = queue.submit("good", custom_id="mine").result(10)
        error = queue.submit("bad").exception(10)

    assert ("mine", answer["choices"][0]["message"]["content"]) == (answer.custom_id, answer.text)
    assert answer.usage.total_tokens > 0
    assert isinstance(error, BadRequestError)
    assert (400, "t1") == (error.status_code, error.headers["x-trace"])


@proves("B17")
def test_an_answer_without_usage_is_a_success(groq):
    body = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "hello"}}]}
    groq.add_fault(Fault(status=200, body=body))
    with queue_for(groq, limits=Limits(tpm=100_000)) as queue:
        answer = queue.submit("x", tokens=500).result(10)
        used = queue.stats().lanes[0].limits[0].used

    assert "hello" == answer.text
    assert 1 == len(groq.log)
    assert 490 <= used <= 500, "what is not told is settled in full"


@proves("B05", "Q28", "Q32")
def test_a_callback_that_raises_is_called_once_and_the_paid_answer_stays(stage, caplog):
    play = stage()
    calls = []

    def explode(future):
        calls.append(future.exception(0))
        raise RuntimeError("user bug")

    future = play.submit("paid", callback=explode)
    assert play.engine.join(10)

    assert [None] == calls
    assert "paid" == future.result(0).custom_id
    assert 1 == len(caplog.records)
    assert (1, 0) == (play.engine.stats().completed, play.engine.stats().failed)


@proves("B12")
def test_a_ctrl_c_is_never_swallowed(stage, caplog):
    """
    On the caller's own thread it passes, also out of a callback.
    """
    play = exhausted(stage)

    def interrupt(future):
        raise KeyboardInterrupt

    future = play.submit(callback=interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.cancel()

    assert future.cancelled()
    assert play.engine.join(10)


# -- clocks and threads


@proves("B31")
def test_counts_are_exact_when_16_threads_submit_and_cancel(stage):
    play = exhausted(stage, max_workers=2)
    start, futures = threading.Barrier(16), []

    def submit_many(number):
        start.wait(10)
        for n in range(50):
            future = play.submit(client=f"{number}", priority=n % 11)
            futures.append(future)
            if n % 2:
                future.cancel()

    threads = [threading.Thread(target=submit_many, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    stats = play.engine.stats()
    assert (801, 400, 400) == (stats.submitted, stats.pending, stats.cancelled)
    assert {f"{number}": 25 for number in range(16)} == stats.pending_by_client
    assert 400 == sum(stats.pending_by_priority.values())
    positions = [play.engine.explain(future._request).position for future in futures if not future.done()]
    assert list(range(1, 401)) == sorted(positions)


@proves("B09")
def test_a_wall_clock_that_steps_back_changes_nothing(monkeypatch):
    backwards = itertools.count(2_000_000_000, -3_600)
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    limits = Limits(rpm=20, minute_s=0.5)
    with GroqSimulator(limits=limits) as groq, queue_for(groq, limits=limits, max_workers=1) as queue:
        futures = [queue.submit(f"{n}") for n in range(30)]
        assert not wait(futures, timeout=10).not_done

    assert [f"{n}" for n in range(30)] == [record.prompt for record in groq.log]
    assert 0 == groq.stats().refused


# -- asyncio


@proves("Q04", "L17")
def test_a_coroutine_awaits_answers_and_gets_backpressure():
    """
    ``submit`` blocks at ``max_pending``, so a coroutine submits on a thread and the loop goes on meanwhile.
    """
    limits = Limits(rpm=10, minute_s=0.5)

    async def main(queue):
        async def ask(number):
            return await asyncio.wrap_future(await asyncio.to_thread(queue.submit, f"{number}"))

        asking = asyncio.gather(*(ask(number) for number in range(15)))
        depths = [queue.stats().pending]
        while not asking.done():
            await asyncio.wait([asking], timeout=0.01)
            depths.append(queue.stats().pending)
        return await asking, max(depths)

    with GroqSimulator(limits=limits) as groq, queue_for(groq, limits=limits, max_pending=2) as queue:
        answers, deepest = asyncio.run(main(queue))

    assert 15 == len(answers)
    assert 0 < deepest <= 2
    assert 0 == groq.stats().refused


@proves("L18", "B26")
def test_a_wait_that_times_out_in_a_coroutine_loses_nothing(stage):
    """
    A request whose awaiting task was cancelled is cancelled too and spends nothing; a shielded one goes on.
    """
    play = exhausted(stage, max_workers=1)
    impatient, patient = play.submit("impatient"), play.submit("patient")

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(impatient), 0.01)
        shielded = asyncio.wrap_future(patient)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.01)
        play.clock.advance(60)
        return await asyncio.wait_for(shielded, 10)

    answer = asyncio.run(main())

    assert "patient" == answer.custom_id
    assert impatient.cancelled()
    assert ["first", "patient"] == play.names()
    assert {"RPM": (2, 2, 0, 0)} == play.limiter.meter("m", "m").accounting()


def test_what_the_documents_call_a_timeout_ends_a_request_unsent(stage):
    """
    "Queue size and timeout management" is announced by the lesson and never shown.
    """
    play = exhausted(stage)
    future = play.submit(max_wait_ns=60 * NS_PER_S)
    play.submit("urgent", priority="critical")
    play.clock.advance(60)

    assert ["first", "urgent"] == play.wait_for_sends(2)
    assert isinstance(future.exception(10), QueueTimeout)
    assert 2 == len(play.sent)

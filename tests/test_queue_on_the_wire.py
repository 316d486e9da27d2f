"""The whole queue against the simulator: real HTTP, real metering."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import os
import pickle
import threading
import weakref
from concurrent import futures
from concurrent.futures import FIRST_EXCEPTION, as_completed, wait
from itertools import pairwise

import pytest
import requests
from hasty import HastyClock

from groq_queue import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ContentTooLargeError,
    GroqQueue,
    GroqSimulator,
    Limits,
    RateLimitError,
    RequestTooLarge,
)
from groq_queue.simulator import Fault


@pytest.fixture
def groq():
    with GroqSimulator() as simulator:
        yield simulator


def queue_for(simulator, **options):
    options.setdefault("model", "llama-3.1-8b-instant")
    options.setdefault("limits", Limits())
    return GroqQueue(api_key="gsk_test", base_url=simulator.base_url, **options)


def test_an_answer_is_a_dict_with_dots(groq):
    with queue_for(groq) as queue:
        answer = queue.submit("How many legs has a spider?", custom_id="legs", temperature=0).result(10)

    assert "chat.completion" == answer["object"]
    assert answer.text == answer.choices[0].message.content == answer["choices"][0]["message"]["content"]
    assert answer.usage.total_tokens == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert ("legs", 1) == (answer.custom_id, answer.attempts)
    assert answer == json.loads(json.dumps(answer)) == pickle.loads(pickle.dumps(answer))
    assert ("legs", 1) == (pickle.loads(pickle.dumps(answer)).custom_id, answer.attempts)


@pytest.mark.parametrize(
    "given",
    [
        ("hello",),
        ([{"role": "user", "content": "hello"}],),
        ({"messages": [{"role": "user", "content": "hello"}], "model": "llama-3.1-8b-instant"},),
    ],
)
def test_a_prompt_messages_and_a_payload_say_the_same(groq, given):
    with queue_for(groq) as queue:
        queue.complete(*given)

    assert ["hello"] == [record.prompt for record in groq.log]


def test_the_stdlibs_ways_of_waiting_all_work(groq):
    with queue_for(groq) as queue:
        futures = [queue.submit(f"{n}") for n in range(20)]

        assert set(futures) == set(as_completed(futures, timeout=10))
        assert not wait(futures, timeout=10, return_when=FIRST_EXCEPTION).not_done

        async def gather():
            return await asyncio.gather(*(asyncio.wrap_future(queue.submit(f"{n}")) for n in range(5)))

        assert 5 == len(asyncio.run(gather()))


def test_joining_without_patience_is_a_question(groq):
    with queue_for(groq) as queue:
        queue.pause()
        future = queue.submit("x")

        assert not queue.join(0)
        queue.resume()
        future.result(10)
        assert queue.join(10)
        assert queue.join(0)


def test_a_result_timeout_stops_the_caller_and_not_the_request():
    with GroqSimulator(latency=0.2) as groq, queue_for(groq) as queue:
        future = queue.submit("slow")

        with pytest.raises(futures.TimeoutError):
            future.result(timeout=0.01)

        assert "chat.completion" == future.result(10)["object"]
        assert 1 == groq.stats().received


def test_callbacks_get_the_future_on_a_worker_thread(groq):
    seen = []
    with queue_for(groq) as queue:
        future = queue.submit("x", callback=lambda done: seen.append((done, threading.current_thread())))

    assert [future] == [done for done, _ in seen]
    assert threading.main_thread() is not seen[0][1]


def test_the_payload_is_what_it_was_at_submit():
    with GroqSimulator(rpm=1, minute_s=0.1) as groq, queue_for(groq, limits=Limits(rpm=1, minute_s=0.1)) as queue:
        messages = [{"role": "user", "content": "before"}]
        queue.submit("first")
        future = queue.submit(messages)
        messages[0]["content"] = "after"
        future.result(10)

        assert ["first", "before"] == [record.prompt for record in groq.log]


def test_one_failure_leaves_99_others_alone(groq):
    groq.add_fault(Fault(match="number 37!", status=400))
    with queue_for(groq) as queue:
        futures = [queue.submit(f"number {n}!") for n in range(100)]
        wait(futures, timeout=10)

    failed = [future.exception() for future in futures if future.exception() is not None]
    assert [400] == [error.status_code for error in failed]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 422])
def test_final_statuses_are_sent_once(groq, status):
    groq.add_fault(Fault(status=status))
    with queue_for(groq, max_retries=3) as queue:
        error = queue.submit("x").exception(10)

    assert status == error.status_code
    assert 1 == len(groq.log)


@pytest.mark.parametrize("status", [408, 429, 498, 500, 502, 503, 504])
def test_passing_faults_are_retried_as_often_as_allowed(groq, status):
    groq.add_fault(Fault(status=status, headers={"retry-after": "0.01"}))
    with queue_for(groq, max_retries=2, clock=HastyClock()) as queue:
        error = queue.submit("x", custom_id="mine").exception(30)

    assert (status, "mine", 3) == (error.status_code, error.custom_id, error.attempts)
    assert 3 == len(groq.log)


OUTPACED = {
    "error": {
        "message": "Rate limit reached for model `m` in organization `org_x` service tier `on_demand` "
        "on requests per minute (RPM): Limit 30000, Used 30000, Requested 1. Please try again in 2ms.",
        "type": "requests",
        "code": "rate_limit_exceeded",
    }
}


@pytest.mark.parametrize(("times", "attempts"), [(9, 10), (None, 11)])
def test_losing_the_race_for_a_slot_is_no_failure_but_has_an_end(groq, times, attempts):
    """
    Another program of the organisation may be faster ten times in a row; max_retries counts failures.
    """
    groq.add_fault(Fault(status=429, body=OUTPACED, times=times))
    with queue_for(groq, max_retries=1, clock=HastyClock()) as queue:
        error = queue.submit("x").exception(30)

    assert attempts == len(groq.log)
    assert (error is None) is (times is not None)


def test_a_revoked_key_stops_a_thousand_requests_at_once():
    with GroqSimulator(api_keys=("another",), latency=0.02) as groq, queue_for(groq, max_workers=8) as queue:
        queue.pause()
        futures = [queue.submit(f"{n}") for n in range(1_000)]
        queue.resume()
        assert not wait(futures, timeout=10).not_done

        assert {AuthenticationError} == {type(future.exception(0)) for future in futures}
        assert groq.stats().by_status[401] <= 16


def test_a_request_above_the_limit_fails_in_submit_with_the_number_to_lower(groq):
    with queue_for(groq, limits=Limits(tpm=6_000)) as queue:
        with pytest.raises(RequestTooLarge) as caught:
            queue.submit("x", max_completion_tokens=8_192)

        assert 6_000 == caught.value.capacity
        assert f"lower max_completion_tokens by {caught.value.cost - 6_000}" in str(caught.value)
        assert "TPM" in str(caught.value)
        queue.submit("x", max_completion_tokens=8_192 - (caught.value.cost - 6_000)).result(10)


def test_a_request_the_server_calls_too_large_is_not_sent_again():
    with GroqSimulator(tpm=1_000) as groq, queue_for(groq) as queue:
        error = queue.submit("x", max_completion_tokens=5_000).exception(10)

        assert isinstance(error, ContentTooLargeError)
        assert 1 == len(groq.log)


@pytest.mark.gate
def test_nobody_sends_while_the_server_asked_to_wait(groq):
    """
    After 429s with Retry-After the whole lane is silent for exactly that long, then goes on. All eight are on their way
    before the first is refused.
    """
    groq.add_fault(Fault(status=429, headers={"retry-after": "1"}, times=8, delay_s=0.3))
    with queue_for(groq, max_workers=8) as queue:
        queue.pause()
        futures = [queue.submit(f"{n}") for n in range(50)]
        queue.resume()
        assert not wait(futures, timeout=10).not_done

    assert 58 == len(groq.log)
    refusals = [record.arrived_ns for record in groq.log if record.status == 429]
    assert 8 == len(refusals)
    for refused in refusals:
        after = [record.arrived_ns - refused for record in groq.log]
        assert not [ns for ns in after if 200_000_000 < ns < 1_000_000_000]
        assert [ns for ns in after if 1_000_000_000 <= ns < 2_000_000_000]


@pytest.mark.gate
def test_429s_without_a_wait_are_answered_by_growing_gaps(groq):
    groq.add_fault(Fault(status=429, times=3))
    with queue_for(groq) as queue:
        queue.submit("x").result(30)

    arrived = [record.arrived_ns for record in groq.log]
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    assert 3 == len(gaps)
    assert all(1.2 <= later / earlier <= 3.2 for earlier, later in pairwise(gaps))


def test_lost_answers_are_sent_again_and_say_how_often(groq):
    groq.add_fault(Fault(match="lost", reset="after", times=1))
    groq.add_fault(Fault(match="html", html=True, times=2))
    groq.add_fault(Fault(match="cut", truncate=True, times=1))
    with queue_for(groq, clock=HastyClock()) as queue:
        answers = [queue.submit(prompt).result(30) for prompt in ("lost", "html", "cut", "fine")]

    assert [2, 3, 2, 1] == [answer.attempts for answer in answers]


def test_what_may_have_been_billed_is_repeated_at_most_twice(groq):
    groq.add_fault(Fault(reset="after"))
    with queue_for(groq, max_retries=5, clock=HastyClock()) as queue:
        error = queue.submit("x").exception(60)

    assert isinstance(error, APIConnectionError)
    assert "unknown" == error.sent
    assert 3 == error.attempts == len(groq.log)


def test_a_silent_server_ends_in_a_typed_timeout(groq):
    groq.add_fault(Fault(silent=True))
    with queue_for(groq, timeout=0.2, max_retries=0) as queue:
        error = queue.submit("x").exception(10)

    assert isinstance(error, APITimeoutError)


def test_a_forgotten_server_is_a_typed_error():
    with GroqSimulator() as groq:
        url = groq.base_url
    with GroqQueue(api_key="k", base_url=url, model="m", limits=Limits(), max_retries=1, clock=HastyClock()) as queue:
        error = queue.submit("x").exception(10)

    assert isinstance(error, APIConnectionError)
    assert "no" == error.sent


def test_limits_are_learnt_from_the_first_answer_without_a_refusal():
    with GroqSimulator(tpm=20_000, minute_s=60, latency=0.01) as groq, queue_for(groq, limits=None) as queue:
        futures = [queue.submit(f"{n}", max_completion_tokens=400) for n in range(40)]
        assert not wait(futures, timeout=30).not_done

        assert 0 == groq.stats().refused
        assert 20_000 == queue.stats().lanes[0].limits[-1].limit


def test_a_users_own_session_carries_the_requests(groq):
    session = requests.Session()
    session.headers["X-Team"] = "blue"
    with session, queue_for(groq, session=session) as queue:
        assert "chat.completion" == queue.complete("x")["object"]


def test_other_endpoints_take_whole_payloads(groq):
    with queue_for(groq) as queue:
        answer = queue.submit({"input": ["a", "b"]}, endpoint="embeddings").result(10)

    assert "list" == answer["object"]


def test_an_exception_in_the_with_block_cancels_what_waits_and_passes():
    with GroqSimulator(rpm=2, latency=0.1) as groq:
        with pytest.raises(ZeroDivisionError), queue_for(groq, limits=Limits(rpm=2)) as queue:  # noqa: PT012
            futures = [queue.submit(f"{n}") for n in range(500)]
            assert groq.wait_for_requests(2, 10)
            1 / 0  # noqa: B018

        assert 498 == sum(future.cancelled() for future in futures)
        assert 2 == sum(future.done() and not future.cancelled() for future in futures)
        assert 2 == groq.stats().received


def test_a_queue_that_is_dropped_still_answers_and_then_goes_away():
    with GroqSimulator(latency=0.1) as groq:
        queue = queue_for(groq)
        future = queue.submit("x")
        alive = weakref.ref(queue)
        del queue
        gc.collect()

        assert alive() is None
        assert "chat.completion" == future.result(10)["object"]


def test_two_hundred_queues_leave_no_thread_and_no_descriptor(groq):
    def descriptors():
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    with queue_for(groq) as queue:
        queue.complete("warm up")
    threads, files = threading.active_count(), descriptors()

    for _ in range(200):
        with queue_for(groq) as queue:
            queue.complete("x")

    assert threads == threading.active_count()
    assert descriptors() <= files + 2


def test_a_simulated_queue_with_limits_per_model_uses_the_first_by_default():
    with GroqQueue.simulated(latency=0, limits={"a": Limits(rpm=10), "b": Limits(rpm=20)}) as queue:
        assert "a" == queue.submit("x").result(10)["model"]


def test_a_queue_is_neither_copied_nor_pickled(groq):
    with queue_for(groq) as queue:
        for take in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="make one in each process"):
                take(queue)


def test_a_simulated_queue_says_so_and_needs_no_key(monkeypatch):
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with GroqQueue.simulated() as queue:
        assert "SIMULATED" in repr(queue)
        assert queue.complete("Say hello").text
        assert 1 == queue.simulator.stats().received


def test_a_mixed_run_meets_the_limit_without_one_refusal():
    limits = Limits(rpm=60, tpm=6_000, minute_s=0.2)
    with (
        GroqSimulator(limits=limits, latency=(0.01, 0.1), arrival_delay=(0.0, 0.02), output=0.5) as groq,
        queue_for(groq, limits=limits, max_workers=32) as queue,
    ):
        futures = [queue.submit(f"{n}", max_completion_tokens=100, priority=n % 11) for n in range(200)]
        assert not wait(futures, timeout=60).not_done

        assert 0 == groq.stats().refused
        assert 200 == groq.stats().admitted
        assert not [future for future in futures if isinstance(future.exception(), RateLimitError)]

"""One attempt: what each answer does to the lease, the request's counters and the next step."""

from __future__ import annotations

import json
import logging
import random

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked, Lease
from groq_queue.core.limits import Limits
from groq_queue.core.request import Request
from groq_queue.core.retry import RetryPolicy
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Runner
from groq_queue.engine.callables import Call, current_call
from groq_queue.errors import (
    APIConnectionError,
    APIResponseError,
    AuthenticationError,
    ContentTooLargeError,
    InternalServerError,
    RateLimitError,
)
from groq_queue.limiters.in_process import ProcessLimiter

ANSWER = {
    "choices": [{"message": {"content": "yes"}}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}},
}
LIMITS = Limits(rpm=100, tpm=10_000)
REFUSED = (
    "Rate limit reached for model `m` in organization `org_x` service tier `on_demand` on "
    "tokens per minute (TPM): Limit 10000, Used 9000, Requested 2000. Please try again in 6s."
)
TOO_LARGE = (
    "Request too large for model `m` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): "
    "Limit 6000, Requested 8010, please reduce your message size and try again."
)


class Answer:
    def __init__(self, status=200, body=ANSWER, headers=None):
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = headers or {}


class Bench:
    """A runner whose transport answers what it is told; what happens to leases is told by the meter's ledger."""

    def __init__(self, *answers, limits=LIMITS, **policy):
        self.clock = FakeClock()
        self.meter = ProcessLimiter(limits).meter("m", "m")
        self.answers = list(answers)
        self.sent = []
        policy = RetryPolicy(**policy)
        self.runner = Runner(self, policy, (1, 2), self.clock, random.Random(1))

    def send(self, endpoint, body, *, timeout):
        self.sent.append((endpoint, body, timeout))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def request(self, **options):
        options = {"size": PromptSize(10, 20, is_exact=True), "custom_id": "mine"} | options
        request = Request("m", options.pop("endpoint", "chat/completions"), b"{}", priority=5, **options)
        request.submitted_ns = self.clock.now_ns() - 3 * NS_PER_S
        request.started_ns = self.clock.now_ns() - NS_PER_S
        return request

    def attempt(self, request):
        self.clock.advance(3_600)  # no hold of an earlier attempt is left
        lease = self.meter.lease(request.size, self.clock.now_ns())
        assert isinstance(lease, Lease)
        outcome = self.runner.attempt(request, lease, self.meter)
        assert not lease.is_open
        return outcome

    def accounting(self):
        """Return what was settled and what was refunded of the tokens and of the requests."""
        ledger = self.meter.accounting()
        return ledger["TPM"][1:3], ledger["RPM"][1:3]

    def used(self):
        return {level.dimension: level.used for level in self.meter.levels(self.clock.now_ns())}


def test_an_answer_is_settled_to_what_it_used_and_says_how_it_came():
    bench = Bench(Answer())
    request = bench.request()

    outcome = bench.attempt(request)

    assert [("chat/completions", b"{}", (1, 2))] == bench.sent
    assert (Disposition.DONE, None, 0) == (outcome.next, outcome.error, outcome.wait_ns)
    assert ("yes", "mine", 1, 2.0) == (
        outcome.result.choices[0].message.content,
        outcome.result.custom_id,
        outcome.result.attempts,
        outcome.result.waited,
    )
    assert TokenCost(8 - 5 // 2, 3) == outcome.charged, "a cached token costs half"
    assert (1, 0) == bench.accounting()[1]


def test_an_answer_without_usage_costs_what_was_leased():
    bench = Bench(Answer(body={"choices": []}))

    assert TokenCost(10, 20) == bench.attempt(bench.request()).charged


@pytest.mark.parametrize("status", [200, 299])
@pytest.mark.parametrize(
    "body", [b"", b'{"choices": [', b'{"choices": 5}', b"{}"], ids=["empty", "half", "no list of choices", "no choices"]
)
def test_an_unreadable_answer_may_have_been_billed(body, status):
    bench = Bench(Answer(status, body, {"x-request-id": "req_7"}))
    request = bench.request()

    outcome = bench.attempt(request)

    assert (Disposition.RETRY, 1, 1, TokenCost(10, 20)) == (
        outcome.next,
        request.unknown,
        request.retries,
        outcome.charged,
    )
    assert isinstance(outcome.error, APIResponseError)
    assert ("req_7", request.id, "mine") == (
        outcome.error.server_request_id,
        outcome.error.request_id,
        outcome.error.custom_id,
    )
    assert f"HTTP {status} with an unreadable body" in str(outcome.error)
    assert ((30, 0), (1, 0)) == bench.accounting()
    assert 30 == bench.used()["TPM"]


def test_an_unreadable_answer_is_asked_for_again_twice_at_most():
    bench = Bench(*[Answer(body=b'{"choices": [')] * 3)
    request = bench.request()

    assert [Disposition.RETRY, Disposition.RETRY, Disposition.FAILED] == [bench.attempt(request).next for _ in range(3)]


def test_other_endpoints_answer_without_choices():
    bench = Bench(Answer(body={"data": []}))

    assert Disposition.DONE is bench.attempt(bench.request(endpoint="embeddings")).next


@pytest.mark.parametrize(("sent", "settled", "refunded"), [("no", 0, 30), ("unknown", 30, 0)])
def test_a_lost_connection_gives_back_what_was_certainly_not_sent(sent, settled, refunded):
    bench = Bench(APIConnectionError("reset", sent=sent))
    request = bench.request()

    outcome = bench.attempt(request)

    assert Disposition.RETRY is outcome.next
    assert (settled, refunded) == bench.accounting()[0]
    assert (TokenCost(10, 20) if settled else TokenCost(0)) == outcome.charged
    assert (1 if settled else 0) == request.unknown
    assert (request.id, "mine") == (outcome.error.request_id, outcome.error.custom_id)


def test_what_may_have_been_billed_is_repeated_twice_and_what_was_not_sent_as_often_as_allowed():
    for sent, attempts in (("unknown", 3), ("no", 6)):
        bench = Bench(*[APIConnectionError("reset", sent=sent)] * 6)
        request, outcomes = bench.request(), []
        while not outcomes or outcomes[-1].next is Disposition.RETRY:
            outcomes.append(bench.attempt(request))

        assert (attempts, Disposition.FAILED) == (len(outcomes), outcomes[-1].next)
        assert attempts == outcomes[-1].error.attempts == request.attempts


@pytest.mark.parametrize(
    ("status", "refunded"), [(500, False), (503, False), (498, True), (408, False), (409, False), (529, False)]
)
def test_a_passing_fault_waits_as_long_as_the_server_said_and_at_least_its_backoff(status, refunded):
    bench = Bench(Answer(status, {}, {"retry-after": "40"}), Answer(status, {}))
    request = bench.request()

    told, not_told = bench.attempt(request), bench.attempt(request)

    assert (Disposition.RETRY, 40 * NS_PER_S) == (told.next, told.wait_ns)
    assert Disposition.RETRY is not_told.next
    assert 0 < not_told.wait_ns <= NS_PER_S, "the second backoff is at most a second"
    assert 2 == request.retries
    assert ((0, 60) if refunded else (60, 0)) == bench.accounting()[0]


@pytest.mark.parametrize(
    ("answer", "slows"),
    [
        (Answer(500, {}), True),
        (Answer(503, {}), True),
        (Answer(498, {}), True),
        (Answer(body=b"<html>"), True),
        (APIConnectionError("reset", sent="unknown"), True),
        (APIConnectionError("refused", sent="no"), True),
        (Answer(400, {}), False),
        (Answer(401, {}), False),
        (Answer(), False),
    ],
    ids=["500", "503", "498", "unreadable", "lost", "not sent", "400", "401", "answered"],
)
def test_trouble_slows_the_lane_down(answer, slows):
    """
    A server that fails five times in a row is asked less often by everybody, not only by who ran into it.
    """
    bench = Bench(*[answer] * 5)

    for _ in range(5):
        bench.attempt(request := bench.request())

    blocked = bench.meter.blocks(request.size, bench.clock.now_ns())
    assert slows is (blocked is not None and blocked.reason == "pace")


def test_passing_faults_end_with_the_retries():
    bench = Bench(*[Answer(500, {})] * 2, max_retries=1)
    request = bench.request()

    assert [Disposition.RETRY, Disposition.FAILED] == [bench.attempt(request).next for _ in range(2)]
    assert 1 == request.retries


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_final_status_is_the_end(status):
    bench = Bench(Answer(status, {"error": {"message": "no"}}))
    request = bench.request()

    outcome = bench.attempt(request)

    assert (Disposition.FAILED, 1, 0) == (outcome.next, outcome.error.attempts, request.retries)
    assert (status, request.id, "mine") == (
        outcome.error.status_code,
        outcome.error.request_id,
        outcome.error.custom_id,
    )
    assert (30, 0) == bench.accounting()[0]


def test_a_rejected_key_stops_everything_and_costs_nothing():
    bench = Bench(Answer(401, {"error": {"message": "Invalid API Key"}}))

    outcome = bench.attempt(bench.request())

    assert (Disposition.STOP_ALL, 1) == (outcome.next, outcome.error.attempts)
    assert isinstance(outcome.error, AuthenticationError)
    assert (0, 30) == bench.accounting()[0]


def test_a_refusal_holds_the_lane_for_the_servers_wait_and_a_little_more():
    bench = Bench(Answer(429, {"error": {"message": REFUSED}}, {"retry-after": "50"}))
    request = bench.request()

    outcome = bench.attempt(request)

    assert (Disposition.RATE_LIMITED, 1, 0) == (outcome.next, request.refusals, request.retries)
    assert isinstance(outcome.error, RateLimitError)
    assert (0, 30) == bench.accounting()[0]
    blocked = bench.meter.blocks(request.size, bench.clock.now_ns())
    assert isinstance(blocked, Blocked)
    assert 6_001_000_000 <= blocked.wait_ns <= 6_015_000_000, "the numbers in the body go before Retry-After"


def test_refusals_that_name_their_wait_count_ten_for_a_retry():
    bench = Bench(*[Answer(429, {"error": {"message": REFUSED}})] * 11, max_retries=1)
    request, outcomes = bench.request(), []
    for _ in range(11):
        outcomes.append(bench.attempt(request).next)

    assert [Disposition.RATE_LIMITED] * 10 + [Disposition.FAILED] == outcomes


def test_a_refusal_without_numbers_counts_as_a_retry():
    bench = Bench(*[Answer(429, {}, {"retry-after": "2"})] * 2, max_retries=1)
    request = bench.request()

    first = bench.attempt(request)
    blocked = bench.meter.blocks(request.size, bench.clock.now_ns())
    second = bench.attempt(request)

    assert [(Disposition.RATE_LIMITED, 1), (Disposition.FAILED, 2)] == [
        (first.next, 1),
        (second.next, second.error.attempts),
    ]
    assert (2, 0) == (request.retries, request.refusals)
    assert 2_001_000_000 <= blocked.wait_ns <= 2_015_000_000


def test_a_refusal_that_names_no_wait_is_answered_by_holds_that_grow_up_to_a_minute():
    """
    A second and a half at first; an answer in between begins anew.
    """
    bench = Bench(*[Answer(429, {})] * 7, Answer(), Answer(429, {}), max_retries=20)
    request, other, holds = bench.request(), bench.request(), []
    for each in (*[request] * 8, other):
        if bench.attempt(each).next is not Disposition.DONE:
            holds.append(bench.meter.blocks(each.size, bench.clock.now_ns()).wait_ns / NS_PER_S)

    expected = [1.5, 3.3, 7.26, 15.97, 35.14, 60, 60, 1.5]
    assert len(expected) == len(holds)
    off = [(hold, bound) for hold, bound in zip(holds, expected, strict=True) if not 1 <= hold / bound <= 1.17]
    assert [] == off


def test_a_forked_child_begins_with_the_first_hold_and_other_dice():
    bench = Bench(*[Answer(429, {})] * 3, max_retries=20)
    request = bench.request()
    for _ in range(2):
        bench.attempt(request)
    state = bench.runner._rng.getstate()

    bench.runner.reset_after_fork()

    assert state != bench.runner._rng.getstate()
    bench.attempt(request)
    assert bench.meter.blocks(request.size, bench.clock.now_ns()).wait_ns < 1.8 * NS_PER_S


def test_a_request_too_large_for_its_limit_is_final():
    bench = Bench(Answer(413, {"error": {"message": TOO_LARGE}}))

    outcome = bench.attempt(bench.request())

    assert Disposition.FAILED is outcome.next
    assert isinstance(outcome.error, ContentTooLargeError)
    assert (0, 30) == bench.accounting()[0]


@pytest.mark.parametrize(
    ("shrinks", "asked", "told", "way"),
    [
        (True, 8_000, TOO_LARGE, Disposition.RATE_LIMITED),
        (False, 8_000, TOO_LARGE, Disposition.FAILED),
        (True, 2_000, TOO_LARGE, Disposition.FAILED),
        (True, None, TOO_LARGE, Disposition.FAILED),
    ],
    ids=["lowered", "not asked for", "cannot be lowered by so much", "names no allowance"],
)
def test_a_request_that_may_shrink_asks_for_what_fits(shrinks, asked, told, way):
    """
    8,010 were requested of 6,000: the allowance goes down by 2,010.
    """
    bench = Bench(Answer(413, {"error": {"message": told}}))
    request = bench.request(shrinks=shrinks)
    request.body = json.dumps({"max_completion_tokens": asked} if asked else {}).encode()
    before = request.body

    outcome = bench.attempt(request)

    assert way is outcome.next
    if way is Disposition.RATE_LIMITED:
        assert {"max_completion_tokens": 5_990} == json.loads(request.body)
        assert PromptSize(10, 5_990, 0, is_exact=True) == request.size
    else:
        assert before == request.body
        assert PromptSize(10, 20, is_exact=True) == request.size


def test_limits_that_differ_from_the_servers_are_told(caplog):
    headers = {"x-ratelimit-limit-tokens": "8000", "x-ratelimit-remaining-tokens": "8000"}
    headers |= {"x-ratelimit-reset-tokens": "0s"}
    bench = Bench(Answer(headers=headers))

    with caplog.at_level(logging.WARNING, "groq_queue"):
        bench.attempt(bench.request())

    assert ["limits_noticed"] == [record.groq_queue_event for record in caplog.records]
    assert "8,000" in caplog.text
    assert "mine" == caplog.records[0].custom_id


def test_an_attempt_that_failed_is_told_at_debug_without_its_text(caplog):
    bench = Bench(Answer(500, {"error": {"message": "secret"}}, {"retry-after": "40"}))

    with caplog.at_level(logging.DEBUG, "groq_queue"):
        bench.attempt(bench.request())

    (record,) = caplog.records
    assert ("attempt_failed", 40.0, 500, "InternalServerError", 1) == (
        record.groq_queue_event,
        record.wait_s,
        record.status,
        record.error,
        record.attempt,
    )
    assert "secret" not in record.getMessage()


# -- callables


def test_a_callable_is_run_instead_of_sending():
    bench = Bench()
    call = Call(lambda: {"usage": ANSWER["usage"]}, bench)

    outcome = bench.attempt(bench.request(call=call))

    assert [] == bench.sent
    assert (Disposition.DONE, None, TokenCost(6, 3)) == (outcome.next, outcome.result, outcome.charged)


@pytest.mark.parametrize(
    ("status", "way"),
    [(400, Disposition.FAILED), (401, Disposition.FAILED), (500, Disposition.RETRY), (429, Disposition.RATE_LIMITED)],
)
def test_a_callables_error_status_is_read_as_our_own_but_stops_nobody_else(status, way):
    """
    It may have another key, so its 401 ends its own request.
    """
    bench = Bench()

    class Problem(Exception):
        status_code = status

    raised = Problem("told")

    def fail():
        raise raised

    call = Call(fail, bench)

    outcome = bench.attempt(bench.request(call=call))

    assert way is outcome.next
    assert status == outcome.error.status_code
    assert raised is outcome.error.__cause__
    assert (None, raised) == call.ending(None, outcome.error)


def test_a_callables_own_error_ends_its_request_and_is_paid_for():
    bench = Bench()

    def fail():
        raise ValueError("mine")

    request = bench.request(call=Call(fail, bench))
    outcome = bench.attempt(request)

    assert (Disposition.FAILED, TokenCost(10, 20), 1) == (outcome.next, outcome.charged, outcome.error.attempts)
    assert (request.id, "mine") == (outcome.error.request_id, outcome.error.custom_id)
    assert (30, 0) == bench.accounting()[0]


def test_a_callables_lost_connection_is_retried_as_ours():
    bench = Bench()

    def fail():
        raise ConnectionRefusedError("nobody")

    outcome = bench.attempt(bench.request(call=Call(fail, bench)))

    assert (Disposition.RETRY, TokenCost(0)) == (outcome.next, outcome.charged)
    assert (0, 30) == bench.accounting()[0]


def test_the_head_of_a_stream_teaches_the_limits_that_others_wait_for():
    """
    With limits unknown, one request goes first; its reader may be the one who waits, so its lease ends at the head.
    """
    bench = Bench(limits=None)
    headers = {"x-ratelimit-limit-tokens": "8000", "x-ratelimit-remaining-tokens": "7000"}
    headers |= {"x-ratelimit-reset-tokens": "7.5s"}
    size = PromptSize(10, 20, is_exact=True)
    seen = []

    def read():
        seen.append(bench.meter.blocks(size, bench.clock.now_ns()))
        current_call(bench).begun(headers)
        seen.append(bench.meter.blocks(size, bench.clock.now_ns()))
        return {"usage": ANSWER["usage"], "headers": {"x-ratelimit-limit-tokens": "1"}}

    outcome = bench.attempt(bench.request(call=Call(read, bench)))

    assert ["learning", None] == [blocked and blocked.reason for blocked in seen]
    assert Disposition.DONE is outcome.next
    assert [("TPM", 8_000)] == [
        (level.dimension, level.limit) for level in bench.meter.levels(bench.clock.now_ns()) if level.dimension == "TPM"
    ]


def test_the_head_of_a_stream_leaves_the_lease_alone_if_nobody_learns():
    bench = Bench()
    open_then = []

    def read():
        current_call(bench).begun({})
        open_then.append(bench.meter.accounting()["RPM"])
        return {"usage": ANSWER["usage"]}

    outcome = bench.attempt(bench.request(call=Call(read, bench)))

    assert [(1, 0, 0, 1)] == open_then
    assert TokenCost(6, 3) == outcome.charged


def test_an_error_of_the_server_is_what_its_status_says():
    bench = Bench(Answer(502, b"<html>bad gateway</html>", {"x-request-id": "req_1"}))

    error = bench.attempt(bench.request()).error

    assert isinstance(error, InternalServerError)
    assert (502, "req_1") == (error.status_code, error.server_request_id)
    assert "bad gateway" in str(error)

"""What may have been billed: it is booked, counted against every limit, and repeated only so often."""

from __future__ import annotations

import pytest

from groq_queue.core.token_estimate import TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.callables import Call
from groq_queue.errors import APIConnectionError, AuthenticationError
from tests.conftest import PATIENCE_S
from tests.engine.test_engine_attempt import Answer, Bench

WORKED = [408, 500, 502, 504, 506, 507, 508, 510, 520, 524, 540, 561, 598, 599]
IDLE = [409, 425, 498, 503, 521, 522, 523, 525, 526, 529, 530]


def attempts_of(bench, request):
    """Run attempts until the last; return their outcomes."""
    outcomes = [bench.attempt(request)]
    while outcomes[-1].next is Disposition.RETRY:
        outcomes.append(bench.attempt(request))
    return outcomes


@pytest.mark.parametrize("status", WORKED)
def test_an_error_after_which_the_work_may_have_been_done_is_booked_and_repeated_twice(status):
    """
    A gateway that gave up does not know what the server behind it did.
    """
    bench = Bench(*[Answer(status, {})] * 3)
    request = bench.request()

    outcomes = attempts_of(bench, request)

    assert [TokenCost(10, 20)] * 3 == [outcome.charged for outcome in outcomes]
    assert [Disposition.RETRY, Disposition.RETRY, Disposition.FAILED] == [outcome.next for outcome in outcomes]
    assert [1, 2, 3] == [outcome.error.attempts for outcome in outcomes]
    assert (90, 0) == bench.accounting()[0]


@pytest.mark.parametrize("status", IDLE)
def test_an_error_before_any_work_costs_no_money_and_is_retried_as_often_as_allowed(status):
    bench = Bench(*[Answer(status, {})] * 6)

    outcomes = attempts_of(bench, bench.request())

    assert [TokenCost(0)] * 6 == [outcome.charged for outcome in outcomes]
    assert [1, 2, 3, 4, 5, 6] == [outcome.error.attempts for outcome in outcomes]


def test_repeats_of_what_may_have_been_billed_are_counted_together_whatever_went_wrong():
    """
    A reset, a gateway's time-out and half an answer are three attempts that may have been billed.
    """
    bench = Bench(APIConnectionError("reset", sent="unknown"), Answer(504, {}), Answer(body=b'{"cho'))

    outcomes = attempts_of(bench, bench.request())

    assert [Disposition.RETRY, Disposition.RETRY, Disposition.FAILED] == [outcome.next for outcome in outcomes]
    assert [TokenCost(10, 20)] * 3 == [outcome.charged for outcome in outcomes]


def test_fewer_retries_than_repeats_are_the_bound():
    bench = Bench(*[Answer(504, {})] * 2, max_retries=1)

    assert [Disposition.RETRY, Disposition.FAILED] == [outcome.next for outcome in attempts_of(bench, bench.request())]


def test_a_callables_gateway_error_is_booked_too():
    bench = Bench()

    class Problem(Exception):
        status_code = 504

    def fail():
        raise Problem

    outcomes = attempts_of(bench, bench.request(call=Call(fail, bench)))

    assert [TokenCost(10, 20)] * 3 == [outcome.charged for outcome in outcomes]


@pytest.mark.parametrize("body", [b"<html>login</html>", b"OK", b"[]", b"17", b'"yes"', b"\x00\x01"])
def test_what_is_no_object_at_all_is_said_to_everybody_and_bought_once(body):
    """
    Such as the page of a web interface at a base_url that lacks its path.
    """
    bench = Bench(Answer(body=body))

    outcome = bench.attempt(bench.request())

    assert (Disposition.FAILED, TokenCost(10, 20), 1) == (outcome.next, outcome.charged, outcome.error.attempts)


# -- a kept connection that the server was closing


def stale():
    error = APIConnectionError("closed", sent="unknown")
    error.is_stale = True
    return error


def test_a_request_that_met_a_closing_connection_is_sent_again_at_once_even_without_retries():
    """
    It may have been read all the same, so it is an attempt like any other: leased, booked, counted.
    """
    bench = Bench(stale(), Answer(), max_retries=0)
    request = bench.request()

    first, second = bench.attempt(request), bench.attempt(request)

    assert (Disposition.RETRY, 0, TokenCost(10, 20)) == (first.next, first.wait_ns, first.charged)
    assert (Disposition.DONE, 2) == (second.next, second.result.attempts)
    assert (0, 0) == (request.retries, request.unknown)
    assert (2, 0) == bench.accounting()[1]


def test_a_second_closing_connection_is_a_lost_one():
    """
    A server that reads every second request of a connection and hangs up costs two sends, not more.
    """
    bench = Bench(stale(), stale(), max_retries=0)
    request = bench.request()

    assert [Disposition.RETRY, Disposition.FAILED] == [bench.attempt(request).next for _ in range(2)]
    assert 1 == request.unknown


def test_whoever_is_ended_by_anothers_rejected_key_is_told_how_often_it_was_sent_itself(stage):
    """
    Not how often that other one was.
    """
    made = stage(max_workers=1)
    made.hold()

    def reject(request):
        error = AuthenticationError("no", status_code=401)
        error.attempts = request.attempts
        return Outcome(Disposition.STOP_ALL, error=error)

    made.script = reject
    sent, waiting = made.submit("sent"), made.submit("waiting")
    made.wait_for_sends(1)
    made.release()

    assert [1, 0] == [future.exception(PATIENCE_S).attempts for future in (sent, waiting)]
    assert "waiting" == waiting.exception(0).custom_id
